#include "planner/token_memory.h"

#include <algorithm>

#include "graph/op.h"

namespace lathe {

std::optional<TransformerSizes> transformer_sizes(const Graph& g) {
  TransformerSizes s;
  const std::vector<std::vector<NodeId>> readers = g.consumers();
  const auto shape_of = [&](ValueId v) { return g[v].shape && is_static(*g[v].shape) ? *g[v].shape : Shape{}; };
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    const std::string& op = n.op->name;
    if (op == "Conv" && s.patch == 0 && n.op->domain.empty()) {
      const Shape x = shape_of(n.inputs[0]), w = shape_of(n.inputs[1]), y = shape_of(n.outputs[0]);
      if (x.size() != 4 || w.size() != 4 || y.size() != 4 || x[2] != x[3] || w[2] != w[3]) continue;
      if (n.get_ints("strides") != std::vector<int64_t>{w[2], w[2]}) continue;
      s.side = x[2], s.patch = w[2], s.width = y[1];
    } else if (op == "Softmax") {
      const Shape x = shape_of(n.inputs[0]);
      if (x.size() < 3 || x[x.size() - 1] != x[x.size() - 2] || readers[n.outputs[0].index].empty()) continue;
      // The product with the values is among its readers, behind roundings where there are any.
      ValueId v = n.outputs[0];
      while (readers[v.index].size() == 1 && (g[readers[v.index][0]].op->name == "QuantizeLinear" || g[readers[v.index][0]].op->name == "DequantizeLinear"))
        v = g[readers[v.index][0]].outputs[0];
      for (NodeId r : readers[v.index]) {
        const Shape y = g[r].op->name == "MatMul" ? shape_of(g[r].outputs[0]) : Shape{};
        if (y.size() != x.size() || y[y.size() - 2] != x[x.size() - 2]) continue;
        const int64_t heads = x[x.size() - 3];
        if (x.back() * heads * y.back() < s.tokens * s.attention()) continue;
        s.tokens = x.back(), s.heads = heads, s.head = y.back();
      }
    }
  }
  if (s.patch == 0 || s.tokens == 0) return std::nullopt;
  // The widest row of numbers for each token that a product makes, but those that attention reads.
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (n.op->name != "MatMul" && n.op->name != "Gemm") continue;
    const Shape y = shape_of(n.outputs[0]), w = shape_of(n.inputs[1]);
    if (y.size() < 2 || w.size() != 2 || y.back() == 3 * s.attention() || y[y.size() - 2] < s.tokens - 1) continue;
    s.hidden = std::max(s.hidden, y.back());
  }
  return s.hidden > 0 ? std::optional(s) : std::nullopt;
}

TokenMemory token_memory(const TransformerSizes& s, const TokenTechniques& use) {
  const int64_t T = s.tokens, D = s.width, A = s.attention(), M = s.hidden, h = s.heads, H = s.head, P = s.patch;
  TokenMemory m;
  const auto add = [&](std::string name, int64_t bytes) {
    m.operators.push_back({std::move(name), bytes});
    m.bytes = std::max(m.bytes, bytes);
  };
  add("patch embedding", (use.decompose ? 0 : 3 * s.side * s.side) + 3 * P * P + T * D);
  const int64_t result = use.overwrite ? 0 : T * D;  // of projection and MLP, beside the residual
  if (use.integrate) {
    // All heads' mixtures, keys and values of one head, a row of scores in 32 bits, a row of the norm, of queries, and its sums in 32 bits.
    add("attention, head by head", T * D + T * A + 2 * H * T + 4 * T + D + 5 * H);
    add("projection", result + T * D + T * A);
    add("MLP, token by token", result + T * D + D + M);
    return m;
  }
  add("norm", 2 * T * D);
  add("queries, keys, values", 2 * T * D + 3 * T * A);
  add("scores", T * D + 3 * T * A + h * T * T);
  add("mixtures", T * D + 2 * T * A + h * T * T);
  add("projection", result + T * D + T * A);
  add("first and second product of the MLP", result + T * D + T * M);
  return m;
}

double search_memory(double width, double mlp, double patch, double rank_ratio, double side) {
  const double tokens = side / patch * (side / patch) + 1;
  return width * (tokens * (1 + mlp) + width * mlp * rank_ratio);
}

}  // namespace lathe
