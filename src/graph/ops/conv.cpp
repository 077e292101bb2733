#include "graph/ops/families.h"
#include "graph/ops/window.h"

namespace lathe::ops {
namespace {

const std::vector<int64_t> kNone;

std::vector<AttributeSpec> with(std::vector<AttributeSpec> base, std::vector<AttributeSpec> more) {
  base.insert(base.end(), more.begin(), more.end());
  return base;
}

std::vector<AttributeSpec> conv_attributes() {
  return {{"auto_pad", std::string("NOTSET")}, {"dilations", kNone}, {"group", int64_t{1}},
          {"kernel_shape", kNone},             {"pads", kNone},      {"strides", kNone}};
}

std::vector<AttributeSpec> pool_attributes() {
  return {{"auto_pad", std::string("NOTSET")}, {"ceil_mode", int64_t{0}}, {"dilations", kNone},
          {"kernel_shape", kNone, true},       {"pads", kNone},           {"strides", kNone}};
}

int64_t group_of(const Node& node) {
  int64_t group = node.get_int("group");
  check_model(group >= 1 && group <= kMaxWindowNumber, "group is {}, expected at least 1", group);
  return group;
}

bool known(int64_t size) { return size != kUnknownDim; }

// The kernel sizes of a weight [M, C/group, k1, ...], checked against kernel_shape.
std::vector<int64_t> kernel_of(const Node& node, const Shape& weight) {
  std::vector<int64_t> kernel(weight.begin() + 2, weight.end());
  const auto& given = node.get_ints("kernel_shape");
  if (given.empty()) return kernel;
  check_model(given.size() == kernel.size(), "kernel_shape has {} entries for a weight of shape {}",
              given.size(), to_string(weight));
  for (size_t i = 0; i < kernel.size(); ++i)
    check_model(!known(kernel[i]) || kernel[i] == given[i], "kernel_shape {} differs from the weight's shape {}",
                to_string(given), to_string(weight));
  return given;
}

void check_bias(InferContext& c, size_t i, int64_t channels) {
  if (!c.has_input(i) || !c.shape(i)) return;
  c.expect_rank(i, 1, 1);
  int64_t size = (*c.shape(i))[0];
  check_model(!known(size) || !known(channels) || size == channels, "bias has {} elements for {} channels", size,
              channels);
}

// Output shape of a convolution of input `x` with weight `w` (input numbers).
std::optional<Shape> conv_shape(InferContext& c, size_t x, size_t w) {
  if (!c.shape(x)) return std::nullopt;
  const Shape& in = *c.shape(x);
  spatial_of(in);  // checks the rank
  if (!c.shape(w)) {
    Shape out(in.size(), kUnknownDim);
    out[0] = in[0];
    return out;
  }
  const Shape& weight = *c.shape(w);
  check_model(weight.size() == in.size(), "weight of shape {} does not match input of shape {}",
              to_string(weight), to_string(in));
  int64_t group = group_of(c.node());
  check_model(!known(in[1]) || !known(weight[1]) || in[1] == weight[1] * group,
              "input of shape {} has {} channels; weight of shape {} with group {} takes {}", to_string(in),
              in[1], to_string(weight), group, weight[1] * group);
  check_model(!known(weight[0]) || weight[0] % group == 0, "{} output channels cannot form {} groups", weight[0],
              group);
  Shape out = {in[0], weight[0]};
  std::vector<int64_t> kernel = kernel_of(c.node(), weight);
  if (!is_static(kernel)) {
    out.resize(in.size(), kUnknownDim);
    return out;
  }
  Window window = resolve_window(spatial_of(in), window_attributes(c.node(), kernel));
  out.insert(out.end(), window.outputs.begin(), window.outputs.end());
  return out;
}

void infer_conv(InferContext& c) {
  auto shape = conv_shape(c, 0, 1);
  check_bias(c, 2, shape ? (*shape)[1] : kUnknownDim);
  c.set_output(0, c.dtype(0), std::move(shape));
}

int64_t conv_macs(const Graph& g, const Node& n, size_t weight_input = 1) {
  const Shape& w = *g[n.inputs[weight_input]].shape;
  return element_count(*g[n.outputs[0]].shape) * product(w, 1, w.size());
}

void infer_conv_transpose(InferContext& c) {
  std::optional<Shape> out;
  if (c.shape(0)) {
    const Shape& in = *c.shape(0);
    Shape spatial = spatial_of(in);
    out = Shape(in.size(), kUnknownDim);
    (*out)[0] = in[0];
    if (c.shape(1)) {
      const Shape& w = *c.shape(1);
      check_model(w.size() == in.size(), "weight of shape {} does not match input of shape {}", to_string(w),
                  to_string(in));
      int64_t group = group_of(c.node());
      check_model(!known(in[1]) || !known(w[0]) || in[1] == w[0],
                  "input of shape {} does not have the channels of weight {}", to_string(in), to_string(w));
      check_model(!known(w[0]) || w[0] % group == 0, "{} input channels cannot form {} groups", w[0], group);
      if (known(w[1])) {
        check_model(w[1] <= kMaxWindowNumber && group <= kMaxWindowNumber, "weight of shape {} is too large",
                    to_string(w));
        (*out)[1] = w[1] * group;
      }
      std::vector<int64_t> kernel = kernel_of(c.node(), w);
      if (is_static(kernel)) {
        std::vector<int64_t> sizes = c.node().get_ints("output_shape");
        // Some exporters give the batch and channel sizes too.
        if (sizes.size() == in.size()) sizes.erase(sizes.begin(), sizes.begin() + 2);
        Window window = resolve_transposed_window(spatial, window_attributes(c.node(), kernel),
                                                  c.node().get_ints("output_padding"), sizes);
        std::copy(window.outputs.begin(), window.outputs.end(), out->begin() + 2);
      }
      check_bias(c, 2, (*out)[1]);
    }
  }
  c.set_output(0, c.dtype(0), std::move(out));
}

void infer_deform_conv(InferContext& c) {
  auto shape = conv_shape(c, 0, 1);
  int64_t groups = c.node().get_int("offset_group");
  check_model(groups >= 1 && groups <= kMaxWindowNumber, "offset_group is {}, expected at least 1", groups);
  if (c.shape(0) && known((*c.shape(0))[1]))
    check_model((*c.shape(0))[1] % groups == 0, "{} channels cannot form {} offset groups", (*c.shape(0))[1], groups);
  check_bias(c, 3, shape ? (*shape)[1] : kUnknownDim);
  if (shape && c.shape(1) && c.shape(2) && is_static(*shape) && is_static(*c.shape(1))) {
    int64_t taps = product(*c.shape(1), 2, c.shape(1)->size());
    for (size_t i : {2, 4}) {
      if (!c.has_input(i) || !c.shape(i) || !is_static(*c.shape(i))) continue;
      Shape expected = *shape;
      expected[1] = groups * taps * (i == 2 ? static_cast<int64_t>(shape->size()) - 2 : 1);
      check_model(*c.shape(i) == expected, "input {} has shape {}, expected {}", i, to_string(*c.shape(i)),
                  to_string(expected));
    }
  }
  c.set_output(0, c.dtype(0), std::move(shape));
}

std::optional<Shape> pool_shape(InferContext& c) {
  if (!c.shape(0)) return std::nullopt;
  const Shape& in = *c.shape(0);
  Window window = resolve_window(spatial_of(in), window_attributes(c.node()));
  Shape out = {in[0], in[1]};
  out.insert(out.end(), window.outputs.begin(), window.outputs.end());
  return out;
}

void infer_pool(InferContext& c) { c.set_output(0, c.dtype(0), pool_shape(c)); }

void infer_max_pool(InferContext& c) {
  auto shape = pool_shape(c);
  c.set_output(1, DType::kI64, shape);
  c.set_output(0, c.dtype(0), std::move(shape));
}

void infer_global_pool(InferContext& c) {
  std::optional<Shape> out = c.shape(0);
  if (out) {
    check_model(out->size() >= 2, "shape {} has no channels: expected [N, C, D1, ...]", to_string(*out));
    std::fill(out->begin() + 2, out->end(), 1);
  }
  c.set_output(0, c.dtype(0), std::move(out));
}

void infer_max_unpool(InferContext& c) {
  std::optional<Shape> out;
  if (c.has_input(2)) {
    if (const Tensor* sizes = c.constant(2)) {
      out = sizes->to_i64();
      if (c.shape(0))
        check_model(out->size() == c.shape(0)->size(), "output_shape has {} entries for an input of shape {}",
                    out->size(), to_string(*c.shape(0)));
      element_count(*out);
    } else if (c.shape(0)) {
      out = Shape(c.shape(0)->size(), kUnknownDim);
    }
  } else if (c.shape(0)) {
    const Shape& in = *c.shape(0);
    Window window = resolve_transposed_window(spatial_of(in), window_attributes(c.node()), {}, {});
    out = Shape{in[0], in[1]};
    out->insert(out->end(), window.outputs.begin(), window.outputs.end());
  }
  c.set_output(0, c.dtype(0), std::move(out));
}

void infer_col2im(InferContext& c) {
  std::optional<Shape> out;
  const Tensor *image = c.constant(1), *block = c.constant(2);
  c.expect_rank(0, 3, 3);
  if (c.shape(0)) {
    const Shape& in = *c.shape(0);
    if (image) {
      Shape sizes = image->to_i64();
      element_count(sizes);
      out = Shape{in[0], kUnknownDim};
      out->insert(out->end(), sizes.begin(), sizes.end());
      if (block) {
        Shape taps = block->to_i64();
        int64_t count = element_count(taps);
        check_model(taps.size() == sizes.size() && count > 0, "block_shape {} does not match image_shape {}",
                    to_string(taps), to_string(sizes));
        if (known(in[1])) {
          check_model(in[1] % count == 0, "{} columns cannot be divided by blocks of {} elements", in[1], count);
          (*out)[1] = in[1] / count;
        }
      }
    } else if (c.shape(1) && c.shape(1)->size() == 1 && known((*c.shape(1))[0])) {
      check_model((*c.shape(1))[0] < 64, "image_shape has {} entries", (*c.shape(1))[0]);
      out = Shape(2 + (*c.shape(1))[0], kUnknownDim);
      (*out)[0] = in[0];
    }
  }
  c.set_output(0, c.dtype(0), std::move(out));
}

void infer_causal_conv(InferContext& c) {
  for (size_t i : {0, 1, 3})
    if (c.has_input(i)) c.expect_rank(i, 3, 3);
  std::optional<Shape> state;
  if (c.shape(0) && c.shape(1)) {
    const Shape &in = *c.shape(0), &w = *c.shape(1);
    check_model((!known(w[0]) || !known(in[1]) || w[0] == in[1]) && (!known(w[1]) || w[1] == 1) && w[2] != 0,
                "weight has shape {}, expected [{}, 1, k]", to_string(w), in[1]);
    state = Shape{in[0], in[1], known(w[2]) ? w[2] - 1 : kUnknownDim};
    check_bias(c, 2, in[1]);
    if (c.has_input(3) && c.shape(3) && is_static(*c.shape(3)) && is_static(*state))
      check_model(*c.shape(3) == *state, "past_state has shape {}, expected {}", to_string(*c.shape(3)),
                  to_string(*state));
  }
  const std::string& activation = c.node().get_string("activation");
  check_model(activation == "none" || activation == "silu" || activation == "swish",
              "activation is '{}', expected none, silu or swish", activation);
  c.set_output(0, c.dtype(0), c.shape(0));
  c.set_output(1, c.dtype(0), std::move(state));
}

}  // namespace

void declare_conv(OpRegistry& r) {
  auto macs = [](const Graph& g, const Node& n) { return conv_macs(g, n); };
  r.add({.name = "Conv", .minimum_inputs = 2, .maximum_inputs = 3, .attributes = conv_attributes(),
         .infer = infer_conv, .macs = macs});
  r.add({.name = "ConvTranspose", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = with(conv_attributes(), {{"output_padding", kNone}, {"output_shape", kNone}}),
         .infer = infer_conv_transpose,
         .macs = [](const Graph& g, const Node& n) {
           const Shape& w = *g[n.inputs[1]].shape;
           return element_count(*g[n.inputs[0]].shape) * product(w, 1, w.size());
         }});
  r.add({.name = "ConvInteger", .minimum_inputs = 2, .maximum_inputs = 4, .attributes = conv_attributes(),
         .infer = [](InferContext& c) { c.set_output(0, DType::kI32, conv_shape(c, 0, 1)); }, .macs = macs});
  r.add({.name = "QLinearConv", .minimum_inputs = 8, .maximum_inputs = 9, .attributes = conv_attributes(),
         .infer = [](InferContext& c) {
           auto shape = conv_shape(c, 0, 3);
           check_bias(c, 8, shape ? (*shape)[1] : kUnknownDim);
           c.set_output(0, c.dtype(7), std::move(shape));
         },
         .macs = [](const Graph& g, const Node& n) { return conv_macs(g, n, 3); }});
  r.add({.name = "DeformConv", .minimum_inputs = 3, .maximum_inputs = 5,
         .attributes = {{"dilations", kNone}, {"group", int64_t{1}}, {"kernel_shape", kNone},
                        {"offset_group", int64_t{1}}, {"pads", kNone}, {"strides", kNone}},
         .infer = infer_deform_conv, .macs = macs});
  r.add({.name = "MaxPool", .maximum_outputs = 2,
         .attributes = with(pool_attributes(), {{"storage_order", int64_t{0}}}), .infer = infer_max_pool});
  r.add({.name = "AveragePool", .attributes = with(pool_attributes(), {{"count_include_pad", int64_t{0}}}),
         .infer = infer_pool});
  r.add({.name = "LpPool", .attributes = with(pool_attributes(), {{"p", int64_t{2}}}), .infer = infer_pool});
  r.add({.name = "GlobalAveragePool", .infer = infer_global_pool});
  r.add({.name = "GlobalMaxPool", .infer = infer_global_pool});
  r.add({.name = "GlobalLpPool", .attributes = {{"p", int64_t{2}}}, .infer = infer_global_pool});
  r.add({.name = "MaxUnpool", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = {{"kernel_shape", kNone, true}, {"pads", kNone}, {"strides", kNone}},
         .infer = infer_max_unpool});
  r.add({.name = "Col2Im", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = {{"dilations", kNone}, {"pads", kNone}, {"strides", kNone}}, .infer = infer_col2im});
  r.add({.name = "CausalConvWithState", .minimum_inputs = 2, .maximum_inputs = 4, .maximum_outputs = 2,
         .attributes = {{"activation", std::string("none")}}, .infer = infer_causal_conv,
         .macs = [](const Graph& g, const Node& n) {
           return element_count(*g[n.outputs[0]].shape) * g[n.inputs[1]].shape->back();
         }});
}

}  // namespace lathe::ops
