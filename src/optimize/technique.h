// The catalogue: what can be done to a network. A Technique is one file in techniques/ that defines
// `Technique NAME()` in namespace lathe::techniques, NAME being the file's; CMake gathers them.
//
//   for (const Technique& t : catalogue())
//     if (std::string why = obstacle(t, candidate, context); why.empty()) t.apply(candidate, settings, context);
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/device.h"
#include "planner/plan.h"

namespace lathe {

// A choice for each of some layers, by the names of their nodes; layers that are not named keep the knob's first choice.
using LayerChoices = std::map<std::string, std::string>;
// What a knob is set to: a whole number, a number, a named choice, or a choice for each layer.
using Setting = std::variant<int64_t, double, std::string, LayerChoices>;

// By the names of knobs. A knob that is not named has its first value. Reading one of another kind than was set throws kInternal.
struct Settings : std::map<std::string, Setting> {
  using std::map<std::string, Setting>::map;
  int64_t whole(const std::string& knob, int64_t otherwise) const;
  double number(const std::string& knob, double otherwise) const;
  std::string choice(const std::string& knob, const std::string& otherwise) const;
  LayerChoices layers(const std::string& knob) const;
};

// A network and how it is to be planned and run: what a technique changes.
struct Candidate {
  std::vector<std::string> applied;  // keys, with their settings: "threads(threads=1)"
  Graph graph;                       // standard ONNX, open sizes still open: it is what model.onnx holds
  PlanOptions options;
  int threads = 1;
  LayerChoices layers;               // what each layer was set to, by a knob of layers ("int8"); for the report
};

// The samples that techniques may be fitted to. No sample on which candidates are compared is among them.
struct CalibrationData {
  size_t count = 0;
  bool labelled = false;
  std::function<std::vector<Tensor>(size_t)> inputs = nullptr;  // of sample i, in the order of the graph's inputs
  std::function<int64_t(size_t)> label = nullptr;               // class of sample i, as the network numbers classes; −1: unknown
};

struct TechniqueContext {
  const Device& device;
  int threads = 1;                             // that may be used
  std::map<std::string, Shape> input_shapes = {};  // of one sample
  CalibrationData calibration = {};
  uint64_t seed = 1;                           // of every random choice
  // What is dear and the same for several candidates (statistics of activations): kept from one apply() to the next.
  std::shared_ptr<std::map<std::string, std::any>> memo = std::make_shared<std::map<std::string, std::any>>();
  // Times that a technique measures itself and decides by go through here: what was measured once is taken from the store, so that the
  // candidate is the same whenever it is made again. `what` names them, with all that they depend on but model, data and machine.
  std::function<std::vector<double>(const std::string& what, const std::function<std::vector<double>()>& measure)> recorded = nullptr;
  std::vector<double> remember(const std::string& what, const std::function<std::vector<double>()>& measure) const {
    return recorded ? recorded(what, measure) : measure();
  }
  // Long work tells how far it is and may be interrupted there: the function throws.
  std::function<void(double)> progress = nullptr;
  void tell(double part) const {
    if (progress) progress(part);
  }
};

// What a technique lets be chosen. The first value is the one that is tried first and stands for "not set".
struct Knob {
  enum class Kind { kWhole, kRange, kChoice, kLayers };

  std::string name, meaning;
  Kind kind = Kind::kWhole;
  // kWhole: values worth trying for this candidate, most promising first.
  std::function<std::vector<int64_t>(const Candidate&, const TechniqueContext&)> values = nullptr;
  // kRange: `first`, and what the search may move it to; `steps` values, evenly spaced in the number or its logarithm.
  double first = 0, low = 0, high = 0;
  int steps = 5;
  bool logarithmic = false;
  // kChoice and kLayers, with the bits that a weight takes under each (kLayers; 0: not told).
  std::vector<std::string> choices = {};
  std::map<std::string, int> bits = {};
  // kLayers: the names of the nodes that have the choice, in the order of the network.
  std::function<std::vector<std::string>(const Candidate&, const TechniqueContext&)> layers = nullptr;

  static Knob whole(std::string name, std::string meaning, decltype(values) values);
  static Knob range(std::string name, std::string meaning, double first, double low, double high, int steps = 5, bool logarithmic = false);
  static Knob choice(std::string name, std::string meaning, std::vector<std::string> choices);
  static Knob per_layer(std::string name, std::string meaning, std::vector<std::string> choices, std::map<std::string, int> bits, decltype(layers) layers);
};

// What it does to the network when one layer alone is set to `choice` and all others are at the knob's first choice.
struct LayerSensitivity {
  std::string layer, choice;
  double error = 0;    // added to the mean difference of the network's outputs over their range; below 0: taken away
  double seconds = 0;  // saved in one inference; below 0: lost
};

struct Technique {
  // In this order they are applied: a later stage sees what an earlier one made of the network.
  enum class Stage { kGraph, kPrecision, kPlan };
  // kData and kLabels: calibration samples, with labels. Without them the technique does not apply.
  enum class Need { kNone, kData, kLabels, kTraining };

  std::string key, summary, source;  // source: the paper or specification it follows
  std::string applies_to;            // "networks with convolutions or matrix products": for `lathe techniques`
  std::string reproduction;          // the key of `lathe reproduce` that shows its effect; "" when there is none
  Stage stage = Stage::kGraph;
  Need need = Need::kNone;
  bool exact = false;                   // changes no answer beyond rounding in f32
  std::vector<std::string> conflicts;   // keys; one side's word is enough
  std::vector<Knob> knobs;
  // Why it does not apply; "" when it does. What `need` says is asked before (obstacle()).
  std::function<std::string(const Candidate&, const TechniqueContext&)> obstacle;
  std::function<void(Candidate&, const Settings&, const TechniqueContext&)> apply;
  // Of every layer and every choice but the first, of its knob of layers, in one pass over some calibration samples: cheaper than
  // setting each layer and measuring the network, which is what the search does where this is left out.
  std::function<std::vector<LayerSensitivity>(const Candidate&, const TechniqueContext&)> sensitivities = nullptr;
};

std::string_view name_of(Technique::Stage stage);  // "graph", "precision", "plan"
std::string_view name_of(Technique::Need need);    // "nothing", "data", "labels", "training"

// All of them, in the order of stages.
const std::vector<Technique>& catalogue();
const Technique& find_technique(std::string_view key);  // throws kUsage with the list of keys
bool conflict(const Technique& a, const Technique& b);

// Why it does not apply to the candidate: what it needs is not there, or what the technique itself says.
std::string obstacle(const Technique& technique, const Candidate& candidate, const TechniqueContext& context);

// The values of a knob that are worth trying, the first one first. A knob of layers has one: every layer at its first choice.
std::vector<Setting> values_of(const Knob& knob, const Candidate& candidate, const TechniqueContext& context);
// The settings that a technique is tried with at first: every knob at its first value, then each of their other values alone.
// The first leaves every knob but those of whole numbers unsaid.
std::vector<Settings> settings_of(const Technique& technique, const Candidate& candidate, const TechniqueContext& context);
// "bf16", "threads(threads=1)", "int8(calibration=entropy, layers=2 of int4)"
std::string label_of(const Technique& technique, const Settings& settings);

// One technique among those that make up a candidate.
struct Applied {
  const Technique* technique;
  Settings settings;
};
// Applies all of them to `base`, in the order of stages. Sets Candidate::applied and layers.
Candidate compose(const Candidate& base, std::vector<Applied> parts, const TechniqueContext& context);
// The same text for the same choice, whatever the order: what a trial is kept under. JSON.
std::string canonical(const std::vector<Applied>& parts);

}  // namespace lathe
