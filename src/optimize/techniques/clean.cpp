// The network without what it does not need: folded constants and batch norms, no dead, double or idle nodes.
// The planner does the same before it runs anything, so that lathe gains nothing; the file gets smaller, and
// other runtimes may get faster.
#include "optimize/technique.h"
#include "transform/passes.h"

namespace lathe::techniques {

Technique clean() {
  Technique t;
  t.key = "clean";
  t.summary = "fold constants and batch norms, remove dead, double and idle nodes";
  t.source = "Jacob et al. 2018, section 3.2 (batch norm folding); common compiler passes";
  t.applies_to = "every network that is not clean already";
  t.reproduction = "quantization-survey";
  t.stage = Technique::Stage::kGraph;
  t.exact = true;
  t.obstacle = [](const Candidate& c, const TechniqueContext&) -> std::string {
    Graph cleaned = c.graph;
    clean_up(cleaned, true);
    size_t before = c.graph.order().size(), after = cleaned.order().size();
    return after < before ? "" : "the network is clean already";
  };
  t.apply = [](Candidate& c, const Settings&, const TechniqueContext&) { clean_up(c.graph, true); };  // codes of weights stay codes
  return t;
}

}  // namespace lathe::techniques
