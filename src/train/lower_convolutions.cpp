// Convolutions, with batch norms in Tune's mode too, and pooling.
#include <atomic>

#include "graph/op.h"
#include "graph/ops/window.h"
#include "kernels/convolution.h"
#include "train/blocks.h"
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

bool is_depthwise(const at::Tensor& x, const at::Tensor& w, int64_t groups) { return w.dim() == 4 && w.size(1) == 1 && w.size(0) == x.size(1) && groups == x.size(1); }

// Gradients of depthwise convolutions by kernels of our own (train/depthwise.h), which take channels in multiples of 8, channels last.
// `window`: strides, pads as in ONNX, dilations.
class DepthwiseGradients {
 public:
  DepthwiseGradients(const at::Tensor& x, const at::Tensor& w, const std::vector<int64_t>& window)
      : s_{x.size(0), x.size(2), x.size(3), x.size(1), 0, 0, w.size(2), w.size(3), window[0], window[1], window[2], window[3], window[6], window[7]} {
    s_.out_height = (s_.height + window[2] + window[4] - (s_.kernel_h - 1) * s_.dilation_h - 1) / s_.stride_h + 1;
    s_.out_width = (s_.width + window[3] + window[5] - (s_.kernel_w - 1) * s_.dilation_w - 1) / s_.stride_w + 1;
  }
  at::Tensor input(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& gradient) const {
    at::Tensor dx = at::empty_like(x);
    depthwise_input_gradient(s_, gradient.data_ptr<float>(), weight.reshape({weight.size(0), -1}).t().contiguous().data_ptr<float>(), dx.data_ptr<float>());
    return dx;
  }
  at::Tensor weights(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& gradient) const {
    at::Tensor taps = at::empty({s_.kernel_h * s_.kernel_w, s_.channels}, x.options().memory_format(c10::nullopt));
    depthwise_weight_gradient(s_, x.data_ptr<float>(), gradient.data_ptr<float>(), taps.data_ptr<float>());
    return taps.t().reshape(weight.sizes());
  }

 private:
  DepthwiseShape s_;
};

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
    const DepthwiseGradients own(x, weight, context->saved_data["window"].toIntVector());
    at::Tensor dx, dw;
    if (context->needs_input_grad(0)) dx = own.input(x, weight, g);
    if (context->needs_input_grad(1)) dw = own.weights(x, weight, g);
    return {dx, dw, at::Tensor()};
  }
};

// Strides, pads and dilations of all axes, as autograd keeps them.
std::vector<int64_t> listed(const ops::Window& w) {
  std::vector<int64_t> all = w.strides;
  for (const std::vector<int64_t>* part : {&w.begin, &w.end, &w.dilations}) all.insert(all.end(), part->begin(), part->end());
  return all;
}

Tensors conv(const LowerCall& c) {
  at::Tensor x = c.in(0);
  const at::Tensor& w = c.in(1);
  const size_t axes = static_cast<size_t>(w.dim()) - 2;
  const ops::Window window = window_of(c, w.sizes().slice(2).vec());
  const std::vector<int64_t>&strides = window.strides, &dilations = window.dilations;
  std::vector<int64_t> pads = pads_of(window);
  if (is_depthwise(x, w, c.node.get_int("group")) && x.size(1) % 8 == 0 && own_kernels_take(x) && own_kernels_take(w)) {
    const at::Tensor y = Depthwise::apply(x, w, listed(window));
    return {c.has(2) ? y + c.in(2).reshape({1, -1, 1, 1}) : y};
  }
  if (!symmetric(pads)) {
    x = padded(x, pads, 0);
    std::fill(pads.begin(), pads.end(), 0);
  }
  pads.resize(axes);
  return {at::convolution(x, w, c.has(2) ? c.in(2) : at::Tensor(), strides, pads, dilations, false, std::vector<int64_t>(axes, 0), c.node.get_int("group"))};
}

// Convolution and batch norm in Tune's mode, and the limits of an activation behind them, in one: (c·ω) ⊛ x + c·(b − μ) + β with
// c = γ/√(σ² + ε). Keeps x and, for limits, the output, which the next node keeps too: neither what lies between nor c·ω.
class TunedConvolution : public torch::autograd::Function<TunedConvolution> {
 public:
  // What autograd is not asked about.
  struct Call : torch::CustomClassHolder {
    ConvolutionShape shape;
    std::vector<int64_t> window;  // as listed()
    double epsilon = 0;
    NormLimits limits;
    bool depthwise = false;
    const FastConvolution* run = nullptr;
  };

  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const at::Tensor& gamma, const at::Tensor& beta,
                            const at::Tensor& mean, const at::Tensor& variance, const c10::intrusive_ptr<Call>& call) {
    bool finite = true;
    const at::Tensor c = factors(gamma, variance, call->epsilon), shift = (b - mean) * c + beta, scaled = by_rows(w, c, &finite);
    at::Tensor y = at::empty(call->shape.output, x.options().memory_format(channels_last(x.dim())));
    // oneDNN's limits make numbers of NaN: what diverged is told by weights that are none.
    NormLimits behind;
    const FastConvolution* run = call->run;
    if (call->limits != behind && !(finite && at::isfinite(shift).all().item<bool>())) {
      ConvolutionShape open = call->shape;
      open.low = behind.low, open.high = behind.high;
      run = fast_convolution(open, !call->depthwise);
      behind = call->limits;
    }
    require(run != nullptr, "no kernel without limits where there is one with them");
    run->forward(x.data_ptr<float>(), scaled.data_ptr<float>(), shift.data_ptr<float>(), y.data_ptr<float>());
    y = limited(y, behind);
    context->save_for_backward({x, w, b, gamma, mean, variance, call->limits == NormLimits{} ? at::Tensor() : y});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[1], &b = saved[2], &gamma = saved[3], &mean = saved[4], &variance = saved[5], &y = saved[6];
    at::Tensor g = gradients[0].contiguous(channels_last(x.dim()));
    const NormShape rows{g.numel() / g.size(1), g.size(1)};
    at::Tensor inside = y.defined() ? at::empty_like(g) : at::Tensor(), sum = at::empty({g.size(1)}, at::kDouble);
    limited_gradient(rows, g.data_ptr<float>(), y.defined() ? y.data_ptr<float>() : nullptr, call->limits, y.defined() ? inside.data_ptr<float>() : nullptr, sum.data_ptr<double>());
    if (y.defined()) g = inside;
    const at::Tensor c = factors(gamma, variance, call->epsilon), s = sum.to(at::kFloat);
    at::Tensor dx, dw, db, dgamma, dbeta;
    if (context->needs_input_grad(0)) {
      const at::Tensor scaled = by_rows(w, c);
      if (call->depthwise) {
        dx = DepthwiseGradients(x, w, call->window).input(x, scaled, g);
      } else {
        dx = at::empty_like(x);
        call->run->input_gradient(g.data_ptr<float>(), scaled.data_ptr<float>(), dx.data_ptr<float>());
      }
    }
    if (context->needs_input_grad(1) || context->needs_input_grad(3)) {
      if (call->depthwise) {
        dw = DepthwiseGradients(x, w, call->window).weights(x, w, g).contiguous();
      } else {
        dw = at::empty_like(w, at::MemoryFormat::Contiguous);
        call->run->weight_gradient(x.data_ptr<float>(), g.data_ptr<float>(), dw.data_ptr<float>());
      }
      // ∂L/∂c = Σ ω·G + (b − μ)·s and ∂L/∂ω = c·G, with G the gradient of c·ω and s of the sum behind.
      const at::Tensor products = at::empty({w.size(0)}, at::kDouble);
      row_products(w, c, dw, products);
      const at::Tensor of_c = products + (b - mean) * sum;
      if (context->needs_input_grad(3)) dgamma = (of_c * at::rsqrt(variance.to(at::kDouble) + call->epsilon)).to(at::kFloat);
      if (!context->needs_input_grad(1)) dw = at::Tensor();
    }
    if (context->needs_input_grad(2)) db = c * s;
    if (context->needs_input_grad(4)) dbeta = s;
    return {dx, dw, db, dgamma, dbeta, at::Tensor(), at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor factors(const at::Tensor& gamma, const at::Tensor& variance, double epsilon) {
    return (gamma.to(at::kDouble) * at::rsqrt(variance.to(at::kDouble) + epsilon)).to(at::kFloat);
  }
  static at::Tensor by_rows(const at::Tensor& w, const at::Tensor& c, bool* finite = nullptr) {
    at::Tensor scaled = at::empty_like(w, at::MemoryFormat::Contiguous);
    const int64_t n = w.numel() / w.size(0);
    const float *from = w.data_ptr<float>(), *factor = c.data_ptr<float>();
    float* to = scaled.data_ptr<float>();
    std::atomic<bool> all = true;
    over_blocks(w.size(0), 1, kParallelGrain / n + 1, [&](int64_t row, int64_t, int64_t) {
      if (!scale_row(n, from + row * n, factor[row], to + row * n)) all = false;
    });
    if (finite) *finite = all;
    return scaled;
  }
  // Of each row: products = Σ w · g, then g ← c · g.
  static void row_products(const at::Tensor& w, const at::Tensor& c, const at::Tensor& g, const at::Tensor& products) {
    const int64_t n = w.numel() / w.size(0);
    const float *weights = w.data_ptr<float>(), *factor = c.data_ptr<float>();
    float* gradient = g.data_ptr<float>();
    double* sums = products.data_ptr<double>();
    over_blocks(w.size(0), 1, kParallelGrain / n + 1, [&](int64_t row, int64_t, int64_t) { sums[row] = product_and_scale(n, weights + row * n, factor[row], gradient + row * n); });
  }
};

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

at::Tensor tuned_convolution(const LowerCall& c, const LowerCall& norm, NormLimits limits) {
  const at::Tensor& w = c.in(1);
  const Tensors parameters{c.in(0), w, norm.in(1), norm.in(2), norm.in(3), norm.in(4)};
  const bool own = std::all_of(parameters.begin(), parameters.end(), own_kernels_take) && (!c.has(2) || own_kernels_take(c.in(2)));
  if (!own || c.in(0).dim() < 4 || c.in(0).numel() == 0 || w.size(0) % 8 != 0 || !w.is_contiguous() || Autocast::enabled(at::kCPU)) return {};
  const at::Tensor x = c.in(0).contiguous(channels_last(c.in(0).dim()));
  const ops::Window window = window_of(c, w.sizes().slice(2).vec());
  auto call = c10::make_intrusive<TunedConvolution::Call>();
  std::vector<int64_t> output{x.size(0), w.size(0)};
  output.insert(output.end(), window.outputs.begin(), window.outputs.end());
  call->shape = {x.sizes().vec(), w.sizes().vec(), output, window.strides, window.dilations, window.begin, window.end, c.node.get_int("group"), limits.low, limits.high};
  call->window = listed(window);
  call->epsilon = norm.node.get_float("epsilon");
  call->limits = limits;
  call->depthwise = is_depthwise(x, w, call->shape.groups);
  call->run = fast_convolution(call->shape, !call->depthwise);
  if (!call->run) return {};
  return TunedConvolution::apply(x, w, c.has(2) ? c.in(2) : at::zeros_like(norm.in(3)), norm.in(1), norm.in(2), norm.in(3), norm.in(4), call);
}

void lower_convolutions(LoweringRegistry& r) {
  r.add("Conv", conv);
  r.add("ConvTranspose", conv_transpose);
  r.add("MaxPool", max_pool);
  r.add("AveragePool", average_pool);
  r.add("GlobalAveragePool", +[](const LowerCall& c) { return Tensors{c.in().mean(spatial_axes(c.in()), true)}; });
  r.add("GlobalMaxPool", +[](const LowerCall& c) { return Tensors{at::amax(c.in(), spatial_axes(c.in()), true)}; });
}

}  // namespace lathe
