// Fake quantization (graph/ops/quantize.cpp says what the numbers are): gradients past the rounding
// by straight-through estimators (Bengio et al. 2013), and those of learned scales.
//
// With g the gradient of the output, gradients of x are
//   uniform, pact   identity: g; clipped and others: g where low ≤ x/s ≤ high
//   dorefa          g·(1 − tanh²x) / max|tanh x|
//   twn             g
//   ttq             α⁺·g, g, α⁻·g for weights that became α⁺, 0, −α⁻ (Zhu et al. 2017, equation 8)
//   binary, sign    g·f(x): identity 1; clipped |x| ≤ 1; polynomial 2 − 2|x| inside (Liu et al.
//   2018, Bi-Real Net, equation 11); annealed
//                   k·(1 − tanh²(k·x)), k from 1 to 10 with the progress of training
// and of learned numbers
//   uniform   Σ g·(round(x/s) − x/s) inside, g·low, g·high outside, times 1/√(N·high) (Esser et al.
//   2020, LSQ, section 2.2); N: numbers that share s,
//             of one sample where x is `batched`
//   pact      Σ g where x ≥ α
//   ttq       Σ g of the weights that became α⁺; −Σ g of those that became −α⁻
// `pull` λ adds λ·(x − y) to the gradient of x: that of λ/2·Σ(x − y)² with y held, which pulls
// weights to their levels.
#include <cmath>

#include "graph/op.h"
#include "train/lower.h"

namespace lathe {
namespace {

enum class Estimator { kIdentity, kClipped, kPolynomial, kAnnealed };
Estimator estimator_of(const std::string& name) {
  return name == "identity"     ? Estimator::kIdentity
         : name == "polynomial" ? Estimator::kPolynomial
         : name == "annealed"   ? Estimator::kAnnealed
                                : Estimator::kClipped;
}

using Context = torch::autograd::AutogradContext;
using List = torch::autograd::variable_list;

// `t` as `x` lies in memory, which is dense.
at::Tensor like(const at::Tensor& x, const at::Tensor& t) {
  return t.strides() == x.strides() ? t : at::empty_like(x).copy_(t);
}

struct Codes {
  double low, high;
  bool identity, learns_inside;  // x's gradient everywhere; the scale's inside the limits too
  double scale_gradient, pull;
};

// Whole numbers of less than 2^22 by adding what leaves no place for fractions: it vectorizes, and
// rounds half to even.
template <class T>
constexpr T kRounder = sizeof(T) == 4 ? T{12582912} : T{6755399441055744};

template <class T>
T rounded(T q, T low, T high) {
  q = q > low ? q : low;
  q = q < high ? q : high;
  return (q + kRounder<T>)-kRounder<T>;
}

template <class T>
void uniform_row(const T* x, T* y, int64_t count, T scale, const Codes& c) {
  const T low = static_cast<T>(c.low), high = static_cast<T>(c.high);
  for (int64_t i = 0; i < count; ++i) y[i] = scale * rounded(x[i] / scale, low, high);
}

// Returns the gradient of the scale.
template <class T>
double uniform_row_gradient(const T* x, const T* g, T* dx, int64_t count, T scale, const Codes& c) {
  constexpr int64_t kLanes = 16, kPart = 4096;
  const T low = static_cast<T>(c.low), high = static_cast<T>(c.high), outside = c.identity ? 1 : 0,
          inside = c.learns_inside ? 1 : 0, pull = static_cast<T>(c.pull);
  double sum = 0;
  const auto one = [&](int64_t i) {
    const T q = x[i] / scale, r = rounded(q, low, high);
    const bool in = q >= low && q <= high;
    dx[i] = g[i] * (in ? T{1} : outside) + pull * (x[i] - scale * r);
    return g[i] * (in ? inside * (r - q) : r);
  };
  int64_t i = 0;
  while (i + kLanes <= count) {
    T lanes[kLanes] = {};
    for (const int64_t end = std::min(i + kPart, count); i + kLanes <= end; i += kLanes)
      for (int64_t k = 0; k < kLanes; ++k) lanes[k] += one(i + k);
    for (T lane : lanes) sum += static_cast<double>(lane);
  }
  for (; i < count; ++i) sum += static_cast<double>(one(i));
  return sum;
}

// x as rows, one scale each; one row: x may lie in any dense order.
class Uniform : public torch::autograd::Function<Uniform> {
 public:
  static at::Tensor forward(Context* context, const at::Tensor& given, const at::Tensor& scales,
                            std::vector<double> codes) {
    const at::Tensor x =
        scales.numel() == 1 && given.is_non_overlapping_and_dense() ? given : given.contiguous();
    const Codes c = of(codes);
    context->save_for_backward({x, scales});
    context->saved_data["codes"] = std::move(codes);
    if (!x.is_cpu()) {
      const at::Tensor s = beside(scales, x);
      return at::round(at::clamp(x / s, c.low, c.high)) * s;
    }
    at::Tensor y = at::empty_like(x);
    const int64_t rows = scales.numel(), each = rows ? x.numel() / rows : 0;
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "fake_quantize", [&] {
      const at::Tensor s = scales.to(x.scalar_type()).contiguous();
      for (int64_t r = 0; r < rows; ++r)
        uniform_row(x.data_ptr<scalar_t>() + r * each, y.data_ptr<scalar_t>() + r * each, each,
                    s.data_ptr<scalar_t>()[r], c);
    });
    return y;
  }
  static List backward(Context* context, List gradients) {
    const List saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &scales = saved[1], g = like(x, gradients[0]);
    const int64_t rows = scales.numel(), each = rows ? x.numel() / rows : 0;
    const Codes c = of(context->saved_data["codes"].toDoubleVector());
    if (!x.is_cpu()) {
      const at::Tensor s = beside(scales, x), q = x / s, r = at::round(at::clamp(q, c.low, c.high)), in = at::logical_and(q >= c.low, q <= c.high);
      const at::Tensor of_scales = g * at::where(in, (c.learns_inside ? 1.0 : 0.0) * (r - q), r);
      const at::Tensor sums = rows == 1 ? of_scales.sum() : of_scales.reshape({rows, -1}).sum(1);
      return {g * (c.identity ? at::ones_like(x) : in.to(x.scalar_type())) + c.pull * (x - s * r), (sums * c.scale_gradient).reshape(scales.sizes()), at::Tensor()};
    }
    at::Tensor dx = at::empty_like(x), ds = at::empty({scales.numel()}, scales.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "fake_quantize_gradient", [&] {
      const at::Tensor s = scales.contiguous();
      for (int64_t r = 0; r < rows; ++r)
        ds.data_ptr<scalar_t>()[r] = static_cast<scalar_t>(
            c.scale_gradient * uniform_row_gradient(x.data_ptr<scalar_t>() + r * each,
                                                    g.data_ptr<scalar_t>() + r * each,
                                                    dx.data_ptr<scalar_t>() + r * each, each,
                                                    s.data_ptr<scalar_t>()[r], c));
    });
    return {dx, ds.reshape(scales.sizes()), at::Tensor()};
  }

 private:
  // On accelerators, whose kernels are libtorch's: a scale a row, as it is multiplied with rows of x.
  static at::Tensor beside(const at::Tensor& scales, const at::Tensor& x) {
    std::vector<int64_t> shape(static_cast<size_t>(std::max<int64_t>(x.dim(), 1)), 1);
    shape[0] = scales.numel();
    return scales.reshape(shape);
  }
  static Codes of(const std::vector<double>& v) {
    return {v[0], v[1], v[2] != 0, v[3] != 0, v[4], v[5]};
  }
};

at::Tensor sign_of(const at::Tensor& x) { return (x >= 0).to(x.scalar_type()).mul_(2).sub_(1); }

// factor·sign(x), or sign(x) for no factor; it is no subject of gradients.
class Sign : public torch::autograd::Function<Sign> {
 public:
  static at::Tensor forward(Context* context, const at::Tensor& x, const at::Tensor& factor,
                            int64_t estimator, double steepness, double pull) {
    const at::Tensor y = factor.numel() > 0 ? sign_of(x) * factor : sign_of(x);
    context->save_for_backward({x, pull != 0 ? y : at::Tensor()});
    context->saved_data["estimator"] = estimator;
    context->saved_data["steepness"] = steepness;
    context->saved_data["pull"] = pull;
    return y;
  }
  static List backward(Context* context, List gradients) {
    const List saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &g = gradients[0];
    const double k = context->saved_data["steepness"].toDouble(),
                 pull = context->saved_data["pull"].toDouble();
    at::Tensor dx;
    switch (static_cast<Estimator>(context->saved_data["estimator"].toInt())) {
      case Estimator::kIdentity:
        dx = g;
        break;
      case Estimator::kClipped:
        dx = g * (x.abs() <= 1);
        break;
      case Estimator::kPolynomial:
        dx = g * (2 - 2 * x.abs()).clamp_min_(0);
        break;
      case Estimator::kAnnealed: {
        const at::Tensor t = at::tanh(x * k);
        dx = g * (k * (1 - t * t));
        break;
      }
    }
    if (pull != 0) dx = dx + pull * (x - saved[1]);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// y as given, with gradients times `slope`, which is of x's shape.
class Through : public torch::autograd::Function<Through> {
 public:
  static at::Tensor forward(Context* context, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& slope, double pull) {
    context->save_for_backward({slope, pull != 0 ? x - y : at::Tensor()});
    context->saved_data["pull"] = pull;
    return y.clone();
  }
  static List backward(Context* context, List gradients) {
    const List saved = context->get_saved_variables();
    at::Tensor dx = gradients[0] * saved[0];
    const double pull = context->saved_data["pull"].toDouble();
    if (pull != 0) dx = dx + pull * saved[1];
    return {dx, gradients[0], at::Tensor(), at::Tensor()};
  }
};

Tensors fake_quantize(const LowerCall& c) {
  const Node& n = c.node;
  const std::string& family = n.get_string("family");
  const int64_t axis = n.get_int("axis"), bits = n.get_int("bits");
  const double pull = static_cast<double>(n.get_float("pull")),
               levels = std::ldexp(1.0, static_cast<int>(bits));
  const bool is_signed = n.get_int("signed") != 0;
  const Estimator estimator = estimator_of(n.get_string("estimator"));
  if (family == "sign")
    return {Sign::apply(c.in(), at::empty({0}, c.in().options()), static_cast<int64_t>(estimator),
                        std::pow(10.0, c.state.progress), pull)};
  // The axis of entries first.
  const at::Tensor x = axis > 0 ? c.in().transpose(0, axis).contiguous() : c.in();
  const auto back = [&](const at::Tensor& y) {
    return Tensors{axis > 0 ? y.transpose(0, axis) : y};
  };
  const int64_t entries = axis < 0 ? 1 : x.size(0);
  const at::Tensor rows = x.detach().reshape({entries, -1}), magnitude = rows.abs();
  std::vector<int64_t> along(static_cast<size_t>(x.dim()), 1);  // one number an entry, beside x
  if (axis >= 0) along[0] = entries;
  if (family == "uniform" || family == "pact") {
    const double low = is_signed ? 1 - levels / 2 : -static_cast<double>(n.get_int("zero")),
                 high = is_signed ? levels / 2 - 1 : levels - 1 + low;
    const bool pact = family == "pact";
    at::Tensor scale = !c.has(1) ? magnitude.amax(1) / high
                       : pact    ? at::abs(c.in(1)) / high
                                 : at::abs(c.in(1));
    const double numbers =
        static_cast<double>(x.numel()) /
        static_cast<double>(n.get_int("batched") ? std::max<int64_t>(x.size(0), 1) : entries);
    return back(Uniform::apply(
        x, scale,
        std::vector<double>{
            low, high, estimator == Estimator::kIdentity ? 1.0 : 0.0, pact ? 0.0 : 1.0,
            pact ? 1 : 1 / std::sqrt(std::max(numbers * std::max(high, 1.0), 1.0)), pull}));
  }
  if (family == "binary")
    return back(Sign::apply(x, magnitude.mean(1).reshape(along), static_cast<int64_t>(estimator),
                            std::pow(10.0, c.state.progress), pull));
  if (family == "dorefa") {
    const at::Tensor t = at::tanh(x.detach()), most = at::tanh(magnitude.amax(1)).reshape(along),
                     limit = at::where(most > 0, most, at::ones_like(most));
    const at::Tensor y = 2 * at::round((levels - 1) * (t / (2 * limit) + 0.5)) / (levels - 1) - 1;
    return back(Through::apply(x, y, (1 - t * t) / limit, pull));
  }
  if (family == "twn") {
    const at::Tensor over = (magnitude > 0.7 * magnitude.mean(1, true)).to(x.scalar_type());
    const at::Tensor alpha = (magnitude * over).sum(1, true) / over.sum(1, true).clamp_min(1);
    const at::Tensor y = (at::sign(rows) * over * alpha).reshape(x.sizes());
    return back(Through::apply(x, y, at::ones_like(x), pull));
  }
  // ttq: the learned numbers get their gradients through `y`.
  const at::Tensor over = magnitude > 0.05 * magnitude.amax(1, true),
                   positive = (over & (rows > 0)).reshape(x.sizes()),
                   negative = (over & (rows < 0)).reshape(x.sizes());
  const at::Tensor up = at::abs(c.in(1)).reshape(along), down = at::abs(c.in(2)).reshape(along);
  const at::Tensor y = positive * up - negative * down;
  const at::Tensor slope = at::where(
      positive, up.detach().expand_as(x),
      at::where(negative, down.detach().expand_as(x), at::ones_like(rows).reshape(x.sizes())));
  return back(Through::apply(x, y, slope, pull));
}

}  // namespace

void lower_quantize(LoweringRegistry& r) { r.add("FakeQuantize", fake_quantize, kLatheDomain); }

}  // namespace lathe
