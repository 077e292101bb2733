// Batch norms in training, channels last, and with them the limits that an activation behind sets (ReLU, ReLU6). libtorch's go over the
// numbers more often, and need another two passes for the activation; together they are a third of a step of a MobileNet. These read twice
// and write once, forward and backward. Sums are f32 over blocks of rows and f64 over blocks: the same however many threads there are.
#pragma once

#include <cstdint>
#include <limits>

namespace lathe {

// Numbers [rows, channels] f32, dense: a row is a pixel.
struct NormShape {
  int64_t rows, channels;
};
// What outputs are kept between; ±∞: no limit. A gradient goes through where the output is inside.
struct NormLimits {
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
  bool operator==(const NormLimits&) const = default;
};

// Of each channel, the variance divided by rows.
void channel_moments(const NormShape& s, const float* x, double* mean, double* variance);
// y = x · scale + shift, inside the limits.
void scale_channels(const NormShape& s, const float* x, const float* scale, const float* shift, NormLimits limits, float* y);
// With g′ the gradient where y is inside the limits, else 0: Σ g′ and Σ g′·(x − mean).
void norm_gradient_sums(const NormShape& s, const float* gradient, const float* x, const float* y, NormLimits limits, const float* mean, double* sum, double* sum_with_x);
// g′ to `inside`, where that is given, and Σ g′.
void limited_gradient(const NormShape& s, const float* gradient, const float* y, NormLimits limits, float* inside, double* sum);
// dx = a · g′ + b · x + c, by channel.
void norm_input_gradient(const NormShape& s, const float* gradient, const float* x, const float* y, NormLimits limits, const float* a, const float* b, const float* c, float* dx);

// A row of weights. y = a · x, and whether every number of it is finite.
bool scale_row(int64_t count, const float* x, float a, float* y);
// Σ w · g, then g ← a · g.
double product_and_scale(int64_t count, const float* w, float a, float* g);

}  // namespace lathe
