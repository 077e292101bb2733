// Convolutions and pooling.
#include "graph/op.h"
#include "graph/ops/window.h"
#include "train/depthwise.h"
#include "train/lower.h"

namespace lathe {
namespace {

// [begin of each axis, end of each axis].
std::vector<int64_t> pads_of(const ops::Window& w) {
  std::vector<int64_t> pads = w.begin;
  pads.insert(pads.end(), w.end.begin(), w.end.end());
  return pads;
}

ops::Window window_of(const LowerCall& c, std::vector<int64_t> kernel = {}) {
  return ops::resolve_window(ops::spatial_of(c.in(0).sizes().vec()), ops::window_attributes(c.node, std::move(kernel)));
}

bool symmetric(const std::vector<int64_t>& pads) {
  for (size_t i = 0; i < pads.size() / 2; ++i)
    if (pads[i] != pads[pads.size() / 2 + i]) return false;
  return true;
}

// torch counts pads from the last axis on.
at::Tensor padded(const at::Tensor& x, const std::vector<int64_t>& pads, double value) {
  std::vector<int64_t> from_last;
  const size_t axes = pads.size() / 2;
  for (size_t i = axes; i-- > 0;) {
    from_last.push_back(pads[i]);
    from_last.push_back(pads[axes + i]);
  }
  return at::constant_pad_nd(x, from_last, value);
}

// A depthwise convolution whose gradients are made by kernels of our own (train/depthwise.h).
class Depthwise : public torch::autograd::Function<Depthwise> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& given, const at::Tensor& weight, std::vector<int64_t> window) {
    const at::Tensor x = given.contiguous(at::MemoryFormat::ChannelsLast);
    std::vector<int64_t> strides(window.begin(), window.begin() + 2), pads(window.begin() + 2, window.begin() + 6), dilations(window.begin() + 6, window.end());
    const bool even = symmetric(pads);
    const at::Tensor around = even ? x : padded(x, pads, 0);
    if (even) pads.resize(2);
    else pads = {0, 0};
    const at::Tensor y = at::convolution(around, weight, at::Tensor(), strides, pads, dilations, false, {0, 0}, x.size(1));
    context->save_for_backward({x, weight});
    context->saved_data["window"] = window;
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], g = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const DepthwiseShape s = shape_of(x, weight, context->saved_data["window"].toIntVector());
    at::Tensor dx, dw;
    if (context->needs_input_grad(0)) {
      dx = at::empty_like(x);
      depthwise_input_gradient(s, g.data_ptr<float>(), by_taps(weight).data_ptr<float>(), dx.data_ptr<float>());
    }
    if (context->needs_input_grad(1)) {
      at::Tensor taps = at::empty({s.kernel_h * s.kernel_w, s.channels}, x.options());
      depthwise_weight_gradient(s, x.data_ptr<float>(), g.data_ptr<float>(), taps.data_ptr<float>());
      dw = taps.t().reshape(weight.sizes());
    }
    return {dx, dw, at::Tensor()};
  }

 private:
  static at::Tensor by_taps(const at::Tensor& w) { return w.reshape({w.size(0), -1}).t().contiguous(); }
  // `window`: strides, pads as in ONNX, dilations.
  static DepthwiseShape shape_of(const at::Tensor& x, const at::Tensor& w, const std::vector<int64_t>& window) {
    DepthwiseShape s{x.size(0), x.size(2), x.size(3), x.size(1), 0, 0, w.size(2), w.size(3), window[0], window[1], window[2], window[3], window[6], window[7]};
    s.out_height = (s.height + window[2] + window[4] - (s.kernel_h - 1) * s.dilation_h - 1) / s.stride_h + 1;
    s.out_width = (s.width + window[3] + window[5] - (s.kernel_w - 1) * s.dilation_w - 1) / s.stride_w + 1;
    return s;
  }
};

Tensors conv(const LowerCall& c) {
  at::Tensor x = c.in(0);
  const at::Tensor& w = c.in(1);
  const size_t axes = static_cast<size_t>(w.dim()) - 2;
  const ops::Window window = window_of(c, w.sizes().slice(2).vec());
  const std::vector<int64_t>&strides = window.strides, &dilations = window.dilations;
  std::vector<int64_t> pads = pads_of(window);
  if (axes == 2 && w.size(1) == 1 && w.size(0) == x.size(1) && c.node.get_int("group") == x.size(1) && x.size(1) % 8 == 0 && own_kernels_take(x) && w.scalar_type() == at::kFloat) {
    std::vector<int64_t> all = strides;
    all.insert(all.end(), pads.begin(), pads.end());
    all.insert(all.end(), dilations.begin(), dilations.end());
    const at::Tensor y = Depthwise::apply(x, w, all);
    return {c.has(2) ? y + c.in(2).reshape({1, -1, 1, 1}) : y};
  }
  if (!symmetric(pads)) {
    x = padded(x, pads, 0);
    std::fill(pads.begin(), pads.end(), 0);
  }
  pads.resize(axes);
  return {at::convolution(x, w, c.has(2) ? c.in(2) : at::Tensor(), strides, pads, dilations, false, std::vector<int64_t>(axes, 0), c.node.get_int("group"))};
}

Tensors conv_transpose(const LowerCall& c) {
  const at::Tensor& w = c.in(1);
  const size_t axes = static_cast<size_t>(w.dim()) - 2;
  const ops::Window window = ops::resolve_transposed_window(ops::spatial_of(c.in(0).sizes().vec()), ops::window_attributes(c.node, w.sizes().slice(2).vec()),
                                                            c.node.get_ints("output_padding"), c.node.get_ints("output_shape"));
  // All of the output, then the pads are cut off: they may differ at both ends.
  const std::vector<int64_t> none(axes, 0), extra = ops::window_list(c.node.get_ints("output_padding"), axes, 0, 0, "output_padding");
  at::Tensor y = at::convolution(c.in(0), w, c.has(2) ? c.in(2) : at::Tensor(), window.strides, none, window.dilations, true, extra, c.node.get_int("group"));
  for (size_t i = 0; i < axes; ++i) y = y.narrow(static_cast<int64_t>(2 + i), window.begin[i], window.outputs[i]);
  return {y};
}

// A window of pooling, with pads that reach as far as the last one does: what rounding up adds lies behind the last element.
struct Pooling {
  std::vector<int64_t> kernel, strides, dilations, pads;
  bool inside;  // libtorch takes the pads: the same at both ends, half a window at most
};
Pooling pooling_of(const LowerCall& c) {
  const ops::Window w = window_of(c);
  Pooling p{w.kernel, w.strides, w.dilations, pads_of(w), true};
  const size_t axes = w.kernel.size();
  for (size_t i = 0; i < axes; ++i)
    p.pads[axes + i] = std::max((w.outputs[i] - 1) * w.strides[i] + w.reach(i) - c.in(0).size(static_cast<int64_t>(2 + i)) - w.begin[i], w.end[i]);
  p.inside = symmetric(p.pads);
  for (size_t i = 0; i < axes; ++i) p.inside = p.inside && p.pads[i] <= p.kernel[i] / 2;
  return p;
}

Tensors max_pool(const LowerCall& c) {
  const Pooling w = pooling_of(c);
  const size_t axes = w.kernel.size();
  at::Tensor x = c.in(0);
  std::vector<int64_t> pads(w.pads.begin(), w.pads.begin() + static_cast<std::ptrdiff_t>(axes));
  if (!w.inside) {
    x = padded(x, w.pads, -std::numeric_limits<double>::infinity());
    std::fill(pads.begin(), pads.end(), 0);
  }
  if (axes == 1) return {at::max_pool1d(x, w.kernel, w.strides, pads, w.dilations)};
  if (axes == 2) return {at::max_pool2d(x, w.kernel, w.strides, pads, w.dilations)};
  return {at::max_pool3d(x, w.kernel, w.strides, pads, w.dilations)};
}

Tensors average_pool(const LowerCall& c) {
  const Pooling w = pooling_of(c);
  const size_t axes = w.kernel.size();
  for (int64_t d : w.dilations)
    if (d != 1) fail(ErrorKind::kUnsupported, "{}: AveragePool with dilations cannot be trained", c.node.name);
  const std::vector<int64_t> none(axes, 0);
  const auto pool = [&](const at::Tensor& x, const std::vector<int64_t>& pads, bool count) {
    if (axes == 1) return at::avg_pool1d(x, w.kernel, w.strides, pads, false, count);
    if (axes == 2) return at::avg_pool2d(x, w.kernel, w.strides, pads, false, count);
    return at::avg_pool3d(x, w.kernel, w.strides, pads, false, count);
  };
  const bool count = c.node.get_int("count_include_pad") != 0;
  const std::vector<int64_t> pads(w.pads.begin(), w.pads.begin() + static_cast<std::ptrdiff_t>(axes));
  if (w.inside) return {pool(c.in(0), pads, count)};
  const at::Tensor sums = pool(padded(c.in(0), w.pads, 0), none, true);
  // Means over the elements that count: with pads those that were asked for, without only those of the picture.
  at::Tensor one = at::ones_like(c.in(0).slice(0, 0, 1).slice(1, 0, 1)).detach();
  std::vector<int64_t> rest = w.pads;
  if (count) {
    const std::vector<int64_t> asked = ops::window_list(c.node.get_ints("pads"), 2 * axes, 0, 0, "pads");
    one = padded(one, asked, 1);
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= asked[i];
  }
  return {sums / pool(padded(one, rest, 0), none, true)};
}

std::vector<int64_t> spatial_axes(const at::Tensor& x) {
  std::vector<int64_t> axes;
  for (int64_t i = 2; i < x.dim(); ++i) axes.push_back(i);
  return axes;
}

}  // namespace

void lower_convolutions(LoweringRegistry& r) {
  r.add("Conv", conv);
  r.add("ConvTranspose", conv_transpose);
  r.add("MaxPool", max_pool);
  r.add("AveragePool", average_pool);
  r.add("GlobalAveragePool", +[](const LowerCall& c) { return Tensors{c.in().mean(spatial_axes(c.in()), true)}; });
  r.add("GlobalMaxPool", +[](const LowerCall& c) { return Tensors{at::amax(c.in(), spatial_axes(c.in()), true)}; });
}

}  // namespace lathe
