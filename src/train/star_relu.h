// StarReLU in training: y = scale · max(x, 0)² + bias, two numbers for all (Yu et al. 2024, MetaFormer Baselines for Vision, section
// 2.2). Step by step it takes eleven passes over maps and keeps two of them; this takes two and keeps x. Sums are f32 over blocks and f64 over
// blocks: the same however many threads there are.
#pragma once

#include <cstdint>

namespace lathe {

void star_relu(int64_t count, const float* x, float scale, float bias, float* y);

struct StarReluGradient {
  double scale = 0, bias = 0;  // Σ g · max(x, 0)², Σ g
};
// dx = 2 · scale · max(x, 0) · g; `dx` may be null.
StarReluGradient star_relu_gradient(int64_t count, const float* gradient, const float* x, float scale, float* dx);

}  // namespace lathe
