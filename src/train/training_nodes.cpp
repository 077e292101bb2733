#include "train/training_nodes.h"

#include <utility>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {

void pass_by_training(Graph& g) {
  for (NodeId id : g.order()) {
    const std::string& op = g[id].op->name;
    if (op != "Dropout" && op != "DropPath") continue;
    const ValueId from = g[id].outputs[0], to = g[id].inputs[0];
    for (ValueId v : g.outputs)
      if (v == from && g[to].producer) std::swap(g[to].name, g[from].name);
    g.replace_uses(from, to);
    g.remove(id);
  }
}

void strip_training(Graph& g, size_t outputs) {
  if (g.outputs.size() > outputs) g.outputs.resize(outputs);
  pass_by_training(g);
  remove_dead(g);
  g.compact();
}

}  // namespace lathe
