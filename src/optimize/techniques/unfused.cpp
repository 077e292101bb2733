// Without recognition, fusion and channels-last layout. It should never win: measuring it finds the network on which
// a fusion hurts.
#include <algorithm>

#include "graph/op.h"
#include "optimize/technique.h"

namespace lathe::techniques {

Technique unfused() {
  Technique t;
  t.key = "unfused";
  t.summary = "the planner's fusion and layout passes left out";
  t.source = "the planner's own alternative";
  t.applies_to = "networks without convolutions";
  t.stage = Technique::Stage::kPlan;
  t.exact = true;
  t.conflicts = {"bf16"};
  t.obstacle = [](const Candidate& c, const TechniqueContext&) -> std::string {
    std::vector<NodeId> order = c.graph.order();
    bool convolves = std::any_of(order.begin(), order.end(), [&](NodeId id) { return c.graph[id].op->name == "Conv"; });
    return convolves ? "convolutions have fast kernels in the fused, channels-last form only" : "";
  };
  t.apply = [](Candidate& c, const Settings&, const TechniqueContext&) { c.options.fuse = false; };
  return t;
}

}  // namespace lathe::techniques
