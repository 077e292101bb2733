// The catalogue: what can be done to a network. A Technique is one file in techniques/ that defines
// `Technique NAME()` in namespace lathe::techniques, NAME being the file's; CMake gathers them.
//
//   for (const Technique& t : catalogue())
//     if (std::string why = t.obstacle(candidate, context); why.empty()) t.apply(candidate, settings);
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/device.h"
#include "planner/plan.h"

namespace lathe {

// A network and how it is to be planned and run: what a technique changes.
struct Candidate {
  std::vector<std::string> applied;  // keys, with their settings: "threads(threads=1)"
  Graph graph;                       // standard ONNX, open sizes still open: it is what model.onnx holds
  PlanOptions options;
  int threads = 1;
};

struct TechniqueContext {
  const Device& device;
  int threads = 1;  // that may be used
};

using Settings = std::map<std::string, int64_t>;

struct Knob {
  std::string name, meaning;
  // Values worth trying for this candidate, most promising first.
  std::function<std::vector<int64_t>(const Candidate&, const TechniqueContext&)> values;
};

struct Technique {
  // In this order they are applied: a later stage sees what an earlier one made of the network.
  enum class Stage { kGraph, kPrecision, kPlan };
  enum class Need { kNone, kData, kLabels, kTraining };

  std::string key, summary, source;  // source: the paper or specification it follows
  Stage stage = Stage::kGraph;
  Need need = Need::kNone;
  bool exact = false;                   // changes no answer beyond rounding in f32
  std::vector<std::string> conflicts;   // keys
  std::vector<Knob> knobs;
  // Why it does not apply; "" when it does.
  std::function<std::string(const Candidate&, const TechniqueContext&)> obstacle;
  std::function<void(Candidate&, const Settings&)> apply;
};

// All of them, in the order of stages.
const std::vector<Technique>& catalogue();
const Technique& find_technique(std::string_view key);  // throws kUsage with the list of keys

// Every combination of the knobs' values; one empty Settings when there is no knob.
std::vector<Settings> settings_of(const Technique& technique, const Candidate& candidate, const TechniqueContext& context);
std::string label_of(const Technique& technique, const Settings& settings);  // "bf16", "threads(threads=1)"

}  // namespace lathe
