#include "train/smooth_activations.h"

#include <algorithm>
#include <bit>

#include "core/parallel.h"
#include "train/vectors.h"

namespace lathe {

namespace {

// eˣ for x up to 0 within 2 units of the last place: x = n·ln 2 + r, |r| ≤ ln 2 / 2, and a polynomial of r. Below −80 what is left of it is
// taken for e⁻⁸⁰, which no sum with 1 notices. NaN stays NaN.
__attribute__((always_inline)) inline float exp_below_zero(float x) {
  x = x < -80.0f ? -80.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2²³: its sum with a number below 2²² is rounded to a whole one
  const float n = (x * 1.44269504f + kRound) - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const auto exponent = static_cast<int32_t>(n) + 127;
  return p * std::bit_cast<float>(exponent << 23);
}

struct Point {
  float value, slope;
};

__attribute__((always_inline)) inline Point gelu(float x) {
  const float size = x < 0 ? -x : x;
  const float bell = exp_below_zero(-0.5f * (x * x));
  const float t = 1 / (1 + 0.3275911f * 0.70710678f * size);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * bell;  // Φ(−|x|)
  const float below = x < 0 ? tail : 1 - tail;
  return {x * below, below + x * (0.39894228f * bell)};
}

__attribute__((always_inline)) inline Point silu(float x) {
  const float size = x < 0 ? -x : x;
  const float e = exp_below_zero(-size), part = 1 / (1 + e);
  const float s = x < 0 ? e * part : part, rest = x < 0 ? part : e * part;  // rest = 1 − s, without what a difference loses
  return {x * s, s * (1 + x * rest)};
}

template <Point (*kFunction)(float)>
__attribute__((always_inline)) inline void run(int64_t count, const float* x, float* __restrict y, float* __restrict slope) {
  if (!slope) {
    for (int64_t i = 0; i < count; ++i) y[i] = kFunction(x[i]).value;
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const Point p = kFunction(x[i]);
    y[i] = p.value, slope[i] = p.slope;
  }
}
LATHE_VECTORS void run_gelu(int64_t count, const float* x, float* y, float* slope) { run<gelu>(count, x, y, slope); }
LATHE_VECTORS void run_silu(int64_t count, const float* x, float* y, float* slope) { run<silu>(count, x, y, slope); }

}  // namespace

void smooth_activation(Smooth f, int64_t count, const float* x, float* y, float* slope) {
  const auto run = f == Smooth::kGelu ? run_gelu : run_silu;
  parallel_for(count, kParallelGrain, [&](int64_t begin, int64_t end) { run(end - begin, x + begin, y + begin, slope ? slope + begin : nullptr); });
}

}  // namespace lathe
