// The sizes of an Attention node, whichever of its two layouts ([B, S, H·D] or [B, H, S, D]) it is given, and where
// the heads lie in ai.lathe::Attention, which reads and writes them in place.
#pragma once

#include <array>

#include "graph/op.h"

namespace lathe::ops {

struct AttentionSizes {
  int64_t batch = kUnknownDim, query_heads = kUnknownDim, kv_heads = kUnknownDim;
  int64_t queries = kUnknownDim, keys = kUnknownDim, past = 0;  // sequence lengths; total = past + keys
  int64_t head_size = kUnknownDim, value_size = kUnknownDim;
  bool packed = false;  // [B, S, H·D]
  int64_t total() const { return past == kUnknownDim || keys == kUnknownDim ? kUnknownDim : past + keys; }
};

// One size from two sources: what is known of either; throws kModel when they differ.
inline int64_t same_size(int64_t a, int64_t b, const char* what) {
  check_model(a == kUnknownDim || b == kUnknownDim || a == b, "two inputs disagree about {}: {} and {}", what, a, b);
  return a == kUnknownDim ? b : a;
}

inline int64_t split_size(int64_t hidden, int64_t heads, const char* what) {
  if (hidden == kUnknownDim) return kUnknownDim;
  check_model(hidden % heads == 0, "{} of {} cannot be split into {} heads", what, hidden, heads);
  return hidden / heads;
}

// `past_key` and `past_value` may be null.
inline AttentionSizes attention_sizes(const Node& node, const Shape& q, const Shape& k, const Shape& v,
                                      const Shape* past_key, const Shape* past_value) {
  check_model(q.size() == k.size() && k.size() == v.size() && (q.size() == 3 || q.size() == 4),
              "Q, K and V have shapes {}, {} and {}, expected three or four axes in each", to_string(q), to_string(k),
              to_string(v));
  AttentionSizes s;
  s.packed = q.size() == 3;
  s.batch = same_size(same_size(q[0], k[0], "the batch size"), v[0], "the batch size");
  if (s.packed) {
    s.query_heads = node.get_int("q_num_heads");
    s.kv_heads = node.get_int("kv_num_heads");
    check_model(s.query_heads > 0 && s.kv_heads > 0,
                "q_num_heads {} and kv_num_heads {} must be positive for inputs of three axes", s.query_heads,
                s.kv_heads);
    s.head_size = same_size(split_size(q[2], s.query_heads, "a query width"),
                            split_size(k[2], s.kv_heads, "a key width"), "the head size");
    s.value_size = split_size(v[2], s.kv_heads, "a value width");
    s.queries = q[1];
    s.keys = same_size(k[1], v[1], "the number of keys");
  } else {
    s.query_heads = q[1];
    s.kv_heads = same_size(k[1], v[1], "the number of key heads");
    s.head_size = same_size(q[3], k[3], "the head size");
    s.value_size = v[3];
    s.queries = q[2];
    s.keys = same_size(k[2], v[2], "the number of keys");
  }
  if (s.query_heads != kUnknownDim && s.kv_heads != kUnknownDim)
    check_model(s.kv_heads > 0 && s.query_heads % s.kv_heads == 0, "{} query heads cannot share {} key heads",
                s.query_heads, s.kv_heads);
  auto past = [&](const Shape* shape, int64_t width) {
    if (!shape) return;
    check_model(shape->size() == 4, "a cache has shape {}, expected four axes", to_string(*shape));
    same_size((*shape)[0], s.batch, "the batch size");
    same_size((*shape)[1], s.kv_heads, "the number of key heads");
    same_size((*shape)[3], width, "the head size");
    s.past = (*shape)[2];
  };
  past(past_key, s.head_size);
  int64_t key_length = s.past;
  past(past_value, s.value_size);
  if (past_key && past_value) s.past = same_size(key_length, s.past, "the length of the cache");
  return s;
}

// Element (b, h, s, d) of a tensor [B, H, S, D] that stands inside another one, of whatever shape, at
// offset + b·batch + h·head + s·row + d.
struct HeadView {
  int64_t offset = 0, batch = 0, head = 0, row = 0;
  std::vector<int64_t> numbers() const { return {offset, batch, head, row}; }
  bool operator==(const HeadView&) const = default;
};

inline HeadView view_by_head(int64_t heads, int64_t rows, int64_t width) { return {0, heads * rows * width, rows * width, width}; }
inline HeadView view_by_row(int64_t heads, int64_t rows, int64_t width) { return {0, rows * heads * width, width, heads * width}; }

// Attributes q_view, k_view, v_view and y_view of ai.lathe::Attention.
inline HeadView head_view(const Node& node, std::string_view attribute) {
  const auto& n = node.get_ints(attribute);
  check_model(n.size() == 4, "{} has {} entries, expected 4", attribute, n.size());
  return {n[0], n[1], n[2], n[3]};
}

// The sizes that ai.lathe::Attention carries as attributes.
inline AttentionSizes fused_attention_sizes(const Node& node) {
  AttentionSizes s;
  s.batch = node.get_int("batch");
  s.query_heads = node.get_int("q_num_heads");
  s.kv_heads = node.get_int("kv_num_heads");
  s.queries = node.get_int("queries");
  s.keys = node.get_int("keys");
  s.head_size = node.get_int("head_size");
  s.value_size = node.get_int("value_size");
  return s;
}

// Throws kModel where sizes and views of such a node do not fit each other or the inputs' shapes.
void check_head_views(const InferContext& c);

}  // namespace lathe::ops
