// Tokens of codes in whole numbers, as graph/ops/integer_tokens.cpp defines them.
#include <algorithm>

#include "kernels/fixed_point.h"
#include "kernels/reference/families.h"
#include "kernels/reference/head_view.h"
#include "kernels/requantize.h"

namespace lathe::reference {
namespace {

int64_t saturated(int64_t steps, const Requantize& out) { return std::clamp<int64_t>(steps + out.zero, out.low, out.high); }

void layer_norm(Context& c) {
  const Tensor &x = c.input(0), &weight = c.input(1), &bias = c.input(2);
  const Requantize out = Requantize::of(c.node());
  const int64_t count = x.shape().back(), epsilon = c.node().get_int("epsilon");
  std::vector<int64_t> row(static_cast<size_t>(count));
  for (int64_t first = 0; first < x.size(); first += count) {
    for (int64_t i = 0; i < count; ++i) row[static_cast<size_t>(i)] = x.get_int(first + i);
    const RowMoments m = row_moments(row.data(), count, epsilon);
    for (int64_t i = 0; i < count; ++i) c.output().set_int(first + i, saturated(normed(row[static_cast<size_t>(i)], count, m, weight.get_int(i), bias.get_int(i)), out));
  }
}

void attention(Context& c) {
  const Node& n = c.node();
  const ops::AttentionSizes s = ops::fused_attention_sizes(n);
  // Codes less their zero points, [B, H, S, D].
  const auto heads = [&](size_t input, const char* view, const char* zero, const Shape& sizes) {
    std::vector<int32_t> values(static_cast<size_t>(element_count(sizes)));
    ops::HeadView v = ops::head_view(n, view);
    over_view(v, sizes, [&](int64_t to, int64_t from) { values[static_cast<size_t>(to)] = static_cast<int32_t>(c.input(input).get_int(from) - n.get_int(zero)); });
    return values;
  };
  const std::vector<int32_t> q = heads(0, "q_view", "q_zero_point", {s.batch, s.query_heads, s.queries, s.head_size}), k = heads(1, "k_view", "k_zero_point", {s.batch, s.kv_heads, s.keys, s.head_size}),
                             v = heads(2, "v_view", "v_zero_point", {s.batch, s.kv_heads, s.keys, s.value_size});
  const Requantize out = Requantize::of(n);
  const ScoreScale scale = ScoreScale::of(static_cast<double>(n.get_float("score_unit")));
  const int64_t ratio = n.get_int("value_ratio"), sharing = s.query_heads / s.kv_heads;
  std::vector<int64_t> y(static_cast<size_t>(s.batch * s.query_heads * s.queries * s.value_size));
  std::vector<int32_t> score(static_cast<size_t>(s.keys));
  for (int64_t row = 0; row < s.batch * s.query_heads * s.queries; ++row) {
    const int64_t head = row / s.queries, kv = head / s.query_heads * s.kv_heads + head % s.query_heads / sharing;
    for (int64_t j = 0; j < s.keys; ++j) {
      int32_t sum = 0;
      for (int64_t d = 0; d < s.head_size; ++d) sum += q[static_cast<size_t>(row * s.head_size + d)] * k[static_cast<size_t>((kv * s.keys + j) * s.head_size + d)];
      score[static_cast<size_t>(j)] = sum;
    }
    const int32_t most = *std::max_element(score.begin(), score.end());
    int64_t all = 0;
    for (int32_t& x : score) all += x = scale.weight(x - most);
    const int64_t one = share(ratio, all);
    for (int64_t d = 0; d < s.value_size; ++d) {
      int64_t sum = 0;
      for (int64_t j = 0; j < s.keys; ++j) sum += int64_t{score[static_cast<size_t>(j)]} * v[static_cast<size_t>((kv * s.keys + j) * s.value_size + d)];
      y[static_cast<size_t>(row * s.value_size + d)] = saturated(mixed(sum, one), out);
    }
  }
  over_view(ops::head_view(n, "y_view"), {s.batch, s.query_heads, s.queries, s.value_size}, [&](int64_t from, int64_t to) { c.output().set_int(to, y[static_cast<size_t>(from)]); });
}

}  // namespace

void register_integer_tokens(Registry& r) {
  r.add("IntegerLayerNorm", layer_norm, "ai.lathe");
  r.add("IntegerAttention", attention, "ai.lathe");
}

}  // namespace lathe::reference
