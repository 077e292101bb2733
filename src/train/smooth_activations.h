// GELU and SiLU in training: the value and the slope from one exponential, so that the backward pass is a product. What is kept is the
// slope in the place of the input.
#pragma once

#include <cstdint>

namespace lathe {

enum class Smooth {
  kGelu,  // x · Φ(x), with Φ from erf by Abramowitz and Stegun 7.1.26, within 1e-7 (Hendrycks and Gimpel 2016)
  kSilu,  // x / (1 + e⁻ˣ) (Elfwing et al. 2018)
};

// y = f(x), slope = f′(x); `slope` may be null.
void smooth_activation(Smooth f, int64_t count, const float* x, float* y, float* slope);

}  // namespace lathe
