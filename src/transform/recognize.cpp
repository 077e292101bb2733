// Exporters spell one function in many nodes; these patterns give it back its name.
#include <algorithm>
#include <cmath>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Looks backwards from a value. All conditions are on single uses: what else is read stays.
class Matcher {
 public:
  explicit Matcher(Graph& g) : g_(g), uses_(g.value_count(), 0) {
    auto consumers = g.consumers();
    for (size_t i = 0; i < consumers.size(); ++i) uses_[i] = static_cast<int>(consumers[i].size());
    for (ValueId v : g.outputs) uses_[v.index] += 2;
  }
  // The node of `op` that makes v, if any.
  const Node* made_by(ValueId v, std::string_view op) const {
    if (!v || !g_[v].producer) return nullptr;
    const Node& n = g_[g_[v].producer];
    return !n.dead && n.op->domain.empty() && n.op->name == op ? &n : nullptr;
  }
  bool single_use(ValueId v) const { return v.index >= static_cast<int32_t>(uses_.size()) || uses_[v.index] == 1; }
  std::optional<double> scalar(ValueId v) const {
    if (!v || !g_[v].is_constant() || g_[v].constant.size() != 1) return std::nullopt;
    return g_[v].constant.get(0);
  }
  bool is_scalar(ValueId v, double expected) const {
    auto s = scalar(v);
    return s && std::fabs(*s - expected) <= 1e-4 * std::fabs(expected) + 1e-12;
  }
  // The operand of a commutative node that is not the given scalar; an empty id when it does not match.
  ValueId besides_scalar(const Node* n, double expected) const {
    if (!n) return {};
    if (is_scalar(n->inputs[1], expected)) return n->inputs[0];
    if (is_scalar(n->inputs[0], expected)) return n->inputs[1];
    return {};
  }
  ValueId other_operand(const Node* n, ValueId one) const {
    if (!n) return {};
    if (n->inputs[0] == one) return n->inputs[1];
    if (n->inputs[1] == one) return n->inputs[0];
    return {};
  }

 private:
  Graph& g_;
  std::vector<int> uses_;
};

// `node` becomes op(inputs); its first output stays.
void become(Graph& g, NodeId id, std::string_view op, std::vector<ValueId> inputs, Attributes attributes,
            std::string_view domain = "") {
  Node& n = g[id];
  n.op = &find_op(op, domain);
  n.inputs = std::move(inputs);
  n.attributes = std::move(attributes);
}

// x·Φ(x): 0.5·x·(1 + erf(x/√2)), factors in any order.
bool gelu_erf(Graph& g, const Matcher& m, NodeId id) {
  const Node& mul = g[id];
  if (mul.op->name != "Mul") return false;
  for (int side : {0, 1}) {
    // Mul(Mul(x, 1 + erf), 0.5) or Mul(x, Mul(1 + erf, 0.5)) or Mul(Mul(x, 0.5), 1 + erf)
    ValueId a = mul.inputs[side], b = mul.inputs[1 - side];
    std::vector<std::pair<ValueId, ValueId>> splits;  // (x, the 1 + erf term)
    if (m.is_scalar(b, 0.5))
      if (const Node* inner = m.made_by(a, "Mul")) splits = {{inner->inputs[0], inner->inputs[1]}, {inner->inputs[1], inner->inputs[0]}};
    if (ValueId sum = m.besides_scalar(m.made_by(b, "Mul"), 0.5)) splits.emplace_back(a, sum);
    if (ValueId x = m.besides_scalar(m.made_by(a, "Mul"), 0.5)) splits.emplace_back(x, b);
    for (auto [x, term] : splits) {
      ValueId erf_value = m.besides_scalar(m.made_by(term, "Add"), 1);
      const Node* erf = m.made_by(erf_value, "Erf");
      if (!erf) continue;
      const Node* scaled = m.made_by(erf->inputs[0], "Div");
      bool match = scaled && scaled->inputs[0] == x && m.is_scalar(scaled->inputs[1], std::sqrt(2.0));
      if (!match) match = m.besides_scalar(m.made_by(erf->inputs[0], "Mul"), std::sqrt(0.5)) == x;
      if (!match) continue;
      become(g, id, "Gelu", {x}, {});
      return true;
    }
  }
  return false;
}

// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
bool gelu_tanh(Graph& g, const Matcher& m, NodeId id) {
  const Node& mul = g[id];
  if (mul.op->name != "Mul") return false;
  for (int side : {0, 1}) {
    ValueId a = mul.inputs[side], b = mul.inputs[1 - side];
    std::vector<std::pair<ValueId, ValueId>> splits;
    if (ValueId x = m.besides_scalar(m.made_by(a, "Mul"), 0.5)) splits.emplace_back(x, b);
    if (m.is_scalar(b, 0.5))
      if (const Node* inner = m.made_by(a, "Mul")) splits.insert(splits.end(), {{inner->inputs[0], inner->inputs[1]}, {inner->inputs[1], inner->inputs[0]}});
    if (ValueId sum = m.besides_scalar(m.made_by(b, "Mul"), 0.5)) splits.emplace_back(a, sum);
    for (auto [x, term] : splits) {
      const Node* tanh = m.made_by(m.besides_scalar(m.made_by(term, "Add"), 1), "Tanh");
      if (!tanh) continue;
      ValueId sum = m.besides_scalar(m.made_by(tanh->inputs[0], "Mul"), std::sqrt(2 / M_PI));
      const Node* add = m.made_by(sum, "Add");
      ValueId cubic = add ? m.besides_scalar(m.made_by(m.other_operand(add, x), "Mul"), 0.044715) : ValueId{};
      const Node* power = m.made_by(cubic, "Pow");
      bool is_cube = power && power->inputs[0] == x && m.is_scalar(power->inputs[1], 3);
      if (const Node* product = m.made_by(cubic, "Mul"); product && !is_cube) {
        const Node* square = m.made_by(m.other_operand(product, x), "Mul");
        is_cube = square && square->inputs[0] == x && square->inputs[1] == x;
      }
      if (!is_cube) continue;
      become(g, id, "Gelu", {x}, {{"approximate", std::string("tanh")}});
      return true;
    }
  }
  return false;
}

// x·sigmoid(x), x·HardSigmoid(x; 1/6, 1/2), x·clip(x + 3, 0, 6)/6, x·tanh(softplus(x))
bool self_gated(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name == "Div" && m.is_scalar(n.inputs[1], 6)) {
    const Node* mul = m.made_by(n.inputs[0], "Mul");
    if (!mul) return false;
    for (int side : {0, 1}) {
      ValueId x = mul->inputs[side];
      const Node* clip = m.made_by(mul->inputs[1 - side], "Clip");
      if (!clip || clip->inputs.size() != 3 || !m.is_scalar(clip->inputs[2], 6)) continue;
      auto low = m.scalar(clip->inputs[1]);
      if (!low || *low != 0 || m.besides_scalar(m.made_by(clip->inputs[0], "Add"), 3) != x) continue;
      become(g, id, "HardSwish", {x}, {});
      return true;
    }
    return false;
  }
  if (n.op->name != "Mul") return false;
  for (int side : {0, 1}) {
    ValueId x = n.inputs[side], gate = n.inputs[1 - side];
    if (const Node* s = m.made_by(gate, "Sigmoid"); s && s->inputs[0] == x) {
      become(g, id, "Swish", {x}, {});
      return true;
    }
    if (const Node* h = m.made_by(gate, "HardSigmoid"); h && h->inputs[0] == x &&
        std::fabs(h->get_float("alpha") - 1.0f / 6) < 1e-6 && h->get_float("beta") == 0.5f) {
      become(g, id, "HardSwish", {x}, {});
      return true;
    }
    const Node* t = m.made_by(gate, "Tanh");
    const Node* p = t ? m.made_by(t->inputs[0], "Softplus") : nullptr;
    if (p && p->inputs[0] == x) {
      become(g, id, "Mish", {x}, {});
      return true;
    }
  }
  return false;
}

// s·relu(x)² + b, in whole or in its first parts: Relu, its product with itself or its power 2, Mul and Add of one number each.
bool star_relu(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  const std::string& op = n.op->name;
  if (g[n.outputs[0]].dtype != DType::kF32) return false;
  if ((op == "Mul" && n.inputs[0] == n.inputs[1]) || (op == "Pow" && m.is_scalar(n.inputs[1], 2))) {
    const Node* relu = m.made_by(n.inputs[0], "Relu");
    if (!relu || !m.single_use(n.inputs[0]) || g[n.outputs[0]].shape != g[relu->inputs[0]].shape) return false;
    const ValueId x = relu->inputs[0];
    become(g, id, "StarRelu", {x}, {}, kLatheDomain);
    return true;
  }
  if (op != "Mul" && op != "Add") return false;
  for (int side : {0, 1}) {
    const ValueId square = n.inputs[side];
    const auto number = m.scalar(n.inputs[1 - side]);
    if (!number || !g[square].producer || !m.single_use(square) || !g[square].shape || g[square].shape != g[n.outputs[0]].shape) continue;
    const Node& star = g[g[square].producer];
    if (star.dead || star.op->domain != kLatheDomain || star.op->name != "StarRelu") continue;
    const double scale = star.get_float("scale"), bias = star.get_float("bias");
    const auto as_float = [](double v) { return static_cast<float>(v); };
    Attributes a = op == "Mul" ? Attributes{{"scale", as_float(scale * *number)}, {"bias", as_float(bias * *number)}}
                               : Attributes{{"scale", as_float(scale)}, {"bias", as_float(bias + *number)}};
    const ValueId x = star.inputs[0];
    become(g, id, "StarRelu", {x}, std::move(a), kLatheDomain);
    return true;
  }
  return false;
}

// (x − mean(x)) / √(mean((x − mean(x))²) + ε) · scale + bias over the last axis
bool layer_norm(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Add" || !find_op_or_null("LayerNormalization")) return false;
  for (int side : {0, 1}) {
    ValueId bias = n.inputs[side];
    const Node* mul = m.made_by(n.inputs[1 - side], "Mul");
    if (!mul || !g[bias].is_constant()) continue;
    for (int k : {0, 1}) {
      ValueId scale = mul->inputs[k];
      const Node* div = m.made_by(mul->inputs[1 - k], "Div");
      if (!div || !g[scale].is_constant()) continue;
      const Node* sub = m.made_by(div->inputs[0], "Sub");
      const Node* root = m.made_by(div->inputs[1], "Sqrt");
      if (!sub || !root) continue;
      const Node* sum = m.made_by(root->inputs[0], "Add");
      if (!sum) continue;
      int e = m.scalar(sum->inputs[1]) ? 1 : 0;
      auto epsilon = m.scalar(sum->inputs[e]);
      const Node* variance = m.made_by(sum->inputs[1 - e], "ReduceMean");
      const Node* mean = m.made_by(sub->inputs[1], "ReduceMean");
      if (!epsilon || !variance || !mean || mean->inputs[0] != sub->inputs[0]) continue;
      ValueId x = sub->inputs[0];
      const Node* square = m.made_by(variance->inputs[0], "Pow");
      bool squares = square && m.is_scalar(square->inputs[1], 2) && m.made_by(square->inputs[0], "Sub");
      if (const Node* product = m.made_by(variance->inputs[0], "Mul")) {
        square = product;
        squares = product->inputs[0] == product->inputs[1];
      }
      if (!squares || (square->inputs[0] != div->inputs[0] && !m.made_by(square->inputs[0], "Sub"))) continue;
      if (const Node* inner = m.made_by(square->inputs[0], "Sub"); !inner || inner->inputs[0] != x) continue;
      if (!g[x].shape || g[x].shape->empty()) continue;
      auto rank = static_cast<int64_t>(g[x].shape->size());
      auto last_axis = [&](const Node* reduce) {
        if (reduce->inputs.size() < 2 || !reduce->inputs[1] || !g[reduce->inputs[1]].is_constant()) return false;
        auto axes = g[reduce->inputs[1]].constant.to_i64();
        return axes.size() == 1 && normalize_axis(axes[0], rank) == rank - 1 && reduce->get_int("keepdims") == 1;
      };
      int64_t width = g[x].shape->back();
      auto is_row = [&](ValueId v) { return g[v].constant.size() == width && g[v].constant.shape().back() == width; };
      if (!last_axis(mean) || !last_axis(variance) || width < 1 || !is_row(scale) || !is_row(bias)) continue;
      ValueId s = g.add_constant(g[scale].constant.reshaped({width}));
      ValueId b = g.add_constant(g[bias].constant.reshaped({width}));
      become(g, id, "LayerNormalization", {x, s, b}, {{"axis", int64_t{-1}}, {"epsilon", static_cast<float>(*epsilon)}});
      return true;
    }
  }
  return false;
}

// Reshape [N, groups, …] → InstanceNormalization of scale 1 and bias 0 → Reshape [N, C, …] → Mul → Add by channel: how
// exporters write GroupNormalization where an operator set has none that takes a scale for each channel.
bool group_norm(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Add") return false;
  for (int side : {0, 1}) {
    const Node* mul = m.made_by(n.inputs[1 - side], "Mul");
    if (!mul || !m.single_use(n.inputs[1 - side])) continue;
    for (int k : {0, 1}) {
      const ValueId bias = n.inputs[side], scale = mul->inputs[k];
      const Node* back = m.made_by(mul->inputs[1 - k], "Reshape");
      const Node* norm = back ? m.made_by(back->inputs[0], "InstanceNormalization") : nullptr;
      const Node* split = norm ? m.made_by(norm->inputs[0], "Reshape") : nullptr;
      if (!split || !g[bias].is_constant() || !g[scale].is_constant()) continue;
      const ValueId x = split->inputs[0];
      const auto &shape = g[x].shape, &grouped = g[split->outputs[0]].shape;
      if (!shape || !grouped || !is_static(*shape) || !is_static(*grouped) || shape->size() < 3 || grouped->size() < 3 ||
          g[n.outputs[0]].shape != shape || g[back->outputs[0]].shape != shape)
        continue;
      const int64_t channels = (*shape)[1], groups = (*grouped)[1];
      if ((*grouped)[0] != (*shape)[0] || channels % groups != 0) continue;
      auto all = [&](ValueId v, double value) {
        for (int64_t i = 0; i < groups; ++i)
          if (g[v].constant.get(i) != value) return false;
        return true;
      };
      if (!g[norm->inputs[1]].is_constant() || !g[norm->inputs[2]].is_constant() || !all(norm->inputs[1], 1) || !all(norm->inputs[2], 0))
        continue;
      const size_t after = shape->size() - 2;  // axes behind the channels
      auto by_channel = [&](ValueId v) {
        const Shape& s = *g[v].shape;
        return s.size() > after && s[s.size() - after - 1] == channels && element_count(s) == channels && s.size() <= shape->size();
      };
      if (!by_channel(scale) || !by_channel(bias)) continue;
      const float epsilon = norm->get_float("epsilon");
      const ValueId w = g.add_constant(g[scale].constant.reshaped({channels})), b = g.add_constant(g[bias].constant.reshaped({channels}));
      become(g, id, "GroupNormalization", {x, w, b}, {{"num_groups", groups}, {"epsilon", epsilon}});
      return true;
    }
  }
  return false;
}

// softmax(s·Q·Kᵀ [+ mask])·V over [batch, heads, tokens, width] or [batch·heads, tokens, width], with the
// scale on either factor or the product.
bool attention(Graph& g, const Matcher& m, NodeId id) {
  const Node& product = g[id];
  if (product.op->name != "MatMul" || !find_op_or_null("Attention")) return false;
  const Node* softmax = m.made_by(product.inputs[0], "Softmax");
  ValueId v = product.inputs[1];
  if (!softmax || !m.single_use(product.inputs[0]) || !g[v].shape || !is_static(*g[v].shape)) return false;
  size_t rank = g[v].shape->size();
  if (rank != 3 && rank != 4) return false;
  int64_t axis = softmax->get_int("axis");
  if (axis != -1 && axis != static_cast<int64_t>(rank) - 1) return false;
  ValueId scores = softmax->inputs[0], mask;
  if (const Node* add = m.made_by(scores, "Add"); add && m.single_use(scores)) {
    int s = m.made_by(add->inputs[0], "MatMul") || m.made_by(add->inputs[0], "Mul") || m.made_by(add->inputs[0], "Div") ? 0 : 1;
    scores = add->inputs[s];
    mask = add->inputs[1 - s];
    // A mask of the standard's Attention hides the keys that it does not reach: one that is spread over them is none.
    const auto &m_shape = g[mask].shape, &all = g[softmax->inputs[0]].shape;
    if (!m_shape || m_shape->empty() || m_shape->size() > rank || !all || m_shape->back() != all->back()) return false;
  }
  double scale = 1;
  auto peel = [&](ValueId x) {  // a scalar factor
    const Node* mul = m.made_by(x, "Mul");
    const Node* div = m.made_by(x, "Div");
    if (mul && m.scalar(mul->inputs[1])) { scale *= *m.scalar(mul->inputs[1]); return mul->inputs[0]; }
    if (mul && m.scalar(mul->inputs[0])) { scale *= *m.scalar(mul->inputs[0]); return mul->inputs[1]; }
    if (div && m.scalar(div->inputs[1])) { scale /= *m.scalar(div->inputs[1]); return div->inputs[0]; }
    return x;
  };
  scores = peel(scores);
  const Node* qk = m.made_by(scores, "MatMul");
  if (!qk) return false;
  ValueId q = peel(qk->inputs[0]), kt = peel(qk->inputs[1]);
  for (ValueId x : {q, kt})
    if (!g[x].shape || g[x].shape->size() != rank || !is_static(*g[x].shape)) return false;
  for (size_t i = 0; i + 2 < rank; ++i)
    if ((*g[q].shape)[i] != (*g[v].shape)[i] || (*g[kt].shape)[i] != (*g[v].shape)[i]) return false;
  // kt = X transposed by perm; K is X transposed by perm with its last two entries exchanged.
  const Node* t = m.made_by(kt, "Transpose");
  std::vector<int64_t> perm;
  ValueId x = kt;
  if (t && t->get_ints("perm").size() == rank) {
    perm = t->get_ints("perm");
    x = t->inputs[0];
  } else {
    for (size_t i = 0; i < rank; ++i) perm.push_back(static_cast<int64_t>(i));
  }
  std::swap(perm[rank - 2], perm[rank - 1]);
  ValueId k = std::is_sorted(perm.begin(), perm.end()) ? x : g.add("Transpose", {x}, {{"perm", perm}});
  Attributes attributes{{"scale", static_cast<float>(scale)}};
  std::vector<ValueId> inputs{q, k, v};
  if (mask) inputs.push_back(mask);
  if (rank == 4) {
    become(g, id, "Attention", inputs, attributes);
    return true;
  }
  auto lift = [&](ValueId value) {  // the first axis counts as heads of a single batch
    Shape s{1};
    s.insert(s.end(), g[value].shape->begin(), g[value].shape->end());
    return g.add("Reshape", {value, g.add_constant(Tensor::of_i64(s))});
  };
  for (size_t i = 0; i < 3; ++i) inputs[i] = lift(inputs[i]);
  Shape flat = *g[g[id].outputs[0]].shape;
  ValueId y = g.add("Attention", inputs, attributes);
  become(g, id, "Reshape", {y, g.add_constant(Tensor::of_i64(flat))}, {});
  return true;
}

// f = w·θ + (w·θ)[i] for the strongest channels i; its even and odd channels (Slice) times a complex number for each pair, by
// Mul, Sub and Add; then Concat and the shuffle that puts the pairs together again (models/families/spartan.cpp).
bool wave(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Reshape") return false;
  const Node* t = m.made_by(n.inputs[0], "Transpose");
  const Node* r = t && t->get_ints("perm") == std::vector<int64_t>{0, 2, 1, 3, 4} ? m.made_by(t->inputs[0], "Reshape") : nullptr;
  const Node* both = r ? m.made_by(r->inputs[0], "Concat") : nullptr;
  if (!both || both->inputs.size() != 2 || both->get_int("axis") != 1) return false;
  const Node *real = m.made_by(both->inputs[0], "Sub"), *imaginary = m.made_by(both->inputs[1], "Add");
  if (!real || !imaginary) return false;
  struct Term {
    ValueId x, factor;
  };
  auto term = [&](ValueId v) -> Term {
    const Node* mul = m.made_by(v, "Mul");
    if (!mul) return {};
    const int side = g[mul->inputs[0]].is_constant() ? 0 : 1;
    return {mul->inputs[1 - side], mul->inputs[side]};
  };
  const Term rc = term(real->inputs[0]), id_ = term(real->inputs[1]);
  Term rd = term(imaginary->inputs[0]), ic = term(imaginary->inputs[1]);
  if (!rc.x || !id_.x || !rd.x || !ic.x) return false;
  if (rd.x != rc.x) std::swap(rd, ic);
  if (rd.x != rc.x || ic.x != id_.x || rc.factor != ic.factor || id_.factor != rd.factor) return false;
  // The even and the odd channels of one value.
  auto half = [&](ValueId v, int64_t first) -> ValueId {
    const Node* s = m.made_by(v, "Slice");
    if (!s || s->inputs.size() != 5 || m.scalar(s->inputs[1]) != static_cast<double>(first) || m.scalar(s->inputs[3]) != 1.0 ||
        m.scalar(s->inputs[4]) != 2.0)
      return {};
    const auto end = m.scalar(s->inputs[2]);
    const auto &x = g[s->inputs[0]].shape, &y = g[v].shape;
    return end && x && y && is_static(*x) && is_static(*y) && x->size() == 4 && (*y)[1] * 2 == (*x)[1] ? s->inputs[0] : ValueId{};
  };
  const ValueId f = half(rc.x, 0);
  if (!f || half(id_.x, 1) != f || g[n.outputs[0]].shape != g[f].shape) return false;
  const int64_t pairs = (*g[f].shape)[1] / 2;
  const Shape &grouped = *g[r->outputs[0]].shape, &whole = *g[f].shape;
  if (grouped != Shape{whole[0], 2, pairs, whole[2], whole[3]}) return false;
  for (ValueId v : {rc.factor, id_.factor})
    if (!g[v].is_constant() || g[v].dtype != DType::kF32 || *g[v].shape != Shape{pairs, 1, 1}) return false;
  const Node* sum = m.made_by(f, "Add");
  if (!sum) return false;
  for (int side : {0, 1}) {
    const Node* gather = m.made_by(sum->inputs[side], "GatherElements");
    const Node* product = m.made_by(sum->inputs[1 - side], "Mul");
    if (!gather || !product || gather->inputs[0] != sum->inputs[1 - side] || gather->get_int("axis") != 1) continue;
    // Indices of ArgMax among fewer channels than there are: never negative, never too large.
    const Node* strongest = m.made_by(gather->inputs[1], "ArgMax");
    if (!strongest || strongest->get_int("axis") != 1 || strongest->get_int("keepdims") != 1) continue;
    const auto &from = g[strongest->inputs[0]].shape, &a = g[product->inputs[0]].shape, &b = g[product->inputs[1]].shape;
    if (!from || !is_static(*from) || from->size() != 4 || (*from)[1] > 2 * pairs || a != b || *a != whole || g[f].dtype != DType::kF32)
      continue;
    const ValueId amplitude = product->inputs[0], phase = product->inputs[1], index = gather->inputs[1];
    const ValueId c = g.add_constant(g[rc.factor].constant.reshaped({pairs})), d = g.add_constant(g[id_.factor].constant.reshaped({pairs}));
    become(g, id, "Wave", {amplitude, phase, index, c, d}, {{"axis", int64_t{1}}}, kLatheDomain);
    return true;
  }
  return false;
}

// Reshape [N, g, C/g, H, W] → Transpose (0, 2, 1, 3, 4) → Reshape [N, C, H, W]
bool channel_shuffle(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Reshape") return false;
  const Node* t = m.made_by(n.inputs[0], "Transpose");
  if (!t || t->get_ints("perm") != std::vector<int64_t>{0, 2, 1, 3, 4}) return false;
  const Node* r = m.made_by(t->inputs[0], "Reshape");
  if (!r) return false;
  const auto &x = g[r->inputs[0]].shape, &grouped = g[r->outputs[0]].shape, &y = g[n.outputs[0]].shape;
  if (!x || !grouped || !y || *x != *y || x->size() != 4 || !is_static(*grouped)) return false;
  if ((*grouped)[1] * (*grouped)[2] != (*x)[1] || (*grouped)[3] != (*x)[2]) return false;
  become(g, id, "ChannelShuffle", {r->inputs[0]}, {{"axis", int64_t{1}}, {"group", (*grouped)[1]}}, "ai.lathe");
  return true;
}

// Reshape [N·C/2, 2, H·W] → Transpose (1, 0, 2) → Reshape [2, N, C/2, H, W] → Gather i: the even or the odd channels
// (ShuffleNet V2's shuffle and split in one, as FastestDet and YOLOX-Nano write it).
bool channel_parity(Graph& g, const Matcher& m, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Gather" || n.get_int("axis") != 0 || !g[n.inputs[1]].is_constant() || g[n.inputs[1]].constant.rank() != 0) return false;
  const Node* split = m.made_by(n.inputs[0], "Reshape");
  const Node* t = split ? m.made_by(split->inputs[0], "Transpose") : nullptr;
  const Node* r = t && t->get_ints("perm") == std::vector<int64_t>{1, 0, 2} ? m.made_by(t->inputs[0], "Reshape") : nullptr;
  if (!r) return false;
  const ValueId x = r->inputs[0];
  const auto &shape = g[x].shape, &pairs = g[r->outputs[0]].shape, &parts = g[split->outputs[0]].shape;
  if (!shape || !pairs || !parts || !is_static(*shape) || shape->size() != 4 || (*shape)[1] % 2 != 0) return false;
  const Shape s = *shape;
  if (*pairs != Shape{s[0] * s[1] / 2, 2, s[2] * s[3]} || *parts != Shape{2, s[0], s[1] / 2, s[2], s[3]}) return false;
  const int64_t index = g[n.inputs[1]].constant.get_int(0), odd = index < 0 ? index + 2 : index;
  if (odd != 0 && odd != 1) return false;
  auto number = [&](int64_t v) { return g.add_constant(Tensor::of_i64({v})); };
  const ValueId begin = number(odd), end = number(s[1]), axis = number(1), step = number(2);
  become(g, id, "Slice", {x, begin, end, axis, step}, {});
  return true;
}

}  // namespace

void recognize(Graph& g) {
  Matcher m(g);
  for (NodeId id : g.order()) {
    if (g[id].dead || !g[id].op->domain.empty()) continue;
    for (auto rule : {gelu_erf, gelu_tanh, self_gated, star_relu, layer_norm, group_norm, attention, wave, channel_shuffle, channel_parity})
      if (rule(g, m, id)) break;
  }
  remove_dead(g);
}

}  // namespace lathe
