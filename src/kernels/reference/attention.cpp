#include "graph/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// [B, H, S, D] in doubles, whichever layout the tensor has.
std::vector<double> by_head(const Tensor& t, bool packed, int64_t heads, int64_t width) {
  if (!packed) return doubles(t);
  std::vector<double> result(t.size());
  int64_t length = t.dim(1);
  for (int64_t i = 0; i < t.size(); ++i) {
    int64_t d = i % width, h = i / width % heads, s = i / (width * heads) % length, b = i / (width * heads * length);
    result[((b * heads + h) * length + s) * width + d] = t.get(i);
  }
  return result;
}

// The cache followed by the new keys or values, [B, H, past + S, D].
std::vector<double> extended(const Tensor* past, std::vector<double> fresh, int64_t rows, int64_t past_size,
                             int64_t fresh_size) {
  if (!past) return fresh;
  std::vector<double> result;
  result.reserve(past->size() + fresh.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < past_size; ++i) result.push_back(past->get(r * past_size + i));
    result.insert(result.end(), fresh.begin() + r * fresh_size, fresh.begin() + (r + 1) * fresh_size);
  }
  return result;
}

void store(Context& c, size_t i, const std::vector<double>& values) {
  if (!c.has_output(i)) return;
  Tensor& out = c.output(i);
  for (int64_t k = 0; k < out.size(); ++k) out.set(k, values[k]);
}

// Softmax of one row in place; a row of −∞ alone becomes zeros, one with a NaN all NaN.
void softmax(double* row, int64_t count) {
  double largest = -kInfinity, sum = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, row[i]);
  if (std::all_of(row, row + count, [](double v) { return v == -kInfinity; })) return std::fill(row, row + count, 0.0);
  if (largest == -kInfinity) largest = 0;  // the others are NaN
  for (int64_t i = 0; i < count; ++i) sum += row[i] = std::exp(row[i] - largest);
  for (int64_t i = 0; i < count; ++i) row[i] /= sum;
}

// What is added to the score of query i and key j: the mask, the causal frontier, the sliding window and
// the padding of the cache.
class AttentionBias {
 public:
  AttentionBias(Context& c, const ops::AttentionSizes& s)
      : mask_(c.has_input(3) ? &c.input(3) : nullptr),
        mask_width_(mask_ && mask_->rank() ? mask_->dim(-1) : 1),
        at_(mask_ ? mask_->shape() : Shape{},
            {s.batch, s.query_heads, s.queries, mask_ && mask_->rank() ? mask_width_ : s.total()}),
        sizes_(s), causal_(c.node().get_int("is_causal") != 0), left_(c.node().get_int("left_window_size")),
        right_(c.node().get_int("right_window_size")), offsets_(s.batch, s.past), valid_(s.batch, s.total()) {
    check_model(left_ >= -1 && right_ >= -1, "window sizes are {} and {}, expected at least -1", left_, right_);
    check_model(!mask_ || mask_width_ <= s.total() || mask_->rank() == 0, "attn_mask has shape {} for {} keys",
                mask_ ? to_string(mask_->shape()) : "", s.total());
    if (!c.has_input(6)) return;
    const Tensor& lengths = c.input(6);
    check_model(lengths.size() == s.batch, "nonpad_kv_seqlen has {} entries for a batch of {}", lengths.size(), s.batch);
    for (int64_t b = 0; b < s.batch; ++b) {
      valid_[b] = lengths.get_int(b);
      if (valid_[b] < 0 || valid_[b] > s.total())
        fail(ErrorKind::kInput, "nonpad_kv_seqlen is {}, expected 0 to {}", valid_[b], s.total());
      offsets_[b] = valid_[b] - s.queries;
    }
  }

  double operator()(int64_t b, int64_t h, int64_t i, int64_t j) const {
    int64_t position = i + offsets_[b];
    if (j >= valid_[b] || (causal_ && j > position)) return -kInfinity;
    if ((left_ >= 0 && position - j > left_) || (right_ >= 0 && j - position > right_)) return -kInfinity;
    if (!mask_) return 0;
    int64_t width = mask_->rank() ? mask_width_ : sizes_.total();
    if (j >= width) return -kInfinity;  // a short mask hides what it does not reach
    int64_t at = at_[((b * sizes_.query_heads + h) * sizes_.queries + i) * width + j];
    if (mask_->dtype() == DType::kBool) return mask_->get_int(at) ? 0 : -kInfinity;
    return mask_->get(at);
  }

 private:
  const Tensor* mask_;
  int64_t mask_width_;
  BroadcastIndex at_;
  ops::AttentionSizes sizes_;
  bool causal_;
  int64_t left_, right_;
  std::vector<int64_t> offsets_, valid_;  // of each sample: keys before the queries, keys that are not padding
};

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

double scale_of(const Node& node, int64_t head_size) {
  return node.has("scale") ? node.get_float("scale") : 1 / std::sqrt(static_cast<double>(head_size));
}

void attention(Context& c) {
  const Node& node = c.node();
  Tensor& y = c.output();
  const Tensor* past_key = c.has_input(4) ? &c.input(4) : nullptr;
  const Tensor* past_value = c.has_input(5) ? &c.input(5) : nullptr;
  ops::AttentionSizes s =
      ops::attention_sizes(node, c.input(0).shape(), c.input(1).shape(), c.input(2).shape(),
                           past_key ? &past_key->shape() : nullptr, past_value ? &past_value->shape() : nullptr);
  int64_t total = s.total(), rows = s.batch * s.kv_heads, group = s.query_heads / s.kv_heads;
  std::vector<double> q = by_head(c.input(0), s.packed, s.query_heads, s.head_size);
  std::vector<double> k = extended(past_key, by_head(c.input(1), s.packed, s.kv_heads, s.head_size), rows,
                                   s.past * s.head_size, s.keys * s.head_size);
  std::vector<double> v = extended(past_value, by_head(c.input(2), s.packed, s.kv_heads, s.value_size), rows,
                                   s.past * s.value_size, s.keys * s.value_size);
  store(c, 1, k);
  store(c, 2, v);
  AttentionBias bias(c, s);
  double scale = scale_of(node, s.head_size), softcap = node.get_float("softcap");
  int64_t mode = node.get_int("qk_matmul_output_mode");
  check_model(mode >= 0 && mode <= 3, "qk_matmul_output_mode is {}, expected 0 to 3", mode);
  Tensor* shown = c.has_output(3) ? &c.output(3) : nullptr;
  std::vector<double> row(total), sum(s.value_size);
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.query_heads; ++h)
      for (int64_t i = 0; i < s.queries; ++i) {
        int64_t kv = b * s.kv_heads + h / group, line = (b * s.query_heads + h) * s.queries + i;
        auto show = [&](int64_t stage) {
          if (shown && stage == mode)
            for (int64_t j = 0; j < total; ++j) shown->set(line * total + j, row[j]);
        };
        for (int64_t j = 0; j < total; ++j)
          row[j] = scale * dot(q.data() + line * s.head_size, k.data() + (kv * total + j) * s.head_size, s.head_size);
        show(0);
        if (softcap > 0)
          for (double& value : row) value = softcap * std::tanh(value / softcap);
        show(1);
        bool any = false;
        for (int64_t j = 0; j < total; ++j) {
          double addend = bias(b, h, i, j);
          any = any || addend != -kInfinity;
          row[j] += addend;
        }
        show(2);
        if (any) {
          softmax(row.data(), total);
        } else {
          std::fill(row.begin(), row.end(), 0.0);
        }
        show(3);
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t j = 0; j < total; ++j)
          if (row[j] != 0)
            for (int64_t d = 0; d < s.value_size; ++d) sum[d] += row[j] * v[(kv * total + j) * s.value_size + d];
        int64_t to = s.packed ? ((b * s.queries + i) * s.query_heads + h) * s.value_size : line * s.value_size;
        for (int64_t d = 0; d < s.value_size; ++d) y.set(to + d, sum[d]);
      }
}

void rotary_embedding(Context& c) {
  const Tensor &x = c.input(0), &cosine = c.input(1), &sine = c.input(2);
  Tensor& y = c.output();
  bool packed = x.rank() == 3, interleaved = c.node().get_int("interleaved") != 0;
  int64_t heads = packed ? c.node().get_int("num_heads") : x.dim(1);
  check_model(!packed || heads > 0, "num_heads must be given for an input of three axes");
  int64_t batch = x.dim(0), length = x.dim(packed ? 1 : 2);
  int64_t width = packed ? ops::split_size(x.dim(2), heads, "a width") : x.dim(3);
  int64_t turned = c.node().get_int("rotary_embedding_dim");
  if (turned == 0) turned = width;
  check_model(turned > 0 && turned <= width && turned % 2 == 0, "rotary_embedding_dim is {} for heads of {}", turned,
              width);
  int64_t half = turned / 2;
  const Tensor* ids = c.has_input(3) ? &c.input(3) : nullptr;
  check_model(cosine.shape() == sine.shape() && cosine.dim(-1) == half, "caches have shapes {} and {}, expected [..., {}]",
              to_string(cosine.shape()), to_string(sine.shape()), half);
  if (ids) {
    check_model(cosine.rank() == 2 && ids->size() == batch * length, "position_ids have shape {} for caches of shape {}",
                to_string(ids->shape()), to_string(cosine.shape()));
  } else {
    check_model(cosine.size() == batch * length * half, "caches have shape {}, expected [{}, {}, {}]",
                to_string(cosine.shape()), batch, length, half);
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t s = 0; s < length; ++s) {
      int64_t position = ids ? ids->get_int(b * length + s) : b * length + s;
      if (ids && (position < 0 || position >= cosine.dim(0)))
        fail(ErrorKind::kInput, "position {} is out of range for caches of {} positions", position, cosine.dim(0));
      for (int64_t h = 0; h < heads; ++h) {
        int64_t base = packed ? ((b * length + s) * heads + h) * width : ((b * heads + h) * length + s) * width;
        for (int64_t d = 0; d < half; ++d) {
          int64_t first = base + (interleaved ? 2 * d : d), second = base + (interleaved ? 2 * d + 1 : half + d);
          double cs = cosine.get(position * half + d), sn = sine.get(position * half + d);
          double re = x.get(first), im = x.get(second);
          y.set(first, cs * re - sn * im);
          y.set(second, sn * re + cs * im);
        }
        for (int64_t d = turned; d < width; ++d) y.set(base + d, x.get(base + d));
      }
    }
}

// S ← exp(g)·S + β·k ⊗ (v − exp(g)·Sᵀk), with the parts that the rule leaves out dropped; o = scale·Sᵀq.
void linear_attention(Context& c) {
  const Tensor &q = c.input(0), &k = c.input(1), &v = c.input(2);
  Tensor& y = c.output();
  const Node& node = c.node();
  const std::string& rule = node.get_string("update_rule");
  bool gated = rule == "gated" || rule == "gated_delta", delta = rule == "delta" || rule == "gated_delta";
  check_model(gated || delta || rule == "linear", "update_rule is '{}', expected linear, gated, delta or gated_delta",
              rule);
  check_model(gated == c.has_input(4), "update_rule '{}' {} a decay", rule, gated ? "needs" : "takes no");
  check_model(delta == c.has_input(5), "update_rule '{}' {} a beta", rule, delta ? "needs" : "takes no");
  int64_t heads = node.get_int("q_num_heads"), kv_heads = node.get_int("kv_num_heads"), group = heads / kv_heads;
  int64_t batch = q.dim(0), length = q.dim(1), key_size = q.dim(2) / heads, value_size = v.dim(2) / kv_heads;
  double scale = node.get_float("scale") != 0 ? node.get_float("scale") : 1 / std::sqrt(static_cast<double>(key_size));
  int64_t decay_width = gated ? c.input(4).dim(-1) : 0, beta_width = delta ? c.input(5).dim(-1) : 0;
  check_model(!gated || ((decay_width == kv_heads || decay_width == kv_heads * key_size) &&
                         c.input(4).size() == batch * length * decay_width),
              "decay has shape {}, expected [{}, {}, {} or {}]", gated ? to_string(c.input(4).shape()) : "", batch,
              length, kv_heads, kv_heads * key_size);
  check_model(!delta || ((beta_width == kv_heads || beta_width == 1) &&
                         c.input(5).size() == batch * length * beta_width),
              "beta has shape {}, expected [{}, {}, {} or 1]", delta ? to_string(c.input(5).shape()) : "", batch, length,
              kv_heads);
  std::vector<double> states(batch * kv_heads * key_size * value_size, 0.0), update(value_size);
  if (c.has_input(3)) states = doubles(c.input(3));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < kv_heads; ++h) {
      double* state = states.data() + (b * kv_heads + h) * key_size * value_size;
      for (int64_t t = 0; t < length; ++t) {
        int64_t step = b * length + t, key = (step * kv_heads + h) * key_size, value = (step * kv_heads + h) * value_size;
        if (gated)
          for (int64_t i = 0; i < key_size; ++i) {
            int64_t at = decay_width == kv_heads ? step * kv_heads + h : key + i;
            double factor = std::exp(c.input(4).get(at));
            for (int64_t j = 0; j < value_size; ++j) state[i * value_size + j] *= factor;
          }
        for (int64_t j = 0; j < value_size; ++j) {
          update[j] = v.get(value + j);
          if (!delta) continue;
          for (int64_t i = 0; i < key_size; ++i) update[j] -= state[i * value_size + j] * k.get(key + i);
          update[j] *= c.input(5).get(beta_width == 1 ? step : step * kv_heads + h);
        }
        for (int64_t i = 0; i < key_size; ++i)
          for (int64_t j = 0; j < value_size; ++j) state[i * value_size + j] += k.get(key + i) * update[j];
        for (int64_t query = h * group; query < (h + 1) * group; ++query)
          for (int64_t j = 0; j < value_size; ++j) {
            double sum = 0;
            for (int64_t i = 0; i < key_size; ++i)
              sum += q.get((step * heads + query) * key_size + i) * state[i * value_size + j];
            y.set((step * heads + query) * value_size + j, scale * sum);
          }
      }
    }
  store(c, 1, states);
}

// Runs a modifier subgraph on the scores, where the node has one.
Tensor modified(Context& c, const char* attribute, Tensor scores) {
  if (!c.node().has(attribute)) return scores;
  size_t skip = 0;  // captures come in the order of attribute names: those of prob_mod first
  if (std::string_view(attribute) == "score_mod" && c.node().has("prob_mod"))
    skip = c.node().get_graph("prob_mod")->captured.size();
  const Graph& body = *c.node().get_graph(attribute);
  auto first = c.captures().begin() + static_cast<std::ptrdiff_t>(skip);
  std::vector<Tensor> captures(first, first + static_cast<std::ptrdiff_t>(body.captured.size()));
  Tensor result = run_graph(body, {scores}, std::move(captures)).at(0);
  check_model(result.shape() == scores.shape() && result.dtype() == scores.dtype(),
              "{} made a tensor of shape {}, expected {}", attribute, to_string(result.shape()), to_string(scores.shape()));
  return result;
}

void flex_attention(Context& c) {
  Tensor& y = c.output();
  const Tensor &q = c.input(0), &k = c.input(1), &v = c.input(2);
  ops::AttentionSizes s = ops::attention_sizes(c.node(), q.shape(), k.shape(), v.shape(), nullptr, nullptr);
  DType type = c.node().has("softmax_precision") ? static_cast<DType>(c.node().get_int("softmax_precision"))
               : q.dtype() == DType::kF64        ? DType::kF64
                                                 : DType::kF32;
  std::vector<double> qs = doubles(q), ks = doubles(k), vs = doubles(v), row(s.keys);
  double scale = scale_of(c.node(), s.head_size);
  int64_t group = s.query_heads / s.kv_heads;
  Tensor scores(type, {s.batch, s.query_heads, s.queries, s.keys});
  for (int64_t i = 0; i < scores.size(); ++i) {
    int64_t j = i % s.keys, line = i / s.keys, head = line / s.queries;
    int64_t kv = head / s.query_heads * s.kv_heads + head % s.query_heads / group;
    scores.set(i, scale * dot(qs.data() + line * s.head_size, ks.data() + (kv * s.keys + j) * s.head_size, s.head_size));
  }
  scores = modified(c, "score_mod", scores);
  Tensor probabilities(type, scores.shape());
  for (int64_t line = 0; line < s.batch * s.query_heads * s.queries; ++line) {
    for (int64_t j = 0; j < s.keys; ++j) row[j] = scores.get(line * s.keys + j);
    softmax(row.data(), s.keys);
    for (int64_t j = 0; j < s.keys; ++j) probabilities.set(line * s.keys + j, row[j]);
  }
  probabilities = modified(c, "prob_mod", probabilities);
  for (int64_t i = 0; i < y.size(); ++i) {
    int64_t d = i % s.value_size, line = i / s.value_size, head = line / s.queries;
    int64_t kv = head / s.query_heads * s.kv_heads + head % s.query_heads / group;
    double sum = 0;
    for (int64_t j = 0; j < s.keys; ++j)
      sum += probabilities.get(line * s.keys + j) * vs[(kv * s.keys + j) * s.value_size + d];
    y.set(i, sum);
  }
}

void swiglu(Context& c) {
  Tensor& y = c.output();
  double alpha = c.node().get_float("alpha");
  for (int64_t i = 0; i < y.size(); ++i) {
    double gate = c.input(0).get(i);
    y.set(i, gate / (1 + std::exp(-alpha * gate)) * c.input(1).get(i));
  }
}

}  // namespace

void register_attention(Registry& r) {
  r.add("Attention", attention);
  r.add("RotaryEmbedding", rotary_embedding);
  r.add("LinearAttention", linear_attention);
  r.add("FlexAttention", flex_attention, "ai.onnx.preview");
  r.add("SwiGLU", swiglu);
}

}  // namespace lathe::reference
