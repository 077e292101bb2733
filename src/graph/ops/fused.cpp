// Operators of the domain ai.lathe, which fusion makes. Images are channels-last: [N, H, W, C].
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

// Shared by Conv and MatMul: y = activation(x + R) when residual_first, else activation(x) + R.
// `activation` is the name of an ONNX operator ("" for none); alpha and beta are its parameters (Clip: the
// limits); "GeluTanh" is Gelu with approximate = "tanh".
std::vector<AttributeSpec> with_epilogue(std::vector<AttributeSpec> attributes) {
  attributes.push_back({"activation", std::string()});
  attributes.push_back({"alpha", 0.0f});
  attributes.push_back({"beta", 0.0f});
  attributes.push_back({"residual_first", int64_t{1}});
  return attributes;
}

std::optional<Shape> window_shape(InferContext& c, const Ints& kernel, const Ints& dilations, int64_t channels) {
  if (!c.shape(0)) return std::nullopt;
  c.expect_rank(0, 4, 4);
  const Shape& x = *c.shape(0);
  const Ints &pads = c.node().get_ints("pads"), &strides = c.node().get_ints("strides");
  check_model(pads.size() == 4 && strides.size() == 2, "needs 4 pads and 2 strides");
  Shape y{x[0], kUnknownDim, kUnknownDim, channels};
  for (int i = 0; i < 2; ++i) {
    int64_t reach = (kernel[i] - 1) * dilations[i] + 1;
    if (x[i + 1] < 0) continue;
    y[i + 1] = (x[i + 1] + pads[i] + pads[i + 2] - reach) / strides[i] + 1;
    check_model(y[i + 1] > 0, "the window is larger than the padded input {}", to_string(x));
  }
  return y;
}

void infer_conv(InferContext& c) {
  c.expect_rank(1, 4, 4);
  if (!c.shape(1)) return c.set_output(0, c.dtype(0));
  const Shape& w = *c.shape(1);
  c.set_output(0, c.dtype(0), window_shape(c, {w[2], w[3]}, c.node().get_ints("dilations"), w[0]));
}

void infer_pool(InferContext& c) {
  int64_t channels = c.shape(0) ? (*c.shape(0))[3] : kUnknownDim;
  c.set_output(0, c.dtype(0), window_shape(c, c.node().get_ints("kernel_shape"), {1, 1}, channels));
}

void infer_matmul(InferContext& c) {
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, c.dtype(0));
  Shape y = *c.shape(0);
  c.expect_rank(1, 2, 2);
  check_model(!y.empty() && y.back() == (*c.shape(1))[0], "cannot multiply {} by {}", to_string(y), to_string(*c.shape(1)));
  y.back() = (*c.shape(1))[1];
  c.set_output(0, c.dtype(0), y);
}

int64_t conv_macs(const Graph& g, const Node& n) {
  const Shape& w = *g[n.inputs[1]].shape;
  return element_count(*g[n.outputs[0]].shape) * w[1] * w[2] * w[3];
}

}  // namespace

void declare_fused(OpRegistry& r) {
  // X [N, H, W, C], W [O, C/group, kH, kW], B [O], R [N, oH, oW, O], S [N, 1, 1, C] → [N, oH, oW, O]: the convolution of
  // X·S, the product of a squeeze-and-excite block (Hu et al. 2018, section 3.2).
  r.add({.name = "Conv", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 5,
         .attributes = with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{}, true}, {"group", int64_t{1}}}),
         .infer = infer_conv, .macs = conv_macs});
  // A [..., K], W [K, N], B [N], R [..., N] → [..., N]
  r.add({.name = "MatMul", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 4,
         .attributes = with_epilogue({}), .infer = infer_matmul, .macs = [](const Graph& g, const Node& n) {
           return element_count(*g[n.outputs[0]].shape) * (*g[n.inputs[1]].shape)[0];
         }});
  // X [N, H, W, C] → [N, oH, oW, C]; kind is "Max" or "Average"
  r.add({.name = "Pool", .domain = "ai.lathe",
         .attributes = {{"kind", std::string(), true}, {"kernel_shape", Ints{}, true}, {"strides", Ints{}, true},
                        {"pads", Ints{}, true}, {"count_include_pad", int64_t{0}}},
         .infer = infer_pool});
  // activation(X·scale + shift) along the last axis: X [..., C], scale [C], shift [C]. A batch norm that no
  // convolution before could take.
  r.add({.name = "Affine", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = with_epilogue({}), .infer = infer::same_as_first});
  // Channels c = g·k + i of `axis` move to i·group + g (ShuffleNet, Zhang et al. 2018, section 3.1).
  r.add({.name = "ChannelShuffle", .domain = "ai.lathe", .attributes = {{"axis", int64_t{1}}, {"group", int64_t{1}, true}},
         .infer = infer::same_as_first});
}

}  // namespace lathe::ops
