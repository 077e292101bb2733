// What techniques that quantize share (techniques/int8.cpp, mixed.cpp, weights.cpp).
#pragma once

#include <optional>

#include "formats/onnx.h"
#include "optimize/dataset.h"
#include "optimize/technique.h"
#include "quantize/sensitivity.h"

namespace lathe {

constexpr size_t kCalibrationSamples = 64;  // that ranges and rounding see, at most
constexpr size_t kSensitivitySamples = 12;  // that tell what one layer does to the network, at most

// A network, cleaned up, and the samples that it is fitted to, from files.
class QuantizeInput {
 public:
  // `data`: of Dataset; "" for none.
  QuantizeInput(const std::string& model, const std::string& data, const DatasetOptions& options);
  QuantizeInput(const QuantizeInput&) = delete;  // samples() look at it
  QuantizeInput& operator=(const QuantizeInput&) = delete;
  const Model& model() const { return model_; }
  Samples samples();

 private:
  Model model_;
  std::optional<Dataset> data_;
};

Samples calibration_samples(const TechniqueContext& context, size_t most);
// The candidate's network as it is after clean_up(), and its layers' names.
Graph cleaned(const Candidate& candidate);
std::vector<std::string> layer_names(const Candidate& candidate);
// Why there is nothing to quantize; "" when there is.
std::string nothing_to_quantize(const Candidate& candidate);
// What int8 does to the network, layer by layer alone; and the seconds that the layers take, all in float and then all on codes.
std::vector<LayerEffect> int8_effects(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples, const std::function<void(double)>& progress);
std::vector<double> float_and_int8_seconds(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples);
// Quantizes the candidate by the scheme. `bf16`: what stays in float is computed in bf16.
void quantize_candidate(Candidate& candidate, const Scheme& scheme, bool bf16, const TechniqueContext& context);

}  // namespace lathe
