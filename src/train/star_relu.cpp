#include "train/star_relu.h"

#include <vector>

#include "train/blocks.h"
#include "train/vectors.h"

namespace lathe {

namespace {

constexpr int64_t kBlock = 4096, kGrain = 16;  // numbers of a block; blocks of a thread
constexpr int64_t kLanes = 64;    // sums side by side: an addition waits for the one before

// NaN stays NaN.
__attribute__((always_inline)) inline float positive(float x) { return x < 0 ? 0.0f : x; }

LATHE_VECTORS void forward(int64_t count, const float* x, float scale, float bias, float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) {
    const float r = positive(x[i]);
    y[i] = scale * (r * r) + bias;
  }
}

LATHE_VECTORS void backward(int64_t count, const float* g, const float* x, float twice, float* __restrict dx, float* sums) {
  float scale[kLanes] = {}, bias[kLanes] = {};
  const auto one = [&](int64_t i, int64_t lane) __attribute__((always_inline)) {
    const float r = positive(x[i]), of_r = r * g[i];
    if (dx) dx[i] = twice * of_r;
    scale[lane] += of_r * r;
    bias[lane] += g[i];
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) one(i + lane, lane);
  for (; i < count; ++i) one(i, i % kLanes);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) scale[lane] += scale[lane + half], bias[lane] += bias[lane + half];
  sums[0] = scale[0], sums[1] = bias[0];
}

}  // namespace

void star_relu(int64_t count, const float* x, float scale, float bias, float* y) {
  over_blocks(count, kBlock, kGrain, [&](int64_t first, int64_t n, int64_t) { forward(n, x + first, scale, bias, y + first); });
}

StarReluGradient star_relu_gradient(int64_t count, const float* gradient, const float* x, float scale, float* dx) {
  std::vector<float> sums(static_cast<size_t>(2 * blocks_of(count, kBlock)));
  over_blocks(count, kBlock, kGrain, [&](int64_t first, int64_t n, int64_t block) { backward(n, gradient + first, x + first, 2 * scale, dx ? dx + first : nullptr, &sums[static_cast<size_t>(2 * block)]); });
  StarReluGradient all;
  for (size_t i = 0; i < sums.size(); i += 2) all.scale += sums[i], all.bias += sums[i + 1];
  return all;
}

}  // namespace lathe
