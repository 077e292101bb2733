// Norms, softmax and sums along axes.
#include <cmath>

#include "graph/op.h"
#include "train/lower.h"

namespace lathe {
namespace {

// A batch norm, and the limits of an activation behind it, on kernels of our own (train/batch_norm.h).
class LimitedNorm : public torch::autograd::Function<LimitedNorm> {
 public:
  // `moves`: the running statistics are moved by the batch's, of which `fresh` is the part.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& gamma, const at::Tensor& beta, at::Tensor mean, at::Tensor variance, bool batch,
                            bool moves, double fresh, double epsilon, double low, double high) {
    const NormShape s{x.numel() / x.size(1), x.size(1)};
    const auto channels = static_cast<size_t>(s.channels);
    const at::TensorOptions f32 = x.options().memory_format(c10::nullopt);
    at::Tensor middle = at::empty({s.channels}, f32), inverse = at::empty_like(middle), scale = at::empty_like(middle), shift = at::empty_like(middle);
    float *m = middle.data_ptr<float>(), *i = inverse.data_ptr<float>(), *a = scale.data_ptr<float>(), *b = shift.data_ptr<float>();
    std::vector<double> means(channels), variances(channels);
    float *running_mean = mean.data_ptr<float>(), *running_variance = variance.data_ptr<float>();
    if (batch) {
      channel_moments(s, x.data_ptr<float>(), means.data(), variances.data());
    } else {
      std::copy_n(running_mean, channels, means.begin());
      std::copy_n(running_variance, channels, variances.begin());
    }
    const float *g = gamma.data_ptr<float>(), *o = beta.data_ptr<float>();
    for (size_t c = 0; c < channels; ++c) {
      const double inverted = 1 / std::sqrt(variances[c] + epsilon);
      m[c] = static_cast<float>(means[c]), i[c] = static_cast<float>(inverted);
      a[c] = static_cast<float>(g[c] * inverted), b[c] = static_cast<float>(o[c] - means[c] * g[c] * inverted);
      if (!batch || !moves) continue;
      const double unbiased = variances[c] * static_cast<double>(s.rows) / static_cast<double>(s.rows - 1);
      running_mean[c] = static_cast<float>((1 - fresh) * running_mean[c] + fresh * means[c]);
      running_variance[c] = static_cast<float>((1 - fresh) * running_variance[c] + fresh * unbiased);
    }
    const NormLimits limits{static_cast<float>(low), static_cast<float>(high)};
    at::Tensor y = at::empty_like(x);
    scale_channels(s, x.data_ptr<float>(), a, b, limits, y.data_ptr<float>());
    context->save_for_backward({x, gamma, middle, inverse, limits == NormLimits{} ? at::Tensor() : y});
    context->saved_data["batch"] = batch;
    context->saved_data["low"] = low;
    context->saved_data["high"] = high;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &gamma = saved[1], g = gradients[0].contiguous(channels_last(x.dim()));
    const bool batch = context->saved_data["batch"].toBool();
    const NormLimits limits{static_cast<float>(context->saved_data["low"].toDouble()), static_cast<float>(context->saved_data["high"].toDouble())};
    const NormShape s{x.numel() / x.size(1), x.size(1)};
    const auto channels = static_cast<size_t>(s.channels);
    const float *middle = saved[2].data_ptr<float>(), *inverse = saved[3].data_ptr<float>(), *y = (saved[4].defined() ? saved[4] : x).data_ptr<float>();
    std::vector<double> sum(channels), with_x(channels);
    norm_gradient_sums(s, g.data_ptr<float>(), x.data_ptr<float>(), y, limits, middle, sum.data(), with_x.data());
    at::Tensor dx, dgamma = at::empty_like(gamma), dbeta = at::empty_like(gamma);
    for (size_t c = 0; c < channels; ++c) {
      dgamma.data_ptr<float>()[c] = static_cast<float>(with_x[c] * inverse[c]);
      dbeta.data_ptr<float>()[c] = static_cast<float>(sum[c]);
    }
    if (context->needs_input_grad(0)) {
      // γ·σ⁻¹·(g − mean g − x̂·mean(g·x̂)), with the batch's statistics; γ·σ⁻¹·g with others.
      std::vector<float> a(channels), b(channels, 0.0f), rest(channels, 0.0f);
      const auto rows = static_cast<double>(s.rows);
      for (size_t c = 0; c < channels; ++c) {
        const double factor = static_cast<double>(gamma.data_ptr<float>()[c]) * inverse[c];
        a[c] = static_cast<float>(factor);
        if (!batch) continue;
        const double of_x = -factor * inverse[c] * inverse[c] * with_x[c] / rows;
        b[c] = static_cast<float>(of_x), rest[c] = static_cast<float>(-factor * sum[c] / rows - of_x * middle[c]);
      }
      dx = at::empty_like(x);
      norm_input_gradient(s, g.data_ptr<float>(), x.data_ptr<float>(), y, limits, a.data(), b.data(), rest.data(), dx.data_ptr<float>());
    }
    return {dx, dgamma, dbeta, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

Tensors batch_norm(const LowerCall& c) { return {limited_norm(c, {})}; }

// What is normalized, in the type of the weights: behind products in bf16 it may be another.
at::Tensor wide(const LowerCall& c) { return c.in(0).to(c.in(1).scalar_type()); }

Tensors layer_norm(const LowerCall& c) {
  const at::Tensor x = wide(c);
  const int64_t axis = normalize_axis(c.node.get_int("axis"), x.dim());
  const std::vector<int64_t> shape = x.sizes().slice(static_cast<size_t>(axis)).vec();
  const at::Tensor w = c.in(1).expand(shape);
  return {at::layer_norm(x, shape, w, c.has(2) ? c10::optional<at::Tensor>(c.in(2).expand(shape)) : c10::nullopt, c.node.get_float("epsilon"), false)};
}

Tensors instance_norm(const LowerCall& c) {
  return {at::instance_norm(wide(c), c.in(1), c.in(2), {}, {}, true, 0, c.node.get_float("epsilon"), false)};
}

Tensors group_norm(const LowerCall& c) {
  return {at::group_norm(wide(c), c.node.get_int("num_groups"), c.in(1), c.in(2), c.node.get_float("epsilon"), false)};
}

Tensors rms_norm(const LowerCall& c) {
  const at::Tensor& x = c.in(0);
  std::vector<int64_t> axes;
  for (int64_t i = normalize_axis(c.node.get_int("axis"), x.dim()); i < x.dim(); ++i) axes.push_back(i);
  return {x * at::rsqrt((x * x).mean(axes, true) + c.node.get_float("epsilon")) * c.in(1)};
}

Tensors local_response(const LowerCall& c) {
  const int64_t size = c.node.get_int("size"), before = (size - 1) / 2, channels = c.in().size(1);
  const at::Tensor squares = c.in() * c.in();
  at::Tensor sum = at::zeros_like(squares);
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < channels; ++i) {
    const int64_t from = std::max<int64_t>(i - before, 0), to = std::min(i - before + size, channels);
    parts.push_back(squares.narrow(1, from, to - from).sum(1, true));
  }
  return {c.in() * at::pow(at::cat(parts, 1) * (c.node.get_float("alpha") / static_cast<double>(size)) + c.node.get_float("bias"), -static_cast<double>(c.node.get_float("beta")))};
}

struct Axes {
  std::vector<int64_t> list;
  bool keep;
  bool nothing;  // no axes, and that means none
};
Axes axes_of(const LowerCall& c) {
  Axes a{c.has(1) ? c.ints(1) : std::vector<int64_t>(), c.node.get_int("keepdims") != 0, false};
  if (a.list.empty()) {
    a.nothing = c.node.get_int("noop_with_empty_axes") != 0;
    for (int64_t i = 0; i < c.in().dim(); ++i) a.list.push_back(i);
  }
  return a;
}

template <auto kReduce>
Tensors reduce(const LowerCall& c) {
  const Axes a = axes_of(c);
  if (a.nothing) return {c.in()};
  return {kReduce(c.in(), a.list, a.keep)};
}
at::Tensor mean(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return x.mean(axes, keep); }
at::Tensor sum(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return x.sum(axes, keep); }
at::Tensor most(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::amax(x, axes, keep); }
at::Tensor least(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::amin(x, axes, keep); }
at::Tensor length(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::sqrt((x * x).sum(axes, keep)); }
at::Tensor squares(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return (x * x).sum(axes, keep); }

Tensors arg_most(const LowerCall& c) {
  const int64_t axis = c.node.get_int("axis");
  const bool keep = c.node.get_int("keepdims") != 0, last = c.node.get_int("select_last_index") != 0, least = c.node.op->name == "ArgMin";
  const at::Tensor x = last ? c.in().flip({axis}) : c.in();
  // The first of equals: torch does not say which it takes.
  const at::Tensor best = least ? at::amin(x, {axis}, true) : at::amax(x, {axis}, true);
  const at::Tensor hits = at::logical_or(x == best, at::isnan(x.to(at::kDouble))).to(at::kLong);
  at::Tensor index = (at::cumsum(hits, axis) == 0).to(at::kLong).sum({axis}, keep);
  if (last) index = x.size(axis) - 1 - index;
  return {index};
}

}  // namespace

at::Tensor limited_norm(const LowerCall& c, NormLimits limits) {
  const at::Tensor& x = c.in(0);
  // The standard's momentum is what is kept, torch's what is new.
  const double fresh = 1 - static_cast<double>(c.node.get_float("momentum")), epsilon = c.node.get_float("epsilon");
  if (own_kernels_take(x) && own_kernels_take(c.in(1)) && own_kernels_take(c.in(3)) && x.is_contiguous(channels_last(x.dim())) && x.stride(1) == 1 && x.size(1) % 8 == 0 && x.numel() > x.size(1))
    return LimitedNorm::apply(x, c.in(1), c.in(2), c.in(3), c.in(4), c.state.batch_statistics, !c.state.again, fresh, epsilon, static_cast<double>(limits.low), static_cast<double>(limits.high));
  const at::Tensor mean = c.state.again ? c.in(3).clone() : c.in(3), variance = c.state.again ? c.in(4).clone() : c.in(4);
  const at::Tensor y = at::batch_norm(x, c.in(1), c.in(2), mean, variance, c.state.batch_statistics, fresh, epsilon, false);
  return limited(y, limits);
}

void lower_norms(LoweringRegistry& r) {
  r.add("BatchNormalization", batch_norm);
  r.add("LayerNormalization", layer_norm);
  r.add("InstanceNormalization", instance_norm);
  r.add("GroupNormalization", group_norm);
  r.add("RMSNormalization", rms_norm);
  r.add("LRN", local_response);
  r.add("Softmax", +[](const LowerCall& c) { return Tensors{at::softmax(c.in(), c.node.get_int("axis"))}; });
  r.add("LogSoftmax", +[](const LowerCall& c) { return Tensors{at::log_softmax(c.in(), c.node.get_int("axis"))}; });
  r.add("ReduceMean", reduce<mean>);
  r.add("ReduceSum", reduce<sum>);
  r.add("ReduceMax", reduce<most>);
  r.add("ReduceMin", reduce<least>);
  r.add("ReduceL2", reduce<length>);
  r.add("ReduceSumSquare", reduce<squares>);
  r.add("ArgMax", arg_most);
  r.add("ArgMin", arg_most);
}

}  // namespace lathe
