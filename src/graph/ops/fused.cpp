// Operators of the domain ai.lathe, which fusion makes. Images are channels-last: [N, H, W, C].
#include "graph/ops/channels_last.h"
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

// A bias of one element a channel; a residual of the output's type and shape, as kernels add it in place.
void check_epilogue(InferContext& c, int64_t channels, const std::optional<Shape>& y) {
  if (c.has_input(2) && c.shape(2))
    check_model(*c.shape(2) == Shape{channels}, "bias has shape {} for {} channels", to_string(*c.shape(2)), channels);
  if (!c.has_input(3)) return;
  check_model(!c.shape(3) || !y || !is_static(*y) || !is_static(*c.shape(3)) || *c.shape(3) == *y, "residual has shape {}, expected {}",
              c.shape(3) ? to_string(*c.shape(3)) : "", y ? to_string(*y) : "");
  check_model(c.dtype(3) == c.dtype(0) || c.dtype(3) == DType::kUndefined, "residual is {}, expected {}", name_of(c.dtype(3)),
              name_of(c.dtype(0)));
}

void infer_conv(InferContext& c) {
  c.expect_rank(1, 4, 4);
  if (!c.shape(1)) return c.set_output(0, c.dtype(0));
  const Shape& w = *c.shape(1);
  int64_t group = c.node().get_int("group");
  check_model(group >= 1 && group <= kMaxWindowNumber && w[0] % group == 0, "{} channels cannot form {} groups", w[0], group);
  auto y = window_shape(c, {w[2], w[3]}, c.node().get_ints("dilations"), w[0]);
  if (c.shape(0) && (*c.shape(0))[3] >= 0)
    check_model(w[1] <= kMaxTensorBytes && (*c.shape(0))[3] == w[1] * group, "input {} does not have the channels of weight {} in {} groups",
                to_string(*c.shape(0)), to_string(w), group);
  check_epilogue(c, w[0], y);
  if (c.has_input(4)) {
    check_model(w[2] == 1 && w[3] == 1 && group == 1, "a factor per channel needs a 1×1 convolution of one group, found weight {}", to_string(w));
    check_model(c.dtype(4) == c.dtype(0) || c.dtype(4) == DType::kUndefined, "the factor per channel is {}, expected {}", name_of(c.dtype(4)),
                name_of(c.dtype(0)));
    if (c.shape(0) && c.shape(4) && is_static(*c.shape(0)) && is_static(*c.shape(4)))
      check_model(*c.shape(4) == Shape{(*c.shape(0))[0], 1, 1, (*c.shape(0))[3]}, "the factor per channel has shape {} for {}", to_string(*c.shape(4)),
                  to_string(*c.shape(0)));
  }
  c.set_output(0, c.dtype(0), y);
}

void infer_expand_depthwise(InferContext& c) {
  c.expect_rank(1, 4, 4);
  c.expect_rank(3, 4, 4);
  if (!c.shape(1) || !c.shape(3)) return c.set_output(0, c.dtype(0));
  const Shape &expand = *c.shape(1), &w = *c.shape(3);
  check_model(expand[2] == 1 && expand[3] == 1 && w[1] == 1 && w[0] == expand[0], "weights {} and {} are not of a 1×1 and a depthwise convolution",
              to_string(expand), to_string(w));
  for (size_t i : {2, 4})
    if (c.has_input(i) && c.shape(i)) check_model(*c.shape(i) == Shape{w[0]}, "bias has shape {} for {} channels", to_string(*c.shape(i)), w[0]);
  auto y = window_shape(c, {w[2], w[3]}, {1, 1}, w[0]);
  for (int64_t p : c.node().get_ints("pads")) check_model(p >= 0, "pads hold {}", p);
  if (c.shape(0) && (*c.shape(0))[3] >= 0)
    check_model((*c.shape(0))[3] == expand[1], "input {} does not have the channels of weight {}", to_string(*c.shape(0)), to_string(expand));
  c.set_output(0, c.dtype(0), y);
}

int64_t expand_depthwise_macs(const Graph& g, const Node& n) {
  const Shape &x = *g[n.inputs[0]].shape, &w = *g[n.inputs[3]].shape;
  return element_count(x) * w[0] + element_count(*g[n.outputs[0]].shape) * w[2] * w[3];
}

void infer_pool(InferContext& c) {
  c.expect_rank(0, 4, 4);
  const std::string& kind = c.node().get_string("kind");
  check_model(kind == "Max" || kind == "Average", "kind is '{}', expected Max or Average", kind);
  int64_t channels = c.shape(0) ? (*c.shape(0))[3] : kUnknownDim;
  c.set_output(0, c.dtype(0), window_shape(c, c.node().get_ints("kernel_shape"), {1, 1}, channels));
}

void infer_matmul(InferContext& c) {
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, c.dtype(0));
  Shape y = *c.shape(0);
  c.expect_rank(1, 2, 2);
  check_model(!y.empty() && y.back() == (*c.shape(1))[0], "cannot multiply {} by {}", to_string(y), to_string(*c.shape(1)));
  y.back() = (*c.shape(1))[1];
  check_epilogue(c, y.back(), y);
  c.set_output(0, c.dtype(0), y);
}

void infer_affine(InferContext& c) {
  if (c.shape(0)) {
    check_model(!c.shape(0)->empty(), "a scalar has no channels");
    for (size_t i : {1, 2})
      check_model(!c.shape(i) || *c.shape(i) == Shape{c.shape(0)->back()}, "input {} has shape {} for {}", i,
                  c.shape(i) ? to_string(*c.shape(i)) : "", to_string(*c.shape(0)));
  }
  infer::same_as_first(c);
}

void infer_shuffle(InferContext& c) {
  if (c.shape(0)) {
    int64_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(c.shape(0)->size())), group = c.node().get_int("group");
    check_model(group >= 1 && (*c.shape(0))[axis] % group == 0, "{} cannot form {} groups along axis {}", to_string(*c.shape(0)), group, axis);
  }
  infer::same_as_first(c);
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
  // X [N, H, W, C], W1 [E, C, 1, 1], B1 [E], W2 [E, 1, kH, kW], B2 [E] → [N, oH, oW, E]: a 1×1 convolution with its own
  // activation (expand_activation, expand_alpha, expand_beta), then a depthwise one, which the window is of.
  r.add({.name = "ExpandDepthwise", .domain = "ai.lathe", .minimum_inputs = 4, .maximum_inputs = 5,
         .attributes = with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{1, 1}},
                                      {"expand_activation", std::string()}, {"expand_alpha", 0.0f}, {"expand_beta", 0.0f}}),
         .infer = infer_expand_depthwise, .macs = expand_depthwise_macs});
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
         .attributes = with_epilogue({}), .infer = infer_affine});
  // Channels c = g·k + i of `axis` move to i·group + g (ShuffleNet, Zhang et al. 2018, section 3.1).
  r.add({.name = "ChannelShuffle", .domain = "ai.lathe", .attributes = {{"axis", int64_t{1}}, {"group", int64_t{1}, true}},
         .infer = infer_shuffle});
}

}  // namespace lathe::ops
