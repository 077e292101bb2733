// What techniques that quantize share (techniques/int8.cpp, mixed.cpp, weights.cpp).
#pragma once

#include "optimize/technique.h"
#include "quantize/quantize.h"

namespace lathe {

constexpr size_t kCalibrationSamples = 64;  // that ranges and rounding see, at most
constexpr size_t kSensitivitySamples = 12;  // that tell what one layer does to the network, at most

Samples calibration_samples(const TechniqueContext& context, size_t most);
// The candidate's network as it is after clean_up(), and its layers' names.
Graph cleaned(const Candidate& candidate);
std::vector<std::string> layer_names(const Candidate& candidate);
// Why there is nothing to quantize; "" when there is.
std::string nothing_to_quantize(const Candidate& candidate);
// Quantizes the candidate by the scheme. `bf16`: what stays in float is computed in bf16.
void quantize_candidate(Candidate& candidate, const Scheme& scheme, bool bf16, const TechniqueContext& context);

}  // namespace lathe
