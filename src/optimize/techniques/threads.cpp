// Fewer threads than allowed. Small layers lose more by waking a thread than it brings.
#include "optimize/technique.h"

namespace lathe::techniques {

Technique threads() {
  Technique t;
  t.key = "threads";
  t.summary = "fewer threads than are allowed";
  t.source = "the planner's own alternative";
  t.applies_to = "every network, where more than one thread is allowed";
  t.stage = Technique::Stage::kPlan;
  t.exact = true;
  t.knobs = {Knob::whole("threads", "threads of the network", [](const Candidate&, const TechniqueContext& context) {
                std::vector<int64_t> values;
                for (int64_t n = context.threads / 2; n >= 1; n /= 2) values.push_back(n);
                return values;
              })};
  t.obstacle = [](const Candidate&, const TechniqueContext& context) -> std::string {
    return context.threads > 1 ? "" : "one thread is allowed, there are no fewer";
  };
  t.apply = [](Candidate& c, const Settings& settings, const TechniqueContext&) { c.threads = static_cast<int>(settings.whole("threads", c.threads)); };
  return t;
}

}  // namespace lathe::techniques
