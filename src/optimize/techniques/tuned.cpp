// Kernels by measurement: where several support a node, the fastest here (planner/tune.h) instead of the
// first in the planner's list.
#include "optimize/technique.h"

namespace lathe::techniques {

Technique tuned() {
  Technique t;
  t.key = "tuned";
  t.summary = "kernels chosen by timing them on this machine";
  t.source = "Frigo and Johnson 1998 (FFTW) for choice by measurement";
  t.applies_to = "every network";
  t.stage = Technique::Stage::kPlan;
  t.exact = true;
  t.obstacle = [](const Candidate&, const TechniqueContext&) -> std::string { return ""; };
  t.apply = [](Candidate& c, const Settings&, const TechniqueContext&) { c.options.tune = true; };
  return t;
}

}  // namespace lathe::techniques
