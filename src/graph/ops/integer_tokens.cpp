// Operators of ai.lathe on tokens of codes, for processors that have whole numbers alone: what a vision transformer needs beside the
// products of integer.cpp. Their arithmetic is integer to the last bit (kernels/fixed_point.h). `output_dtype`, y_zero_point, low and
// high are those of integer.cpp.
#include <cmath>

#include "graph/ops/attention.h"
#include "graph/ops/codes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void infer_layer_norm(InferContext& c) {
  check_codes(c, 0);
  check_model(c.node().get_int("epsilon") >= 0 && c.node().get_int("epsilon") < int64_t{1} << 61, "epsilon is {}", c.node().get_int("epsilon"));
  if (c.shape(0)) {
    check_model(!c.shape(0)->empty(), "a scalar has no last axis");
    const int64_t count = c.shape(0)->back();
    check_model(count == kUnknownDim || (count >= 1 && count <= 4096), "rows of {} codes, expected 1 to 4096", count);
    for (size_t i : {1, 2}) {
      check_model(!c.shape(i) || count == kUnknownDim || *c.shape(i) == Shape{count}, "input {} has shape {} for rows of {}", i, to_string(*c.shape(i)), count);
      const DType type = i == 1 ? DType::kI32 : DType::kI64;
      check_model(c.dtype(i) == type || c.dtype(i) == DType::kUndefined, "input {} is {}, expected {}", i, name_of(c.dtype(i)), name_of(type));
    }
  }
  c.set_output(0, output_type(c, true), c.shape(0));
}

void infer_attention(InferContext& c) {
  for (size_t i : {0, 1, 2}) check_codes(c, i);
  const Node& n = c.node();
  check_head_views(c);
  const AttentionSizes s = fused_attention_sizes(n);
  check_model(s.keys <= 4096 && s.head_size <= 1024, "{} keys of {} are more than whole numbers hold", s.keys, s.head_size);
  for (const char* zero : {"q_zero_point", "k_zero_point", "v_zero_point"}) check_zero(n.get_int(zero));
  check_model(std::isfinite(n.get_float("score_unit")) && n.get_float("score_unit") > 0, "score_unit is {}", n.get_float("score_unit"));
  check_model(n.get_int("value_ratio") >= 1 && n.get_int("value_ratio") < int64_t{1} << 44, "value_ratio is {}", n.get_int("value_ratio"));
  c.set_output(0, output_type(c, true), n.get_ints("y_shape"));
}

}  // namespace

void declare_integer_tokens(OpRegistry& r) {
  // X [..., D] codes, weight i32 [D] (γ / y_scale · 2¹²), bias i64 [D] (β / y_scale · 2⁴²); epsilon = ε·D² / x_scale² · 2¹⁶:
  //   saturate(normed(x) + y_zero_point)
  r.add({.name = "IntegerLayerNorm", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 3, .attributes = with_output({{"epsilon", int64_t{0}}}), .infer = infer_layer_norm});
  // Q, K, V codes with the views of ai.lathe::Attention. s_j = Σ (q − q_zero)(k_j − k_zero) in i32; w_j = weight(s_j − max s), 15 bits, with
  // score_unit = q_scale·k_scale·scale; value_ratio = v_scale / y_scale · 2³⁰, rounded:
  //   saturate(mixed(Σ w_j·(v_j − v_zero), share(value_ratio, Σ w_j)) + y_zero_point)
  r.add({.name = "IntegerAttention", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = with_output({{"batch", int64_t{1}, true}, {"q_num_heads", int64_t{1}, true}, {"kv_num_heads", int64_t{1}, true},
                                    {"queries", int64_t{1}, true}, {"keys", int64_t{1}, true}, {"head_size", int64_t{1}, true}, {"value_size", int64_t{1}, true},
                                    {"q_view", Ints{}, true}, {"k_view", Ints{}, true}, {"v_view", Ints{}, true}, {"y_view", Ints{}, true}, {"y_shape", Ints{}, true},
                                    {"q_zero_point", int64_t{0}}, {"k_zero_point", int64_t{0}}, {"v_zero_point", int64_t{0}},
                                    {"score_unit", 0.0f, true}, {"value_ratio", int64_t{0}, true}}),
         .infer = infer_attention, .macs = [](const Graph&, const Node& n) {
           const AttentionSizes s = fused_attention_sizes(n);
           return element_count({s.batch, s.query_heads, s.queries, s.keys, s.head_size + s.value_size});
         }});
}

}  // namespace lathe::ops
