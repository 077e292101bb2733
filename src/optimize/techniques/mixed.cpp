// Precision layer by layer, by an integer program over what was measured: the least error that a limit of time allows (Dong et al. 2020,
// "HAWQ-V2", section 3.3, allocate bits so; here error and time of each layer are measured instead of modelled).
#include <any>
#include <functional>
#include <span>

#include "optimize/quantized.h"

namespace lathe::techniques {
namespace {

struct Measured {
  std::vector<Layer> layers;
  std::vector<std::vector<LayerOption>> options;  // int8, float
  double fastest = 0, slowest = 0;                // sums of the layers' quicker option, and of float alone
};

// Once for a network: the same for every limit.
const Measured& measured(const Graph& graph, const TechniqueContext& context) {
  std::any& kept = (*context.memo)["mixed " + std::to_string(std::hash<std::string>()(print(graph)))];
  if (const Measured* m = std::any_cast<Measured>(&kept)) return *m;
  Measured m;
  m.layers = layers_of(graph);
  const Samples samples = calibration_samples(context, kSensitivitySamples);
  const std::vector<LayerEffect> effects = int8_effects(graph, m.layers, samples, [&](double part) { context.tell(part * 0.8); });
  // In float, then on codes. Taken from the store where they were measured before: another time would be another allocation.
  const std::vector<double> seconds = context.remember("mixed: seconds of layers", [&] { return float_and_int8_seconds(graph, m.layers, samples); });
  require(seconds.size() == 2 * m.layers.size(), "there are {} times for {} layers", seconds.size(), m.layers.size());
  const std::span as_float(seconds.begin(), m.layers.size()), as_codes(seconds.begin() + static_cast<std::ptrdiff_t>(m.layers.size()), m.layers.size());
  for (size_t i = 0; i < m.layers.size(); ++i) {
    const int64_t weights = m.layers[i].rows * m.layers[i].columns;
    m.options.push_back({{effects[i].squared_error, as_codes[i], weights}, {0, as_float[i], 4 * weights}});
    m.fastest += std::min(as_codes[i], as_float[i]);
    m.slowest += as_float[i];
  }
  kept = std::move(m);
  return *std::any_cast<Measured>(&kept);
}

}  // namespace

Technique mixed() {
  Technique t;
  t.key = "mixed";
  t.summary = "int8 where it pays, float where it hurts: layers chosen by an integer program over measured times and errors";
  t.source = "Dong et al. 2020, HAWQ-V2; Cbc solves the program";
  t.applies_to = "networks with at least three convolutions or products with constant f32 weights";
  t.reproduction = "quantization-survey";
  t.stage = Technique::Stage::kPrecision;
  t.need = Technique::Need::kData;
  t.conflicts = {"bf16", "int8", "unfused"};
  t.knobs = {Knob::range("time", "of the way from the fastest choice of all layers to float, what may be spent on less error", 0.1, 0.02, 0.6, 4, true),
             Knob::choice("rest", "what stays in float is computed in", {"f32", "bf16"})};
  t.obstacle = [](const Candidate& c, const TechniqueContext&) -> std::string {
    return layer_names(c).size() >= 3 ? "" : "fewer than three convolutions or products with constant f32 weights: there is nothing to mix";
  };
  t.apply = [](Candidate& c, const Settings& settings, const TechniqueContext& context) {
    const Measured& m = measured(cleaned(c), context);
    const double limit = m.fastest + settings.number("time", 0.1) * std::max(0.0, m.slowest - m.fastest);
    const Allocation choice = allocate(m.options, limit * 1.0001, 0);
    Scheme scheme = default_scheme();
    scheme.seed = context.seed;
    for (size_t i = 0; i < m.layers.size(); ++i)
      if (choice.choices[i] == 1) scheme.layers[m.layers[i].name] = LayerScheme{};
    quantize_candidate(c, scheme, settings.choice("rest", "f32") == "bf16", context);
  };
  return t;
}

}  // namespace lathe::techniques
