// Factors of channels moved from one layer into the next, which leaves the network's function as it was: what comes out of a
// layer is divided by s, what the next one multiplies it with is multiplied by s.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quantize/layers.h"

namespace lathe {

// Can the constants before `value` divide its channels by factors? They can for the scale and shift of a layer norm, and for a
// layer of which `value` is the output, directly or through Relu or LeakyRelu; everything between must have one reader.
bool divisible(const Graph& graph, ValueId value);
// Does it. `factors`: one a channel. Call where divisible() is true and all readers of `value` are multiplied.
void divide_channels(Graph& graph, ValueId value, const std::vector<float>& factors);
// The weights of the layer times the factor of the input channel that they meet.
void multiply_inputs(Graph& graph, const Layer& layer, const std::vector<float>& factors);
// How many channels the layer reads, and the largest magnitude of the weights that meet each.
std::vector<float> input_magnitudes(const Graph& graph, const Layer& layer);

// Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1: for pairs of layers with a
// positively homogeneous activation between, s = √(r₁·r₂)/r₂ by channel, until nothing moves by more than a
// thousandth. Says how many pairs there were. Relu6 between two layers is not homogeneous: such a pair is left alone.
int equalize(Graph& graph);
// Clip from 0 to a positive limit becomes Relu, as that paper does before. Says how many.
int relu_for_relu6(Graph& graph);

// Xiao et al. 2023, "SmoothQuant", equation 4: s = max|X|^α / max|W|^(1−α), where layer norms and layers before can take it. `largest`: for each
// of `layers` the largest magnitude of each input channel. Says for how many layers.
int smooth(Graph& graph, const std::vector<Layer>& layers, const std::vector<std::vector<float>>& largest, double alpha);

// What must be added to each output channel so that its mean is that of the exact weights: (W − W̃)·E[x] by row.
// Adds it to the layer's bias, which it gets if it has none.
void add_to_bias(Graph& graph, const Layer& layer, const std::vector<float>& change);

}  // namespace lathe
