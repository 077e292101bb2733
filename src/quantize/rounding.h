// Codes that make what a layer computes nearly right, instead of its weights one by one. All work on a layer's weights as a
// matrix (a row an output channel), with what its rows are multiplied by.
#pragma once

#include <functional>
#include <optional>

#include "quantize/matrix.h"
#include "quantize/quantizer.h"

namespace lathe {

// Frantar et al. 2023, "GPTQ", algorithm 1: column after column, the error of each is made good by those that follow.
// Grids of groups are fitted when their columns are reached. `moments`: E[x·xᵀ] [columns, columns]. Damped by 1 % of the mean of its diagonal.
QuantizedTensor gptq(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, Products& products);

struct AdaRoundOptions {
  int steps = 1000;
  float rate = 0.02f;
  double regularization = 0.01;  // λ, of the mean squared output
  uint64_t seed = 1;
};
// Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", section 3: each weight of a uniform quantizer goes to
// one of its two neighbours so that E‖(W − W̃)x‖² is least, by Adam on a rectified sigmoid (ζ = 1.1, γ = −0.1) with β from 20 to 2.
// Never worse than nearest for these moments: what is worse for a row is not taken.
QuantizedTensor adaround(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, Products& products, const AdaRoundOptions& options = {});

// Lin et al. 2023, "AWQ", section 3.2: factors mean|x|^α of the input channels, α from a grid of 20, so that E‖(W − Q(W·s)/s)x‖² is least.
struct AwqScales {
  std::vector<float> factors;  // by column: weights times these are quantized, inputs are divided by them
  double alpha = 0, error = 0, error_without = 0;
};
AwqScales awq_scales(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, const std::vector<float>& mean_magnitude, Products& products);

// Σ over rows of E[((near − exact)·x)²].
double output_error(const Tensor& near, const Tensor& exact, const Tensor& moments, Products& products);
std::vector<double> output_errors(const Tensor& near, const Tensor& exact, const Tensor& moments, Products& products);  // by row

}  // namespace lathe
