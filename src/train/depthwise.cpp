#include "train/depthwise.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "train/vectors.h"

namespace lathe {

namespace {

constexpr int64_t kBlock = 64;  // channels whose sums stay in registers: four vectors of 512 bits

// Taps of one pixel that lie inside the picture.
struct Tap {
  const float *x, *w;
};

// y[c] = Σ x[c]·w[c] over taps.
LATHE_VECTORS void sum_taps(const Tap* taps, int64_t count, int64_t channels, float* y) {
  int64_t c = 0;
  const auto blocks = [&]<class V, int64_t kVectors>() __attribute__((always_inline)) {
    for (; c + kVectors * static_cast<int64_t>(sizeof(V) / 4) <= channels; c += kVectors * static_cast<int64_t>(sizeof(V) / 4)) {
      V sums[kVectors] = {};
      for (int64_t t = 0; t < count; ++t)
        for (int64_t v = 0; v < kVectors; ++v) sums[v] += reinterpret_cast<const V*>(taps[t].x + c)[v] * reinterpret_cast<const V*>(taps[t].w + c)[v];
      for (int64_t v = 0; v < kVectors; ++v) reinterpret_cast<V*>(y + c)[v] = sums[v];
    }
  };
  blocks.template operator()<Vector, kBlock / 16>();
  blocks.template operator()<Vector, 1>();
  blocks.template operator()<Half, 1>();
  for (; c < channels; ++c) {
    float sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += taps[t].x[c] * taps[t].w[c];
    y[c] = sum;
  }
}

// sum[c] += Σ a[c]·b[c] over `count` pixels, a_step and b_step elements apart.
LATHE_VECTORS void sum_products(const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t count, int64_t channels, float* sum) {
  int64_t c = 0;
  const auto blocks = [&]<int64_t kWidth>() __attribute__((always_inline)) {
    for (; c + kWidth <= channels; c += kWidth) {
      float part[kWidth];
      std::memcpy(part, sum + c, sizeof part);
      for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < kWidth; ++i) part[i] += a[n * a_step + c + i] * b[n * b_step + c + i];
      std::memcpy(sum + c, part, sizeof part);
    }
  };
  blocks.template operator()<kBlock>();
  blocks.template operator()<16>();
  blocks.template operator()<8>();
  for (; c < channels; ++c)
    for (int64_t n = 0; n < count; ++n) sum[c] += a[n * a_step + c] * b[n * b_step + c];
}

// Rows are dealt out whole; small pictures stay on one thread.
int64_t grain(const DepthwiseShape& s) { return kParallelGrain / (s.width * s.channels * s.kernel_h * s.kernel_w / 16 + 1) + 1; }

}  // namespace

void depthwise_input_gradient(const DepthwiseShape& s, const float* gradient, const float* w, float* dx) {
  parallel_for(s.images * s.height, grain(s), [&](int64_t begin, int64_t end) {
    std::vector<Tap> taps(static_cast<size_t>(s.kernel_h * s.kernel_w));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / s.height, iy = row % s.height;
      for (int64_t ix = 0; ix < s.width; ++ix) {
        int64_t count = 0;
        for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
          const int64_t y = iy + s.pad_top - ky * s.dilation_h, oy = y / s.stride_h;
          if (y < 0 || y % s.stride_h != 0 || oy >= s.out_height) continue;
          for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
            const int64_t xx = ix + s.pad_left - kx * s.dilation_w, ox = xx / s.stride_w;
            if (xx < 0 || xx % s.stride_w != 0 || ox >= s.out_width) continue;
            taps[count++] = {gradient + ((n * s.out_height + oy) * s.out_width + ox) * s.channels, w + (ky * s.kernel_w + kx) * s.channels};
          }
        }
        sum_taps(taps.data(), count, s.channels, dx + (row * s.width + ix) * s.channels);
      }
    }
  });
}

void depthwise_weight_gradient(const DepthwiseShape& s, const float* x, const float* gradient, float* dw) {
  const int64_t size = s.kernel_h * s.kernel_w * s.channels, threads = omp_get_max_threads();
  // Each thread sums over rows of its own; the sums are added in the order of threads.
  std::vector<float> sums(static_cast<size_t>(threads * size), 0.0f);
  parallel_for(s.images * s.out_height, grain(s), [&](int64_t begin, int64_t end) {
    float* own = sums.data() + omp_get_thread_num() * size;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / s.out_height, oy = row % s.out_height;
      for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
        const int64_t iy = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
        if (iy < 0 || iy >= s.height) continue;
        for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
          // Outputs whose tap lies inside the row.
          const int64_t at = kx * s.dilation_w - s.pad_left;
          const int64_t first = at < 0 ? (-at + s.stride_w - 1) / s.stride_w : 0, last = at >= s.width ? 0 : std::min((s.width - 1 - at) / s.stride_w + 1, s.out_width);
          if (last <= first) continue;
          sum_products(x + ((n * s.height + iy) * s.width + first * s.stride_w + at) * s.channels, s.stride_w * s.channels, gradient + (row * s.out_width + first) * s.channels, s.channels,
                       last - first, s.channels, own + (ky * s.kernel_w + kx) * s.channels);
        }
      }
    }
  });
  std::copy_n(sums.data(), size, dw);
  for (int64_t t = 1; t < threads; ++t)
    for (int64_t i = 0; i < size; ++i) dw[i] += sums[static_cast<size_t>(t * size + i)];
}

}  // namespace lathe
