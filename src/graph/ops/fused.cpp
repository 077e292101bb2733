// Operators of the domain ai.lathe, which fusion makes. Images are channels-last: [N, H, W, C].
#include <algorithm>

#include "graph/ops/attention.h"
#include "graph/ops/channels_last.h"
#include "graph/ops/epilogue.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void infer_conv(InferContext& c) {
  c.expect_rank(1, 4, 4);
  if (!c.shape(1)) return c.set_output(0, product_type(c));
  const Shape& w = *c.shape(1);
  auto y = conv_shape(c);
  check_epilogue(c, w[0], y);
  if (c.has_input(4)) {
    check_model(w[2] == 1 && w[3] == 1 && c.node().get_int("group") == 1, "a factor per channel needs a 1×1 convolution of one group, found weight {}", to_string(w));
    check_model(c.dtype(4) == c.dtype(0) || c.dtype(4) == DType::kUndefined, "the factor per channel is {}, expected {}", name_of(c.dtype(4)),
                name_of(c.dtype(0)));
    if (c.shape(0) && c.shape(4) && is_static(*c.shape(0)) && is_static(*c.shape(4)))
      check_model(*c.shape(4) == Shape{(*c.shape(0))[0], 1, 1, (*c.shape(0))[3]}, "the factor per channel has shape {} for {}", to_string(*c.shape(4)),
                  to_string(*c.shape(0)));
  }
  c.set_output(0, product_type(c), y);
}

void infer_planar_conv(InferContext& c) {
  c.expect_rank(0, 4, 4);
  c.expect_rank(1, 4, 4);
  const DType to = product_type(c);
  if (!c.shape(1)) return c.set_output(0, to);
  const Shape& w = *c.shape(1);
  auto y = conv_shape(c, true);
  for (size_t i : {1, 3}) check_model(c.node().get_ints("pads")[i] >= 0, "pads hold {} beside the rows", c.node().get_ints("pads")[i]);
  if (c.has_input(2) && c.shape(2)) check_model(*c.shape(2) == Shape{w[0]}, "bias has shape {} for {} channels", to_string(*c.shape(2)), w[0]);
  c.set_output(0, to, y);
}

void infer_conv_transpose(InferContext& c) {
  c.expect_rank(0, 4, 4);
  c.expect_rank(1, 4, 4);
  const Node& n = c.node();
  const Ints &pads = n.get_ints("pads"), &strides = n.get_ints("strides"), &dilations = n.get_ints("dilations"), &extra = n.get_ints("output_padding");
  check_window("pads", pads, 4, 0);
  check_window("strides", strides, 2, 1);
  check_window("dilations", dilations, 2, 1);
  check_window("output_padding", extra, 2, 0);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, c.dtype(0));
  const Shape &x = *c.shape(0), &w = *c.shape(1);
  check_window("the window", {w[2], w[3]}, 2, 1);
  check_model(x[3] < 0 || x[3] == w[0], "input {} does not have the channels of weight {}", to_string(x), to_string(w));
  if (c.has_input(2) && c.shape(2)) check_model(*c.shape(2) == Shape{w[1]}, "bias has shape {} for {} channels", to_string(*c.shape(2)), w[1]);
  Shape y{x[0], kUnknownDim, kUnknownDim, w[1]};
  for (int i = 0; i < 2; ++i) {
    if (x[i + 1] < 0) continue;
    check_model(x[i + 1] >= 1 && x[i + 1] <= (int64_t{1} << 61) / kMaxWindowNumber, "an axis of size {} cannot be enlarged", x[i + 1]);
    y[i + 1] = (x[i + 1] - 1) * strides[i] + (w[i + 2] - 1) * dilations[i] + 1 + extra[i] - pads[i] - pads[i + 2];
    check_model(y[i + 1] >= 1, "pads leave nothing of axis {}", i + 1);
  }
  c.set_output(0, c.dtype(0), y);
}

int64_t conv_transpose_macs(const Graph& g, const Node& n) {
  const Shape& w = *g[n.inputs[1]].shape;
  return element_count(*g[n.inputs[0]].shape) * w[1] * w[2] * w[3];
}

void infer_expand_depthwise(InferContext& c) {
  c.expect_rank(1, 4, 4);
  c.expect_rank(3, 4, 4);
  if (!c.shape(1) || !c.shape(3)) return c.set_output(0, product_type(c));
  const Shape &expand = *c.shape(1), &w = *c.shape(3);
  check_model(expand[2] == 1 && expand[3] == 1 && w[1] == 1 && w[0] == expand[0], "weights {} and {} are not of a 1×1 and a depthwise convolution",
              to_string(expand), to_string(w));
  for (size_t i : {2, 4})
    if (c.has_input(i) && c.shape(i)) check_model(*c.shape(i) == Shape{w[0]}, "bias has shape {} for {} channels", to_string(*c.shape(i)), w[0]);
  auto y = window_shape(c, {w[2], w[3]}, {1, 1}, w[0]);
  for (int64_t p : c.node().get_ints("pads")) check_model(p >= 0, "pads hold {}", p);
  if (c.shape(0) && (*c.shape(0))[3] >= 0)
    check_model((*c.shape(0))[3] == expand[1], "input {} does not have the channels of weight {}", to_string(*c.shape(0)), to_string(expand));
  c.set_output(0, product_type(c), y);
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
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, product_type(c));
  Shape y = *c.shape(0);
  c.expect_rank(1, 2, 2);
  const bool transposed = c.node().get_int("transposed") != 0;
  const Shape& w = *c.shape(1);
  check_model(!y.empty() && y.back() == w[transposed], "cannot multiply {} by {}{}", to_string(y), to_string(w), transposed ? " transposed" : "");
  y.back() = w[!transposed];
  check_epilogue(c, y.back(), y);
  c.set_output(0, product_type(c), y);
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
  if (!c.shape(0)) return c.set_output(0, c.dtype(0));
  Shape y = *c.shape(0);
  const int64_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(y.size())), group = c.node().get_int("group");
  const size_t parts = c.node().inputs.size();
  if (parts > 1) {
    check_model(static_cast<int64_t>(parts) == group, "{} groups cannot be shuffled in {}", parts, group);
    for (size_t i = 1; i < parts; ++i)
      check_model(c.dtype(i) == c.dtype(0) && c.shape(i) && *c.shape(i) == y, "group {} is not like the first, {}", i, to_string(y));
    check_model(y[axis] >= 0 && y[axis] <= kMaxDimension / group, "{} groups of {} are too large", group, to_string(y));
    y[axis] *= group;
  }
  check_model(group >= 1 && y[axis] % group == 0, "{} cannot form {} groups along axis {}", to_string(y), group, axis);
  c.set_output(0, c.dtype(0), y);
}

void infer_wave(InferContext& c) {
  if (c.shape(0)) {
    const Shape& x = *c.shape(0);
    const int64_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(x.size())), channels = x[axis];
    check_model(channels < 0 || channels % 2 == 0, "{} channels are no pairs", channels);
    check_model(!c.shape(1) || *c.shape(1) == x, "phases {} of amplitudes {}", c.shape(1) ? to_string(*c.shape(1)) : "", to_string(x));
    Shape one = x;
    one[axis] = 1;
    check_model(!c.shape(2) || *c.shape(2) == one, "strongest channels {}, expected {}", c.shape(2) ? to_string(*c.shape(2)) : "", to_string(one));
    for (size_t i : {3, 4}) check_model(!c.shape(i) || channels < 0 || *c.shape(i) == Shape{channels / 2}, "{} numbers for {} channels", c.shape(i) ? to_string(*c.shape(i)) : "", channels);
  }
  infer::same_as_first(c);
}

// Files may hold any numbers: what a view reaches is checked without a product that overflows.
void check_view(const char* what, const HeadView& view, const Shape& sizes, const std::optional<Shape>& shape) {
  int64_t last = view.offset;
  const int64_t steps[3] = {view.batch, view.head, view.row};
  check_model(last >= 0 && last <= kMaxTensorBytes, "{} begins at {}", what, last);
  for (int i = 0; i < 3; ++i) {
    check_model(steps[i] >= 0 && steps[i] <= kMaxTensorBytes / sizes[i], "{} has the step {} over {} elements", what, steps[i], sizes[i]);
    last += (sizes[i] - 1) * steps[i];
  }
  last += sizes[3] - 1;
  if (shape && is_static(*shape)) check_model(last < element_count(*shape), "{} ends at element {} of {}", what, last, to_string(*shape));
}

}  // namespace

void check_head_views(const InferContext& c) {
  const Node& n = c.node();
  const AttentionSizes s = fused_attention_sizes(n);
  int64_t elements = 1;
  for (int64_t size : {s.batch, s.query_heads, s.queries, s.keys, std::max(s.head_size, s.value_size)}) {
    check_model(size >= 1 && size <= (int64_t{1} << 62) / elements, "attention over sizes that hold {}", size);
    elements *= size;
  }
  check_model(s.kv_heads >= 1 && s.head_size >= 1 && s.value_size >= 1 && s.query_heads % s.kv_heads == 0,
              "{} query heads of {} cannot share {} key heads of {}", s.query_heads, s.head_size, s.kv_heads, s.value_size);
  const HeadView y = head_view(n, "y_view");
  check_view("q_view", head_view(n, "q_view"), {s.batch, s.query_heads, s.queries, s.head_size}, c.shape(0));
  check_view("k_view", head_view(n, "k_view"), {s.batch, s.kv_heads, s.keys, s.head_size}, c.shape(1));
  check_view("v_view", head_view(n, "v_view"), {s.batch, s.kv_heads, s.keys, s.value_size}, c.shape(2));
  // Every element of the output is written once: the steps are those of its axes in some order.
  std::array<std::pair<int64_t, int64_t>, 3> axes{{{y.batch, s.batch}, {y.head, s.query_heads}, {y.row, s.queries}}};
  std::sort(axes.begin(), axes.end());
  int64_t step = s.value_size;
  for (auto [given, size] : axes) {
    if (size == 1) continue;
    check_model(given == step, "y_view has the step {}, expected {}", given, step);
    step *= size;
  }
  const Shape& shape = n.get_ints("y_shape");
  check_model(y.offset == 0 && is_static(shape) && element_count(shape) == step, "y_shape {} does not hold {} elements", to_string(shape), step);
}

namespace {

void infer_fused_attention(InferContext& c) {
  check_head_views(c);
  c.set_output(0, c.dtype(0), c.node().get_ints("y_shape"));
}

int64_t fused_attention_macs(const Graph&, const Node& n) {
  const AttentionSizes s = fused_attention_sizes(n);
  return element_count({s.batch, s.query_heads, s.queries, s.keys, s.head_size + s.value_size});
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
         .attributes = with_output_type(with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{}, true}, {"group", int64_t{1}}})),
         .infer = infer_conv, .macs = conv_macs});
  // X [N, C, H, W], W [O, C, kH, kW], B [O] → [N, oH, oW, O]: the first convolution of a network, which reads the picture
  // as it comes, plane by plane. Negative padding leaves out rows above or below: a strip of the picture (planner/patch_steps.h).
  r.add({.name = "PlanarConv", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = with_output_type(with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{}, true}})),
         .infer = infer_planar_conv, .macs = conv_macs});
  // X [N, H, W, C], W [C, O, kH, kW], B [O] → [N, oH, oW, O]: the standard's of one group.
  r.add({.name = "ConvTranspose", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{}, true}, {"output_padding", Ints{}, true}}),
         .infer = infer_conv_transpose, .macs = conv_transpose_macs});
  // X [N, H, W, C], W1 [E, C, 1, 1], B1 [E], W2 [E, 1, kH, kW], B2 [E] → [N, oH, oW, E]: a 1×1 convolution with its own
  // activation (expand_activation, expand_alpha, expand_beta), then a depthwise one, which the window is of.
  r.add({.name = "ExpandDepthwise", .domain = "ai.lathe", .minimum_inputs = 4, .maximum_inputs = 5,
         .attributes = with_output_type(with_epilogue({{"strides", Ints{}, true}, {"pads", Ints{}, true}, {"dilations", Ints{1, 1}},
                                                       {"expand_activation", std::string()}, {"expand_alpha", 0.0f}, {"expand_beta", 0.0f}})),
         .infer = infer_expand_depthwise, .macs = expand_depthwise_macs});
  // A [..., K], W [K, N] or `transposed` [N, K], B [N], R [..., N] → [..., N]
  r.add({.name = "MatMul", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 4,
         .attributes = with_output_type(with_epilogue({{"transposed", int64_t{0}}})), .infer = infer_matmul, .macs = [](const Graph& g, const Node& n) {
           return element_count(*g[n.outputs[0]].shape) * g[n.inputs[0]].shape->back();
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
  // Attention of the standard on heads that stand inside Q, K and V (HeadView in attention.h) and are written where
  // the next operator wants them: no head is moved by itself. attn_mask broadcasts to [batch, heads, queries, keys].
  r.add({.name = "Attention", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 4,
         .attributes = {{"batch", int64_t{1}, true}, {"q_num_heads", int64_t{1}, true}, {"kv_num_heads", int64_t{1}, true},
                        {"queries", int64_t{1}, true}, {"keys", int64_t{1}, true}, {"head_size", int64_t{1}, true}, {"value_size", int64_t{1}, true},
                        {"q_view", Ints{}, true}, {"k_view", Ints{}, true}, {"v_view", Ints{}, true}, {"y_view", Ints{}, true}, {"y_shape", Ints{}, true},
                        {"is_causal", int64_t{0}}, {"left_window_size", int64_t{-1}}, {"right_window_size", int64_t{-1}},
                        {"scale", 0.0f}, {"softcap", 0.0f}},
         .infer = infer_fused_attention, .macs = fused_attention_macs});
  // A, P [..., K, ...], I [..., 1, ...] (i64), c, d [K/2] → [..., K, ...]: f = A·P + (A·P)[I] along `axis`, whose channels 2k
  // and 2k + 1 are the real and the imaginary part of a number, times c[k] + i·d[k] (SpaRTAN, Pay et al. 2025).
  r.add({.name = "Wave", .domain = "ai.lathe", .minimum_inputs = 5, .maximum_inputs = 5, .attributes = {{"axis", int64_t{1}}}, .infer = infer_wave});
  // Channels c = g·k + i of `axis` move to i·group + g (ShuffleNet, Zhang et al. 2018, section 3.1). One input, or one
  // for each group, all of one shape.
  r.add({.name = "ChannelShuffle", .domain = "ai.lathe", .minimum_inputs = 1, .maximum_inputs = 64, .attributes = {{"axis", int64_t{1}}, {"group", int64_t{1}, true}},
         .infer = infer_shuffle});
}

}  // namespace lathe::ops
