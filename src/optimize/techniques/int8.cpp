// Products on codes of 8 bits: weights in int8 by channel, activations in uint8 in ranges found on the calibration samples, rounding that
// makes the errors of a sum good, biases corrected (quantize/quantize.h). Layers that lose more than they gain stay in float.
#include "optimize/quantized.h"

namespace lathe::techniques {
namespace {

constexpr const char* kLayers = "layers";

Scheme scheme_of(const Settings& settings, uint64_t seed) {
  Scheme scheme = parse_scheme("w:int8," + settings.choice("rounding", "gptq") + " a:uint8," + settings.choice("ranges", "mse"));
  scheme.correct_bias = settings.choice("bias", "corrected") == "corrected";
  if (settings.choice("smooth", "no") == "yes") scheme.smooth = 0.5;
  scheme.seed = seed;
  for (const auto& [layer, choice] : settings.layers(kLayers))
    if (choice == "float") scheme.layers[layer] = LayerScheme{};
  return scheme;
}

}  // namespace

Technique int8() {
  Technique t;
  t.key = "int8";
  t.summary = "weights and activations in 8 bits, integer arithmetic; fitted to calibration samples";
  t.source = "Jacob et al. 2018; Frantar et al. 2023 (GPTQ) for the rounding, Nagel et al. 2019 for biases; survey: Rokh et al. 2023";
  t.applies_to = "networks with convolutions or products with constant f32 weights";
  t.reproduction = "quantization-survey";
  t.stage = Technique::Stage::kPrecision;
  t.need = Technique::Need::kData;
  t.conflicts = {"bf16", "unfused"};
  t.knobs = {Knob::choice("rest", "what stays in float is computed in", {"f32", "bf16"}),
             Knob::choice("ranges", "how the ranges of activations are chosen", {"mse", "minmax", "entropy", "percentile:99.99"}),
             Knob::choice("rounding", "how codes of weights are chosen", {"gptq", "nearest"}),
             Knob::choice("smooth", "large channels of activations move into the weights (SmoothQuant)", {"no", "yes"}),
             Knob::per_layer(kLayers, "precision of each product", {"int8", "float"}, {{"int8", 8}, {"float", 32}}, [](const Candidate& c, const TechniqueContext&) { return layer_names(c); })};
  t.obstacle = [](const Candidate& c, const TechniqueContext&) { return nothing_to_quantize(c); };
  t.apply = [](Candidate& c, const Settings& settings, const TechniqueContext& context) {
    quantize_candidate(c, scheme_of(settings, context.seed), settings.choice("rest", "f32") == "bf16", context);
  };
  t.sensitivities = [](const Candidate& candidate, const TechniqueContext& context) {
    const Graph graph = cleaned(candidate);
    const Samples samples = calibration_samples(context, kSensitivitySamples);
    const std::vector<Layer> layers = layers_of(graph);
    const std::vector<LayerEffect> effects = int8_effects(graph, layers, samples, [&](double part) { context.tell(part); });
    const std::vector<double> seconds = float_and_int8_seconds(graph, layers, samples);
    std::vector<LayerSensitivity> result;
    for (size_t i = 0; i < layers.size(); ++i) result.push_back({layers[i].name, "float", -effects[i].mean_error, seconds[layers.size() + i] - seconds[i]});
    return result;
  };
  return t;
}

}  // namespace lathe::techniques
