// Weights in bf16 that keep a product's answers. Rounding each weight to nearest leaves a sum of errors that every pixel
// or token sees alike, since what a product reads is rarely centred at zero: activations such as Relu make it positive.
// A few weights of a row, those that lie nearly in the middle between two numbers of bf16, are rounded to the other
// side so that the row's errors cancel for the input that is expected (as SQuant does, Guo et al. 2022, "SQuant:
// On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", section 3, where each input counts the same).
// Nothing is run and no data is needed: what is expected follows from the weights before.
#pragma once

#include <map>
#include <vector>

#include "graph/graph.h"

namespace lathe {

// By channel, the last axis of a value.
struct Moments {
  std::vector<float> mean, variance;
};
// The moments of the values of a fused network, by value index, where they can be followed: the inputs are normalized
// (mean 0, variance 1), sums are normally distributed, and an activation makes of a normal distribution what it does
// (after Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2).
std::map<int32_t, Moments> expected_moments(const Graph& graph);

// The weights of a Conv [O, C / group, kH, kW] or a transposed matrix [N, K], or, with `columns`, of a MatMul [K, N], in
// bf16. `mean`: of each channel of the input, C of them or K; empty: all the same. A row that holds a NaN or an infinity
// is rounded to nearest.
Tensor round_weights(const Tensor& weights, bool columns, int64_t group, const std::vector<float>& mean);

}  // namespace lathe
