// An If whose condition is known is the branch that it takes: its nodes stand in the graph itself.
#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Copies a branch into `g`; `outer`: the values that it captures. Returns its outputs.
std::vector<ValueId> splice(Graph& g, const Graph& branch, std::span<const ValueId> outer) {
  std::vector<ValueId> place(branch.value_count());
  for (size_t i = 0; i < branch.captured.size(); ++i) place[branch.captured[i].index] = outer[i];
  auto placed = [&](std::vector<ValueId> list) {
    for (ValueId& v : list) {
      if (!v) continue;
      ValueId& at = place[v.index];
      if (!at) {
        Value value = branch[v];
        value.producer = {};
        at = g.add_value(std::move(value));
      }
      v = at;
    }
    return list;
  };
  for (NodeId id : branch.order()) {
    Node n = branch[id];
    n.inputs = placed(n.inputs);
    n.captures = placed(n.captures);
    n.outputs = placed(n.outputs);
    g.add_node(std::move(n));
  }
  return placed(branch.outputs);
}

}  // namespace

std::vector<BranchCaptures> branches_of(const Node& n) {
  std::vector<BranchCaptures> branches;
  size_t at = 0;  // captures follow the order of attribute names
  for (const auto& [name, value] : n.attributes) {
    const auto* graph = std::get_if<std::shared_ptr<Graph>>(&value);
    if (!graph || !*graph) continue;
    const size_t count = (*graph)->captured.size();
    check_model(at + count <= n.captures.size(), "node '{}': the branches capture more values than the node lists", n.name);
    branches.push_back({name, *graph, std::span(n.captures).subspan(at, count)});
    at += count;
  }
  return branches;
}

bool inline_branches(Graph& g) {
  bool changed = false;
  for (NodeId id : g.order()) {
    if (g[id].op->name != "If" || !g[id].op->domain.empty()) continue;
    const Value& condition = g[g[id].inputs[0]];
    if (!condition.is_constant() || condition.constant.size() != 1) continue;
    const Node n = g[id];
    for (const BranchCaptures& b : branches_of(n)) {
      if (b.name != (condition.constant.get_int(0) ? "then_branch" : "else_branch")) continue;
      if (!b.graph->inputs.empty() || b.graph->outputs.size() < n.outputs.size()) break;  // the shape rule says what is wrong
      g.remove(id);
      const std::vector<ValueId> results = splice(g, *b.graph, b.captures);
      for (size_t i = 0; i < n.outputs.size(); ++i) {
        if (!n.outputs[i]) continue;
        Node same;  // outputs of the graph keep their names
        same.op = &find_op("Identity");
        same.name = g.fresh_name(n.name);
        same.scope = n.scope;
        same.inputs = {results[i]};
        same.outputs = {n.outputs[i]};
        g.add_node(std::move(same));
      }
      changed = true;
      break;
    }
  }
  return changed;
}

}  // namespace lathe
