#include "train/batch_norm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "train/blocks.h"
#include "train/vectors.h"

namespace lathe {

namespace {

constexpr int64_t kRows = 256;  // whose sums are f32

// Calls f<V, kVectors>(channel) for groups of channels that lie side by side, 64 or 16 or 8; the channels are a multiple of 8.
template <class F>
__attribute__((always_inline)) inline void over_channels(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + 64 <= channels; c += 64) f.template operator()<Vector, 4>(c);
  for (; c + 16 <= channels; c += 16) f.template operator()<Vector, 1>(c);
  for (; c + 8 <= channels; c += 8) f.template operator()<Half, 1>(c);
}

// The gradient where y is inside the limits. A number at a time: of comparisons of whole vectors the compiler makes one for each number.
__attribute__((always_inline)) inline float inside(float gradient, float y, NormLimits l) {
  const float above = y > l.low ? gradient : 0.0f;
  return y < l.high ? above : 0.0f;
}

// Two sums by channel over `rows`: of what term(row, channel) gives.
template <class F>
__attribute__((always_inline)) inline void sum_rows(int64_t rows, int64_t channels, F&& term, float* first, float* second) {
  over_channels(channels, [&]<class V, int64_t kVectors>(int64_t c) __attribute__((always_inline)) {
    constexpr int64_t kWidth = kVectors * static_cast<int64_t>(sizeof(V) / sizeof(float)), kChains = 4 / kVectors;  // an addition waits for the one before
    float sum[kChains][kWidth] = {}, other[kChains][kWidth] = {};
    const auto add = [&](int64_t r, int64_t chain) __attribute__((always_inline)) {
      for (int64_t i = 0; i < kWidth; ++i) {
        const auto [x, y] = term(r, c + i);
        sum[chain][i] += x;
        other[chain][i] += y;
      }
    };
    int64_t r = 0;
    for (; r + kChains <= rows; r += kChains)
      for (int64_t i = 0; i < kChains; ++i) add(r + i, i);
    for (; r < rows; ++r) add(r, 0);
    for (int64_t chain = 1; chain < kChains; ++chain)
      for (int64_t i = 0; i < kWidth; ++i) sum[0][i] += sum[chain][i], other[0][i] += other[chain][i];
    std::memcpy(first + c, sum[0], sizeof sum[0]);
    std::memcpy(second + c, other[0], sizeof other[0]);
  });
}
struct Pair {
  float first, second;
};

// Σ (x − first) and Σ (x − first)² of a block, `first` its first row: numbers far from 0 lose nothing.
LATHE_VECTORS void moments_of_block(const float* x, int64_t rows, int64_t channels, float* sums, float* squares) {
  sum_rows(rows, channels, [&](int64_t r, int64_t c) __attribute__((always_inline)) {
    const float d = x[r * channels + c] - x[c];
    return Pair{d, d * d};
  }, sums, squares);
}

LATHE_VECTORS void scale_block(const float* x, int64_t rows, int64_t channels, const float* scale, const float* shift, NormLimits l, float* y) {
  over_channels(channels, [&]<class V, int64_t kVectors>(int64_t c) __attribute__((always_inline)) {
    V a[kVectors], b[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) a[v] = reinterpret_cast<const V*>(scale + c)[v], b[v] = reinterpret_cast<const V*>(shift + c)[v];
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < kVectors; ++v) {
        V z = reinterpret_cast<const V*>(x + r * channels + c)[v] * a[v] + b[v];
        z = z < l.low ? V{} + l.low : z;
        z = z > l.high ? V{} + l.high : z;
        reinterpret_cast<V*>(y + r * channels + c)[v] = z;
      }
  });
}

LATHE_VECTORS void gradient_sums_of_block(const float* g, const float* x, const float* y, int64_t rows, int64_t channels, NormLimits l, const float* mean, float* sums, float* with_x) {
  sum_rows(rows, channels, [&](int64_t r, int64_t c) __attribute__((always_inline)) {
    const int64_t at = r * channels + c;
    const float d = inside(g[at], y[at], l);
    return Pair{d, d * (x[at] - mean[c])};
  }, sums, with_x);
}

LATHE_VECTORS void input_gradient_of_block(const float* g, const float* x, const float* y, int64_t rows, int64_t channels, NormLimits l, const float* a, const float* b, const float* rest,
                                           float* __restrict dx) {
  for (int64_t r = 0; r < rows; ++r, g += channels, x += channels, y += channels, dx += channels)
    for (int64_t c = 0; c < channels; ++c) dx[c] = a[c] * inside(g[c], y[c], l) + (b[c] * x[c] + rest[c]);
}

LATHE_VECTORS void limited_gradient_of_block(const float* g, const float* y, int64_t rows, int64_t channels, NormLimits l, float* __restrict made, float* sums) {
  std::fill_n(sums, channels, 0.0f);
  for (int64_t r = 0; r < rows; ++r, g += channels, y += channels, made += channels)
    for (int64_t c = 0; c < channels; ++c) {
      made[c] = inside(g[c], y[c], l);
      sums[c] += made[c];
    }
}

LATHE_VECTORS void sums_of_block(const float* g, int64_t rows, int64_t channels, float* sums) {
  std::fill_n(sums, channels, 0.0f);
  for (int64_t r = 0; r < rows; ++r, g += channels)
    for (int64_t c = 0; c < channels; ++c) sums[c] += g[c];
}

// f(first row, rows, block) for each block.
template <class F>
void over_blocks(const NormShape& s, F&& f) {
  over_blocks(s.rows, kRows, kParallelGrain * 16 / (kRows * s.channels + 1) + 1, f);
}

constexpr int64_t kLanes = sizeof(Vector) / sizeof(float);

LATHE_VECTORS float scale_numbers(const float* x, int64_t count, float a, float* y) {
  Vector none{};  // 0, or NaN where a number is not finite
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector z = *reinterpret_cast<const Vector*>(x + i) * a;
    none += z * 0.0f;
    *reinterpret_cast<Vector*>(y + i) = z;
  }
  float sum = 0;
  for (; i < count; ++i) sum += (y[i] = x[i] * a) * 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += none[lane];
  return sum;
}

LATHE_VECTORS float product_numbers(const float* w, int64_t count, float a, float* g) {
  Vector sums{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector z = *reinterpret_cast<const Vector*>(g + i);
    sums += *reinterpret_cast<const Vector*>(w + i) * z;
    *reinterpret_cast<Vector*>(g + i) = z * a;
  }
  float sum = 0;
  for (; i < count; ++i) sum += w[i] * g[i], g[i] *= a;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

}  // namespace

bool scale_row(int64_t count, const float* x, float a, float* y) { return scale_numbers(x, count, a, y) == 0; }

double product_and_scale(int64_t count, const float* w, float a, float* g) {
  double sum = 0;
  for (int64_t i = 0; i < count; i += kRows) sum += product_numbers(w + i, std::min(kRows, count - i), a, g + i);
  return sum;
}

void channel_moments(const NormShape& s, const float* x, double* mean, double* variance) {
  const int64_t blocks = blocks_of(s.rows, kRows), n = s.channels;
  std::vector<float> sums(static_cast<size_t>(blocks * n)), squares(sums.size());
  over_blocks(s, [&](int64_t row, int64_t rows, int64_t block) { moments_of_block(x + row * n, rows, n, &sums[static_cast<size_t>(block * n)], &squares[static_cast<size_t>(block * n)]); });
  // Chan et al. 1983: means and squared deviations of parts make those of the whole.
  std::fill_n(mean, n, 0.0);
  std::fill_n(variance, n, 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    const auto before = static_cast<double>(block * kRows), rows = static_cast<double>(std::min(kRows, s.rows - block * kRows)), all = before + rows;
    for (int64_t c = 0; c < n; ++c) {
      const double sum = sums[static_cast<size_t>(block * n + c)], apart = sum / rows, own = x[block * kRows * n + c] + apart, step = own - mean[c];
      variance[c] += std::max(squares[static_cast<size_t>(block * n + c)] - sum * apart, 0.0) + step * step * before * rows / all;
      mean[c] += step * rows / all;
    }
  }
  for (int64_t c = 0; c < n; ++c) variance[c] /= static_cast<double>(s.rows);
}

void scale_channels(const NormShape& s, const float* x, const float* scale, const float* shift, NormLimits limits, float* y) {
  over_blocks(s, [&](int64_t row, int64_t rows, int64_t) { scale_block(x + row * s.channels, rows, s.channels, scale, shift, limits, y + row * s.channels); });
}

void norm_gradient_sums(const NormShape& s, const float* gradient, const float* x, const float* y, NormLimits limits, const float* mean, double* sum, double* sum_with_x) {
  const int64_t blocks = blocks_of(s.rows, kRows), n = s.channels;
  std::vector<float> sums(static_cast<size_t>(blocks * n)), products(sums.size());
  over_blocks(s, [&](int64_t row, int64_t rows, int64_t block) {
    gradient_sums_of_block(gradient + row * n, x + row * n, y + row * n, rows, n, limits, mean, &sums[static_cast<size_t>(block * n)], &products[static_cast<size_t>(block * n)]);
  });
  std::fill_n(sum, n, 0.0);
  std::fill_n(sum_with_x, n, 0.0);
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t c = 0; c < n; ++c) sum[c] += sums[static_cast<size_t>(block * n + c)], sum_with_x[c] += products[static_cast<size_t>(block * n + c)];
}

void limited_gradient(const NormShape& s, const float* gradient, const float* y, NormLimits limits, float* inside, double* sum) {
  const int64_t blocks = blocks_of(s.rows, kRows), n = s.channels;
  std::vector<float> sums(static_cast<size_t>(blocks * n));
  over_blocks(s, [&](int64_t row, int64_t rows, int64_t block) {
    float* const own = &sums[static_cast<size_t>(block * n)];
    if (inside) limited_gradient_of_block(gradient + row * n, y + row * n, rows, n, limits, inside + row * n, own);
    else sums_of_block(gradient + row * n, rows, n, own);
  });
  std::fill_n(sum, n, 0.0);
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t c = 0; c < n; ++c) sum[c] += sums[static_cast<size_t>(block * n + c)];
}

void norm_input_gradient(const NormShape& s, const float* gradient, const float* x, const float* y, NormLimits limits, const float* a, const float* b, const float* c, float* dx) {
  over_blocks(s, [&](int64_t row, int64_t rows, int64_t) {
    const int64_t at = row * s.channels;
    input_gradient_of_block(gradient + at, x + at, y + at, rows, s.channels, limits, a, b, c, dx + at);
  });
}

}  // namespace lathe
