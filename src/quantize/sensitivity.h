// How much a network minds that one of its layers is quantized.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "planner/plan.h"
#include "quantize/quantize.h"

namespace lathe {

// What one layer's scheme does to the network when all others stay in float.
struct LayerEffect {
  double weight_noise = 0;     // squared error of the weights over their squares
  double squared_error = 0;    // of the network's outputs over their squares
  double mean_error = 0;       // mean magnitude of the outputs' error over their range
  double cosine_distance = 0;  // 1 − cosine of the outputs
  double divergence = 0;       // Kullback–Leibler, of the softmax of the first output in nats; 0 where that is not a row of scores
  double changed = 0;          // share of samples whose largest score is another one
};

// By layer, then by option. One pass over the samples for each. Options that are on codes also round the layer's input, in the range that
// `activations` finds.
std::vector<std::vector<LayerEffect>> layer_effects(const Graph& graph, const std::vector<Layer>& layers, const std::vector<LayerScheme>& options,
                                                    const ActivationScheme& activations, const Samples& samples,
                                                    const std::function<void(double)>& progress = nullptr);

// Mean trace of the Fisher information by layer: trace / weights (Dong et al. 2020, "HAWQ-V2", uses the Hessian's, which is the
// Fisher's where the network is right). By Hutchinson's estimator without derivatives: weights are moved along a random
// sign vector v by ε of their root mean square, and vᵀFv = 2·KL/ε² of the answers. The first output must be a row of scores. A layer's sensitivity
// to a quantizer is this times ‖Q(W) − W‖².
std::vector<double> fisher_traces(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples, int probes, uint64_t seed,
                                  const std::function<void(double)>& progress = nullptr);

// Seconds of one inference that each layer takes in this plan, with what was fused into it; least of several runs.
std::vector<double> layer_seconds(const Graph& graph, const PlanOptions& options, const std::vector<Layer>& layers, const Samples& samples);

// One option for each layer, so that the sum of errors is least and the sums of seconds and bytes keep to their limits: an integer
// program, solved by Cbc.
struct LayerOption {
  double error = 0, seconds = 0;
  int64_t bytes = 0;
};
struct Allocation {
  std::vector<size_t> choices;  // by layer
  double error = 0, seconds = 0;
  int64_t bytes = 0;
};
// Throws kInput when no choice keeps to the limits. A limit that is 0 or less is none.
Allocation allocate(const std::vector<std::vector<LayerOption>>& layers, double most_seconds, int64_t most_bytes);

}  // namespace lathe
