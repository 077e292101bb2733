#include "graph/ops/attention.h"

#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

constexpr std::string_view kPreviewDomain = "ai.onnx.preview";

void infer_attention(InferContext& c) {
  check_model(c.has_input(4) == c.has_input(5), "past_key and past_value must be given together");
  check_model(!c.has_input(6) || !c.has_input(4), "nonpad_kv_seqlen cannot be used together with past_key");
  if (!c.shape(0) || !c.shape(1) || !c.shape(2) || (c.has_input(4) && (!c.shape(4) || !c.shape(5)))) {
    c.set_output(0, c.dtype(0));
    c.set_output(1, c.dtype(1));
    c.set_output(2, c.dtype(2));
    c.set_output(3, c.dtype(0));
    return;
  }
  const Shape* past_key = c.has_input(4) ? &*c.shape(4) : nullptr;
  const Shape* past_value = c.has_input(4) ? &*c.shape(5) : nullptr;
  AttentionSizes s = attention_sizes(c.node(), *c.shape(0), *c.shape(1), *c.shape(2), past_key, past_value);
  if (s.packed) {
    int64_t width = s.value_size == kUnknownDim ? kUnknownDim : element_count({s.value_size, s.query_heads});
    c.set_output(0, c.dtype(0), Shape{s.batch, s.queries, width});
  } else {
    c.set_output(0, c.dtype(0), Shape{s.batch, s.query_heads, s.queries, s.value_size});
  }
  c.set_output(1, c.dtype(1), Shape{s.batch, s.kv_heads, s.total(), s.head_size});
  c.set_output(2, c.dtype(2), Shape{s.batch, s.kv_heads, s.total(), s.value_size});
  c.set_output(3, c.dtype(0), Shape{s.batch, s.query_heads, s.queries, s.total()});
}

int64_t attention_macs(const Graph& g, const Node& n) {
  auto past = [&](size_t i) { return n.inputs.size() > i && n.inputs[i] ? &*g[n.inputs[i]].shape : nullptr; };
  bool has_past = n.op->name == "Attention";
  AttentionSizes s = attention_sizes(n, *g[n.inputs[0]].shape, *g[n.inputs[1]].shape, *g[n.inputs[2]].shape,
                                     has_past ? past(4) : nullptr, has_past ? past(5) : nullptr);
  return element_count({s.batch, s.query_heads, s.queries, s.total(), s.head_size + s.value_size});
}

void infer_rotary(InferContext& c) {
  c.expect_rank(0, 3, 4);
  c.expect_rank(1, 2, 3);
  c.expect_rank(2, 2, 3);
  infer::same_as_first(c);
}

void infer_linear_attention(InferContext& c) {
  int64_t heads = c.node().get_int("q_num_heads"), kv_heads = c.node().get_int("kv_num_heads");
  check_model(heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
              "q_num_heads {} must be a positive multiple of kv_num_heads {}", heads, kv_heads);
  for (size_t i = 0; i < 3; ++i) c.expect_rank(i, 3, 3);
  std::optional<Shape> out, state;
  if (c.shape(0) && c.shape(1) && c.shape(2)) {
    const Shape &q = *c.shape(0), &k = *c.shape(1), &v = *c.shape(2);
    int64_t batch = same_size(same_size(q[0], k[0], "the batch size"), v[0], "the batch size");
    int64_t length = same_size(same_size(q[1], k[1], "the sequence length"), v[1], "the sequence length");
    int64_t key_size = same_size(split_size(q[2], heads, "a query width"), split_size(k[2], kv_heads, "a key width"),
                                 "the head size");
    int64_t value_size = split_size(v[2], kv_heads, "a value width");
    out = Shape{batch, length, value_size == kUnknownDim ? kUnknownDim : element_count({value_size, heads})};
    state = Shape{batch, kv_heads, key_size, value_size};
  }
  DType state_type = c.has_input(3) ? c.dtype(3) : c.dtype(0);
  if (c.has_input(3) && c.shape(3) && state && is_static(*state) && is_static(*c.shape(3)))
    check_model(*c.shape(3) == *state, "past_state has shape {}, expected {}", to_string(*c.shape(3)),
                to_string(*state));
  c.set_output(0, c.dtype(0), out);
  c.set_output(1, state_type, state);
}

// Types and shapes of a modifier subgraph, which maps scores to scores.
void infer_modifier(InferContext& c, const char* attribute, size_t& capture, DType type, const Shape& scores) {
  if (!c.node().has(attribute)) return;
  Graph& body = *c.node().get_graph(attribute);
  check_model(body.inputs.size() == 1 && body.outputs.size() == 1, "{} takes {} inputs and makes {} outputs, expected 1 of each",
              attribute, body.inputs.size(), body.outputs.size());
  body[body.inputs[0]].dtype = type;
  body[body.inputs[0]].shape = scores;
  for (ValueId inner : body.captured) {
    const Value& outer = c.graph()[c.node().captures.at(capture++)];
    body[inner].dtype = outer.dtype;
    body[inner].shape = outer.shape;
  }
  infer_shapes(body);
}

void infer_flex_attention(InferContext& c) {
  if (!c.shape(0) || !c.shape(1) || !c.shape(2)) return c.set_output(0, c.dtype(0));
  c.expect_rank(0, 4, 4);
  AttentionSizes s = attention_sizes(c.node(), *c.shape(0), *c.shape(1), *c.shape(2), nullptr, nullptr);
  DType type = c.node().has("softmax_precision") ? static_cast<DType>(c.node().get_int("softmax_precision"))
               : c.dtype(0) == DType::kF64       ? DType::kF64
                                                 : DType::kF32;
  check_model(is_float(type), "softmax_precision is {}, expected a floating type", static_cast<int>(type));
  size_t capture = 0;  // in the order of attribute names
  Shape scores = {s.batch, s.query_heads, s.queries, s.keys};
  infer_modifier(c, "prob_mod", capture, type, scores);
  infer_modifier(c, "score_mod", capture, type, scores);
  c.set_output(0, c.dtype(0), Shape{s.batch, s.query_heads, s.queries, s.value_size});
}

}  // namespace

void declare_attention(OpRegistry& r) {
  r.add({.name = "Attention", .minimum_inputs = 3, .maximum_inputs = 7, .maximum_outputs = 4,
         .attributes = {{"is_causal", int64_t{0}}, {"kv_num_heads", int64_t{0}}, {"left_window_size", int64_t{-1}},
                        {"q_num_heads", int64_t{0}}, {"qk_matmul_output_mode", int64_t{0}},
                        {"right_window_size", int64_t{-1}}, {"scale", 0.0f}, {"softcap", 0.0f},
                        {"softmax_precision", int64_t{0}}},
         .infer = infer_attention, .macs = attention_macs});
  r.add({.name = "RotaryEmbedding", .minimum_inputs = 3, .maximum_inputs = 4,
         .attributes = {{"interleaved", int64_t{0}}, {"num_heads", int64_t{0}}, {"rotary_embedding_dim", int64_t{0}}},
         .infer = infer_rotary});
  r.add({.name = "LinearAttention", .minimum_inputs = 3, .maximum_inputs = 6, .maximum_outputs = 2,
         .attributes = {{"chunk_size", int64_t{64}}, {"kv_num_heads", int64_t{0}, true},
                        {"q_num_heads", int64_t{0}, true}, {"scale", 0.0f},
                        {"update_rule", std::string("gated_delta")}},
         .infer = infer_linear_attention});
  r.add({.name = "FlexAttention", .domain = std::string(kPreviewDomain), .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = {{"prob_mod", std::shared_ptr<Graph>()}, {"scale", 0.0f},
                        {"score_mod", std::shared_ptr<Graph>()}, {"softmax_precision", int64_t{0}}},
         .infer = infer_flex_attention, .macs = attention_macs});
  r.add({.name = "SwiGLU", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = {{"alpha", 1.0f}},
         .infer = [](InferContext& c) {
           check_model(!c.shape(0) || !c.shape(1) || !is_static(*c.shape(0)) || !is_static(*c.shape(1)) ||
                           *c.shape(0) == *c.shape(1),
                       "the two inputs must have one shape");
           infer::same_as_first(c);
         }});
}

}  // namespace lathe::ops
