#include "transform/round_weights.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "graph/op.h"
#include "kernels/kernel.h"
#include "kernels/round_row.h"

namespace lathe {
namespace {

// --- what a network is expected to hold ------------------------------------------------------------

double activated(const ActivationSpec& a, double x) {
  using K = ActivationKind;
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  switch (a.kind) {
    case K::kNone: return x;
    case K::kRelu: return std::max(x, 0.0);
    case K::kClip: return std::min(std::max(x, double{a.alpha}), double{a.beta});
    case K::kLeakyRelu: return x < 0 ? a.alpha * x : x;
    case K::kElu: return x < 0 ? a.alpha * std::expm1(x) : x;
    case K::kHardSigmoid: return std::clamp(a.alpha * x + a.beta, 0.0, 1.0);
    case K::kHardSwish: return x * std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case K::kSigmoid: return sigmoid(x);
    case K::kTanh: return std::tanh(x);
    case K::kSwish: return x * sigmoid(a.alpha * x);
    case K::kGelu: return x * 0.5 * (1 + std::erf(x * M_SQRT1_2));
    case K::kGeluTanh: return x * 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case K::kMish: return x * std::tanh(std::log1p(std::exp(std::min(x, 40.0))));
  }
  return x;
}

// Replaces mean and variance by those after the activation: sums over points of the normal distribution.
void activate(const ActivationSpec& spec, float& mean, float& variance) {
  if (spec.kind == ActivationKind::kNone) return;
  constexpr int kPoints = 8;  // on each side, up to four standard deviations
  static const std::vector<double> weights = [] {
    std::vector<double> w;
    for (int i = -kPoints; i <= kPoints; ++i) w.push_back(std::exp(-0.5 * std::pow(4.0 * i / kPoints, 2)));
    return w;
  }();
  const double deviation = std::sqrt(variance);
  double first = 0, second = 0, total = 0;
  for (int i = -kPoints; i <= kPoints; ++i) {
    const double y = activated(spec, mean + deviation * 4 * i / kPoints), w = weights[i + kPoints];
    first += w * y;
    second += w * y * y;
    total += w;
  }
  mean = static_cast<float>(first / total);
  variance = static_cast<float>(std::max(0.0, second / total - std::pow(first / total, 2)));
}

class Expectation {
 public:
  explicit Expectation(const Graph& g) : g_(g) {}

  std::map<int32_t, Moments> of_all() {
    for (ValueId v : g_.inputs)
      if (const Shape* s = shape(v)) known_[v.index] = uniform(s->back());
    for (NodeId id : g_.order()) follow(g_[id]);
    return std::move(known_);
  }

 private:
  const Shape* shape(ValueId v) const {
    const auto& s = g_[v].shape;
    return g_[v].dtype == DType::kF32 && s && is_static(*s) && !s->empty() && element_count(*s) > 0 ? &*s : nullptr;
  }
  static Moments uniform(int64_t channels) {
    const auto count = static_cast<size_t>(channels);
    return {std::vector<float>(count, 0.0f), std::vector<float>(count, 1.0f)};
  }
  const Moments* known(const Node& n, size_t i) const {
    if (i >= n.inputs.size() || !n.inputs[i]) return nullptr;
    auto it = known_.find(n.inputs[i].index);
    return it == known_.end() ? nullptr : &it->second;
  }
  const float* constant(const Node& n, size_t i) const {
    if (i >= n.inputs.size() || !n.inputs[i]) return nullptr;
    const Value& v = g_[n.inputs[i]];
    return v.is_constant() && v.dtype == DType::kF32 && v.constant.has_elements() ? v.constant.data<float>() : nullptr;
  }

  // Σ w·x + b. Taps of a window see nearly the same in a picture, channels do not: the variance of the sum lies between
  // that of one element seen by all taps and that of independent ones, of which it is the middle.
  std::optional<Moments> product(const Node& n, size_t weights, const Moments& x) const {
    const float *w = constant(n, weights), *bias = constant(n, weights + 1);
    if (!w) return std::nullopt;
    const Shape& s = *g_[n.inputs[weights]].shape;
    const bool columns = n.op->name == "MatMul" && n.get_int("transposed") == 0;
    const int64_t out = columns ? s[1] : s[0], depth = columns ? s[0] : s[1], taps = s.size() == 4 ? s[2] * s[3] : 1;
    const auto channels = static_cast<int64_t>(x.mean.size());
    if (depth == 0 || channels % depth != 0) return std::nullopt;
    const int64_t groups = columns ? 1 : channels / depth;
    Moments y{std::vector<float>(static_cast<size_t>(out)), std::vector<float>(static_cast<size_t>(out))};
    if (columns) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t o = 0; o < out; ++o) {
          const float v = w[k * out + o];
          y.mean[o] += v * x.mean[k];
          y.variance[o] += v * v * x.variance[k];
        }
    } else {
      for (int64_t o = 0; o < out; ++o) {
        const int64_t from = o / std::max<int64_t>(out / groups, 1) * depth;
        float mean = 0, variance = 0;
        if (taps == 1) {  // sums in eight parts, which compilers make vectors of
          constexpr int64_t kParts = 8;
          float means[kParts] = {}, variances[kParts] = {};
          int64_t k = 0;
          for (; k + kParts <= depth; k += kParts)
            for (int64_t i = 0; i < kParts; ++i) {
              means[i] += w[k + i] * x.mean[from + k + i];
              variances[i] += w[k + i] * w[k + i] * x.variance[from + k + i];
            }
          for (; k < depth; ++k) means[0] += w[k] * x.mean[from + k], variances[0] += w[k] * w[k] * x.variance[from + k];
          for (int64_t i = 0; i < kParts; ++i) mean += means[i], variance += variances[i];
          w += depth;
        } else for (int64_t k = 0; k < depth; ++k, w += taps) {
          float sum = 0, squares = 0;
          for (int64_t t = 0; t < taps; ++t) sum += w[t], squares += w[t] * w[t];
          mean += sum * x.mean[from + k];
          variance += 0.5f * (sum * sum + squares) * x.variance[from + k];
        }
        y.mean[o] = mean;
        y.variance[o] = variance;
      }
    }
    if (bias)
      for (int64_t o = 0; o < out; ++o) y.mean[o] += bias[o];
    return y;
  }

  static void add(Moments& to, const Moments& from) {
    for (size_t i = 0; i < to.mean.size(); ++i) to.mean[i] += from.mean[i], to.variance[i] += from.variance[i];
  }
  static void activate_all(Moments& m, const ActivationSpec& spec) {
    for (size_t i = 0; i < m.mean.size(); ++i) activate(spec, m.mean[i], m.variance[i]);
  }

  // Of all inputs, one behind the other.
  std::optional<Moments> joined(const Node& n) const {
    Moments m;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const Moments* part = known(n, i);
      if (!part) return std::nullopt;
      m.mean.insert(m.mean.end(), part->mean.begin(), part->mean.end());
      m.variance.insert(m.variance.end(), part->variance.begin(), part->variance.end());
    }
    return m;
  }

  std::optional<Moments> fused(const Node& n) const {
    const std::string& op = n.op->name;
    if (op == "PlanarConv") {  // reads a network's input, whose channels stand elsewhere
      const Shape* picture = shape(n.inputs[0]);
      std::optional<Moments> y = picture && picture->size() == 4 ? product(n, 1, uniform((*picture)[1])) : std::nullopt;
      if (y) activate_all(*y, activation_of(n));
      return y;
    }
    const Moments* x = known(n, 0);
    if (!x) return std::nullopt;
    if (op == "ExpandDepthwise") {
      std::optional<Moments> y = product(n, 1, *x);
      if (!y) return y;
      activate_all(*y, activation_of(n, "expand_"));
      y = product(n, 3, *y);
      if (y) activate_all(*y, activation_of(n));
      return y;
    }
    if (op == "Conv" || op == "MatMul") {
      const bool residual = n.inputs.size() > 3 && n.inputs[3], first = n.get_int("residual_first") != 0;
      const Moments* r = known(n, 3);
      if (residual && !r) return std::nullopt;
      // A factor per channel (squeeze and excite) scales what is read: by one half, the sigmoid's middle.
      Moments scaled = *x;
      if (n.inputs.size() > 4 && n.inputs[4])
        for (size_t i = 0; i < scaled.mean.size(); ++i) scaled.mean[i] *= 0.5f, scaled.variance[i] *= 0.25f;
      std::optional<Moments> y = product(n, 1, scaled);
      if (!y || (residual && r->mean.size() != y->mean.size())) return std::nullopt;
      if (residual && first) add(*y, *r);
      activate_all(*y, activation_of(n));
      if (residual && !first) add(*y, *r);
      return y;
    }
    if (op == "Affine") {
      const float *scale = constant(n, 1), *shift = constant(n, 2);
      if (!scale || !shift) return std::nullopt;
      Moments y = *x;
      for (size_t i = 0; i < y.mean.size(); ++i) y.mean[i] = y.mean[i] * scale[i] + shift[i], y.variance[i] *= scale[i] * scale[i];
      activate_all(y, activation_of(n));
      return y;
    }
    if (op == "Pool") return *x;
    if (op == "ChannelShuffle") {
      const std::optional<Moments> whole = along_channels(n, *g_[n.inputs[0]].shape) ? joined(n) : std::nullopt;
      if (!whole) return std::nullopt;
      Moments y = *whole;
      const auto groups = static_cast<size_t>(n.get_int("group")), each = y.mean.size() / groups;
      for (size_t i = 0; i < y.mean.size(); ++i) {
        const size_t from = i % groups * each + i / groups;
        y.mean[i] = whole->mean[from];
        y.variance[i] = whole->variance[from];
      }
      return y;
    }
    return std::nullopt;
  }

  // Operators of the standard that keep channels last and apart.
  std::optional<Moments> standard(const Node& n, const Shape& y) const {
    const std::string& op = n.op->name;
    const auto channels = static_cast<size_t>(y.back());
    const Moments* x = known(n, 0);
    if (op == "LayerNormalization") {
      const float *scale = constant(n, 1), *bias = constant(n, 2);
      if (!scale || element_count(*g_[n.inputs[1]].shape) != y.back()) return std::nullopt;
      Moments m = uniform(y.back());
      for (size_t i = 0; i < channels; ++i) m.mean[i] = bias ? bias[i] : 0, m.variance[i] = scale[i] * scale[i];
      return m;
    }
    if (op == "Concat") return along_channels(n, y) ? joined(n) : std::nullopt;
    if (!x) return std::nullopt;
    if (op == "Add") {
      const Moments* other = known(n, 1);
      if (!other || other->mean.size() != channels || x->mean.size() != channels) return std::nullopt;
      Moments m = *x;
      add(m, *other);
      return m;
    }
    if (op == "Transpose") {
      // A network's own input: its channels are all alike.
      return std::find(g_.inputs.begin(), g_.inputs.end(), n.inputs[0]) != g_.inputs.end() ? std::optional(uniform(y.back())) : std::nullopt;
    }
    if (op == "Relu") {
      Moments m = *x;
      activate_all(m, {ActivationKind::kRelu, 0, 0});
      return m;
    }
    const bool keeps = op == "ReduceMean" || op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Resize" || op == "Identity";
    return keeps && x->mean.size() == channels ? std::optional(*x) : std::nullopt;
  }

  static bool along_channels(const Node& n, const Shape& s) {
    const auto rank = static_cast<int64_t>(s.size());
    return normalize_axis(n.get_int("axis"), rank) == rank - 1;
  }

  void split(const Node& n) {
    const Moments* x = known(n, 0);
    if (!x || !along_channels(n, *g_[n.inputs[0]].shape)) return;
    const Moments whole = *x;
    size_t at = 0;
    for (ValueId out : n.outputs) {
      const Shape* part = out ? shape(out) : nullptr;
      if (!part || at + static_cast<size_t>(part->back()) > whole.mean.size()) return;
      const auto from = static_cast<int64_t>(at), to = from + part->back();
      known_[out.index] = {{whole.mean.begin() + from, whole.mean.begin() + to}, {whole.variance.begin() + from, whole.variance.begin() + to}};
      at += static_cast<size_t>(part->back());
    }
  }

  void follow(const Node& n) {
    if (n.op->name == "Split" && n.op->domain.empty()) return split(n);
    if (n.outputs.empty() || !n.outputs[0]) return;
    const Shape* y = shape(n.outputs[0]);
    if (!y) return;
    std::optional<Moments> m = n.op->domain == kLatheDomain ? fused(n) : n.op->domain.empty() ? standard(n, *y) : std::nullopt;
    if (!m || static_cast<int64_t>(m->mean.size()) != y->back()) return;
    const auto finite = [](float v) { return std::isfinite(v); };
    if (std::all_of(m->mean.begin(), m->mean.end(), finite) && std::all_of(m->variance.begin(), m->variance.end(), finite))
      known_[n.outputs[0].index] = std::move(*m);
  }

  const Graph& g_;
  std::map<int32_t, Moments> known_;
};

}  // namespace

std::map<int32_t, Moments> expected_moments(const Graph& graph) { return Expectation(graph).of_all(); }

Tensor round_weights(const Tensor& weights, bool columns, int64_t group, const std::vector<float>& mean) {
  const Shape& s = weights.shape();
  Tensor y(DType::kBF16, s);
  if (weights.size() == 0) return y;
  const float* w = weights.data<float>();
  uint16_t* to = y.data<uint16_t>();
  const bool any = std::any_of(mean.begin(), mean.end(), [](float m) { return m != 0; });
  if (columns) {
    // Neighbouring columns are taken out together, a line of the cache each time.
    constexpr int64_t kTogether = 16;
    const int64_t depth = s[0], out = s[1];
    const std::vector<float> means = any ? mean : std::vector<float>(static_cast<size_t>(depth), 1.0f);
    require(static_cast<int64_t>(means.size()) == depth, "{} means for weights {}", means.size(), to_string(s));
    parallel_for((out + kTogether - 1) / kTogether, kParallelGrain / (depth * kTogether) + 1, [&](int64_t begin, int64_t end) {
      std::vector<float> rows(static_cast<size_t>(kTogether * depth));
      std::vector<uint16_t> made(rows.size());
      for (int64_t n = begin * kTogether; n < std::min(end * kTogether, out); n += kTogether) {
        const int64_t count = std::min(kTogether, out - n);
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t i = 0; i < count; ++i) rows[i * depth + k] = w[k * out + n + i];
        for (int64_t i = 0; i < count; ++i) round_row(rows.data() + i * depth, means.data(), depth, made.data() + i * depth);
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t i = 0; i < count; ++i) to[k * out + n + i] = made[i * depth + k];
      }
    });
    return y;
  }
  const int64_t out = s[0], depth = s[1], taps = s.size() == 4 ? s[2] * s[3] : 1, row = depth * taps, each = std::max<int64_t>(out / group, 1);
  require(!any || static_cast<int64_t>(mean.size()) == depth * group, "{} means for weights {} in {} groups", mean.size(), to_string(s), group);
  parallel_for(out, kParallelGrain / (row + 1) + 1, [&](int64_t begin, int64_t end) {
    std::vector<float> means(static_cast<size_t>(row), 1.0f);
    for (int64_t n = begin, filled = -1; n < end; ++n) {
      if (any && n / each != filled) {
        filled = n / each;
        for (int64_t k = 0; k < row; ++k) means[k] = mean[filled * depth + k / taps];
      }
      round_row(w + n * row, means.data(), row, to + n * row);
    }
  });
  return y;
}

}  // namespace lathe
