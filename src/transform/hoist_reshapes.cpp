// A Reshape that leaves the last axis alone can stand before or after whatever treats each row by itself. Exporters
// put them between a product, its bias and its residual, where they keep the three from becoming one.
#include <algorithm>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

bool is_known(const Graph& g, ValueId v) { return v && g[v].shape && is_static(*g[v].shape) && !g[v].shape->empty() && element_count(*g[v].shape) > 0; }

// Moving axes of size one moves no element.
void flatten_transposes(Graph& g) {
  for (NodeId id : g.order()) {
    Node& n = g[id];
    if (n.op->name != "Transpose" || !n.op->domain.empty() || !is_known(g, n.inputs[0]) || !is_known(g, n.outputs[0])) continue;
    const Shape x = *g[n.inputs[0]].shape, y = *g[n.outputs[0]].shape;
    Ints perm;
    for (int64_t p : n.get_ints("perm"))
      if (x[p] != 1) perm.push_back(p);
    if (n.get_ints("perm").empty() || !std::is_sorted(perm.begin(), perm.end())) continue;
    ValueId shape = g.add_constant(Tensor::of_i64(y));
    g[id].op = &find_op("Reshape");
    g[id].inputs.push_back(shape);
    g[id].attributes.clear();
  }
}

// A Gemm takes matrices only: to move a Reshape before it, it becomes MatMul and Add. Says whether it did.
bool spell_out_gemm(Graph& g, NodeId id) {
  const Node gemm = g[id];
  if (gemm.op->name != "Gemm" || !gemm.op->domain.empty() || gemm.get_int("transA") || gemm.get_float("alpha") != 1 || gemm.get_float("beta") != 1) return false;
  if (!g[gemm.inputs[1]].is_constant()) return false;
  const bool biased = gemm.inputs.size() > 2 && gemm.inputs[2];
  if (biased && (!g[gemm.inputs[2]].is_constant() || g[gemm.inputs[2]].constant.rank() > 1)) return false;
  ValueId w = gemm.inputs[1];
  if (gemm.get_int("transB")) w = g.add_constant(transpose(g[w].constant, {1, 0}), g[w].name + "_t");
  ValueId y = gemm.outputs[0];
  g.remove(id);
  auto make = [&](const char* op, std::vector<ValueId> inputs, ValueId out) {
    Node n;
    n.op = &find_op(op);
    n.name = gemm.name;
    n.scope = gemm.scope;
    n.inputs = std::move(inputs);
    n.outputs = {out};
    g.add_node(std::move(n));
  };
  if (!biased) {
    make("MatMul", {gemm.inputs[0], w}, y);
    return true;
  }
  Value product;
  product.name = g.fresh_name(gemm.name + "_product");
  product.dtype = g[y].dtype;
  product.shape = g[y].shape;
  ValueId between = g.add_value(std::move(product));
  make("MatMul", {gemm.inputs[0], w}, between);
  make("Add", {between, gemm.inputs[2]}, y);
  return true;
}

// The input of a node that computes each row of it by itself and keeps the shape up to the last axis, or −1.
int row_input(const Graph& g, const Node& n) {
  if (!n.op->domain.empty() || n.outputs.size() != 1 || !is_known(g, n.outputs[0])) return -1;
  const std::string& op = n.op->name;
  const Shape& y = *g[n.outputs[0]].shape;
  auto along = [&](size_t i) { return is_known(g, n.inputs[i]) && Shape(g[n.inputs[i]].shape->begin(), g[n.inputs[i]].shape->end() - 1) == Shape(y.begin(), y.end() - 1); };
  if (op == "MatMul") return g[n.inputs[1]].is_constant() && g[n.inputs[1]].constant.rank() == 2 && along(0) ? 0 : -1;
  for (const char* unary : {"Relu", "Gelu", "Swish", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu", "Mish", "Erf"})
    if (op == unary) return 0;
  if (op == "Add" || op == "Mul")
    for (int i : {0, 1}) {
      const Value& row = g[n.inputs[1 - i]];
      const bool small = row.is_constant() && (row.constant.size() == 1 ? row.constant.rank() <= 1 : row.constant.rank() == 1);
      if (small && is_known(g, n.inputs[i]) && *g[n.inputs[i]].shape == y) return i;
    }
  return -1;
}

}  // namespace

void hoist_reshapes(Graph& g) {
  flatten_transposes(g);
  auto consumers = g.consumers();
  std::vector<bool> is_public(g.value_count(), false);
  for (ValueId v : g.outputs) is_public[v.index] = true;
  auto single = [&](ValueId v) { return v.index >= static_cast<int32_t>(consumers.size()) || (!is_public[v.index] && consumers[v.index].size() == 1); };
  auto is_reshape = [&](NodeId id) { return id && !g[id].dead && g[id].op->name == "Reshape" && g[id].op->domain.empty(); };
  // A Reshape of a Reshape is one.
  auto merge = [&](NodeId id) {
    NodeId before = g[g[id].inputs[0]].producer;
    if (!is_reshape(before) || !is_known(g, g[id].outputs[0])) return false;
    ValueId shape = g.add_constant(Tensor::of_i64(*g[g[id].outputs[0]].shape));
    g[id].inputs = {g[before].inputs[0], shape};
    g[id].attributes.clear();
    return true;
  };
  std::vector<NodeId> order = g.order();
  for (NodeId id : order)
    if (is_reshape(id)) merge(id);
  remove_dead(g);
  consumers = g.consumers();
  for (size_t i = order.size(); i-- > 0;) {  // from the end: what moves up meets what was not moved yet
    NodeId id = order[i];
    while (is_reshape(id)) {
      const Node reshape = g[id];
      ValueId x = reshape.inputs[0], y = reshape.outputs[0];
      NodeId producer = g[x].producer;
      if (!producer || !single(x) || !is_known(g, x) || !is_known(g, y) || g[x].shape->back() != g[y].shape->back()) break;
      if (spell_out_gemm(g, producer)) producer = g[x].producer;
      const Node before = g[producer];
      const int from = row_input(g, before);
      if (from < 0) break;
      Shape shape = *g[y].shape;
      shape.back() = g[before.inputs[from]].shape->back();
      // The Reshape takes the producer's place, and the producer the Reshape's: it makes the reshaped value.
      g.remove(id);
      g.remove(producer);
      Node first = reshape;
      Value made;
      made.name = g.fresh_name(g[before.inputs[from]].name);
      made.dtype = g[before.inputs[from]].dtype;
      made.shape = shape;
      first.inputs = {before.inputs[from], g.add_constant(Tensor::of_i64(shape))};
      first.outputs = {g.add_value(std::move(made))};
      first.attributes.clear();
      Node second = before;
      second.inputs[from] = first.outputs[0];
      second.outputs = {y};
      id = g.add_node(std::move(first));
      g.add_node(std::move(second));
    }
    while (is_reshape(id) && merge(id)) {
    }
  }
  remove_identities(g);
  remove_dead(g);
}

}  // namespace lathe
