// Matrix products over rows that need not lie together: the core of 1×1 and windowed convolutions (implicit
// GEMM: a row of A is a pixel under one tap of the window), of products with constant weights and of
// Winograd's stages. B is packed once into panels of two vectors; a micro-kernel keeps kTileRows × 2 vectors
// of sums in registers. Included once per Highway target.
#ifndef LATHE_GEMM_SHARED
#define LATHE_GEMM_SHARED
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/kernel.h"

namespace lathe {

constexpr int64_t kGemmBlockTiles = 32;  // tiles whose row pointers are held at once
constexpr int64_t kMostTileRows = 12;    // over all instruction sets
constexpr int64_t kPanelVectors = 2;

// Which pixel each row of A is, tap by tap. A plain matrix is a picture one pixel wide with a 1×1 window.
struct GemmRows {
  int64_t images = 1, height = 1, width = 1, pixel = 0;  // of A; `pixel`: elements from a pixel to the next
  int64_t out_height = 1, out_width = 1;                  // rows of the product, row-major
  int64_t stride_h = 1, stride_w = 1, pad_top = 0, pad_left = 0, dilation_h = 1, dilation_w = 1;
  int64_t taps_h = 1, taps_w = 1;
  int64_t count() const { return images * out_height * out_width; }
  int64_t taps() const { return taps_h * taps_w; }
};

struct GemmArgs {
  GemmRows rows;
  int64_t depth = 0;    // elements of A per row and tap
  int64_t columns = 0;  // N
  const void* packed = nullptr;
  const void* zeros = nullptr;  // at least `depth` zero elements, for taps outside the picture
  const float* bias = nullptr;
  ActivationSpec activation;
  bool residual_first = false;
  bool bf16 = false;       // A and B
  bool bf16_out = false;   // Y and the residual
  const void* a = nullptr;
  const void* residual = nullptr;
  void* y = nullptr;
  char* scratch = nullptr;
  size_t scratch_per_thread = 0;
};

}  // namespace lathe
#endif

#if defined(LATHE_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_GEMM_INL
#undef LATHE_GEMM_INL
#else
#define LATHE_GEMM_INL
#endif

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// 12 rows × 2 vectors are 24 of AVX-512's 32 registers, which leaves room for the two of B and a broadcast;
// 6 × 2 the same with 16 registers. Either way the products outnumber the loads.
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif

// Sums of `taps` products of kRows rows of A, depth elements each, with a packed panel; to
// c [kRows][kPanelVectors · lanes]. With few rows a sum is split into several, since one product waits four
// cycles for the one before.
template <int kRows>
void MicroTile(int64_t taps, const void* const* a, int64_t depth, const void* panel, float* HWY_RESTRICT c) {
  const D d;
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  const size_t lanes = hn::Lanes(d);
  V acc[kChains][kRows][2];
  HWY_UNROLL(4)
  for (int s = 0; s < kChains; ++s)
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) acc[s][r][0] = acc[s][r][1] = hn::Zero(d);
  const float* HWY_RESTRICT b = static_cast<const float*>(panel);
  for (int64_t t = 0; t < taps; ++t, a += kRows) {
    const float* row[kRows];
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) row[r] = static_cast<const float*>(a[r]);
    int64_t k = 0;
    for (; k + kChains <= depth; k += kChains) {
      HWY_UNROLL(4)
      for (int s = 0; s < kChains; ++s) {
        const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + lanes);
        b += 2 * lanes;
        HWY_UNROLL(12)
        for (int r = 0; r < kRows; ++r) {
          V x = hn::Set(d, row[r][k + s]);
          KeepInRegister(x);
          acc[s][r][0] = hn::MulAdd(x, b0, acc[s][r][0]);
          acc[s][r][1] = hn::MulAdd(x, b1, acc[s][r][1]);
        }
      }
    }
    for (; k < depth; ++k) {
      const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + lanes);
      b += 2 * lanes;
      HWY_UNROLL(12)
      for (int r = 0; r < kRows; ++r) {
        V x = hn::Set(d, row[r][k]);
        KeepInRegister(x);
        acc[0][r][0] = hn::MulAdd(x, b0, acc[0][r][0]);
        acc[0][r][1] = hn::MulAdd(x, b1, acc[0][r][1]);
      }
    }
  }
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r)
    HWY_UNROLL(2)
    for (int v = 0; v < 2; ++v) {
      V sum = acc[0][r][v];
      HWY_UNROLL(4)
      for (int s = 1; s < kChains; ++s) sum = hn::Add(sum, acc[s][r][v]);
      hn::Store(sum, d, c + (2 * r + v) * lanes);
    }
}

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
// The same on pairs of bf16 with vdpbf16ps, which Highway 1.0 does not reach. Called only where the machine
// has it. `depth` is even; B is packed in pairs.
template <int kRows>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))) void MicroTileHalf(int64_t taps, const void* const* a, int64_t depth,
                                                                         const void* panel, float* HWY_RESTRICT c) {
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  __m512 acc[kChains][kRows][2];
#pragma GCC unroll 4
  for (int s = 0; s < kChains; ++s)
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) acc[s][r][0] = acc[s][r][1] = _mm512_setzero_ps();
  const char* b = static_cast<const char*>(panel);
  for (int64_t t = 0; t < taps; ++t, a += kRows) {
    const int* row[kRows];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) row[r] = static_cast<const int*>(a[r]);
    const int64_t pairs = depth / 2;
    int64_t k = 0;
    for (; k + kChains <= pairs; k += kChains) {
#pragma GCC unroll 4
      for (int s = 0; s < kChains; ++s) {
        const __m512bh b0 = (__m512bh)_mm512_load_si512(b), b1 = (__m512bh)_mm512_load_si512(b + 64);
        b += 128;
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512bh x = (__m512bh)_mm512_set1_epi32(row[r][k + s]);
          acc[s][r][0] = _mm512_dpbf16_ps(acc[s][r][0], x, b0);
          acc[s][r][1] = _mm512_dpbf16_ps(acc[s][r][1], x, b1);
        }
      }
    }
    for (; k < pairs; ++k) {
      const __m512bh b0 = (__m512bh)_mm512_load_si512(b), b1 = (__m512bh)_mm512_load_si512(b + 64);
      b += 128;
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(row[r][k]);
        acc[0][r][0] = _mm512_dpbf16_ps(acc[0][r][0], x, b0);
        acc[0][r][1] = _mm512_dpbf16_ps(acc[0][r][1], x, b1);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      __m512 sum = acc[0][r][v];
#pragma GCC unroll 4
      for (int s = 1; s < kChains; ++s) sum = _mm512_add_ps(sum, acc[s][r][v]);
      _mm512_store_ps(c + (2 * r + v) * 16, sum);
    }
}
#endif

using Micro = void (*)(int64_t taps, const void* const* a, int64_t depth, const void* panel, float* c);

template <int... kRows>
constexpr auto MicroTable(std::integer_sequence<int, kRows...>) {
  return std::array<Micro, sizeof...(kRows)>{MicroTile<kRows + 1>...};
}
// Micro-kernel for `rows` rows, 1 … kTileRows.
HWY_INLINE Micro MicroFor(int rows) {
  static constexpr auto table = MicroTable(std::make_integer_sequence<int, kTileRows>());
  return table[rows - 1];
}
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
template <int... kRows>
constexpr auto MicroTableHalf(std::integer_sequence<int, kRows...>) {
  return std::array<Micro, sizeof...(kRows)>{MicroTileHalf<kRows + 1>...};
}
HWY_INLINE Micro MicroForHalf(int rows) {
  static constexpr auto table = MicroTableHalf(std::make_integer_sequence<int, kTileRows>());
  return table[rows - 1];
}
#endif

// Where `rows` rows from `row` on begin, for each tap: pointers[tap · rows + r].
template <class T>
void FillRows(const GemmArgs& g, int64_t row, int rows, const void** pointers) {
  const GemmRows& w = g.rows;
  const T* a = static_cast<const T*>(g.a);
  int64_t taps = w.taps();
  if (taps == 1 && w.stride_h == 1 && w.stride_w == 1 && w.pad_top == 0 && w.pad_left == 0 && w.out_width == w.width && w.out_height == w.height) {
    for (int r = 0; r < rows; ++r) pointers[r] = a + (row + r) * w.pixel;
    return;
  }
  int64_t ox = row % w.out_width, oy = row / w.out_width % w.out_height, image = row / w.out_width / w.out_height;
  for (int r = 0; r < rows; ++r) {
    int64_t t = 0;
    for (int64_t ky = 0; ky < w.taps_h; ++ky) {
      int64_t iy = oy * w.stride_h - w.pad_top + ky * w.dilation_h;
      for (int64_t kx = 0; kx < w.taps_w; ++kx, ++t) {
        int64_t ix = ox * w.stride_w - w.pad_left + kx * w.dilation_w;
        bool inside = iy >= 0 && iy < w.height && ix >= 0 && ix < w.width;
        pointers[t * rows + r] = inside ? a + ((image * w.height + iy) * w.width + ix) * w.pixel : g.zeros;
      }
    }
    if (++ox == w.out_width) {
      ox = 0;
      if (++oy == w.out_height) oy = 0, ++image;
    }
  }
}

template <class T>
HWY_INLINE void FinishTile(const GemmArgs& g, const float* c, int64_t row, int rows, int64_t column) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V alpha = hn::Set(d, g.activation.alpha), beta = hn::Set(d, g.activation.beta);
  const T* residual = static_cast<const T*>(g.residual);
  T* y = static_cast<T*>(g.y);
  WithActivation(g.activation.kind, [&]<ActivationKind kAct>() {
    for (int64_t v = 0; v < kPanelVectors; ++v) {
      int64_t n = column + v * lanes, left = g.columns - n;
      if (left <= 0) break;
      const hn::Mask<D> m = FirstLanes(d, left);
      const V bias = !g.bias ? hn::Zero(d) : left >= lanes ? hn::LoadU(d, g.bias + n) : hn::MaskedLoad(m, d, g.bias + n);
      for (int r = 0; r < rows; ++r) {
        V acc = hn::Add(hn::Load(d, c + (kPanelVectors * r + v) * lanes), bias);
        int64_t at = (row + r) * g.columns + n;
        const T* from = residual ? residual + at : nullptr;
        if (left >= lanes) FinishLanes<T, kAct, true>(d, acc, from, g.residual_first, y + at, m, alpha, beta);
        else FinishLanes<T, kAct, false>(d, acc, from, g.residual_first, y + at, m, alpha, beta);
      }
    }
  });
}

// Rows [row0, row1) of panels [panel0, panel1). A block of A that fits half of a 1 MiB second-level cache
// meets every panel before the next block is read.
template <class TIn, class TOut>
void GemmBlock(const GemmArgs& g, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1, char* scratch) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = kPanelVectors * lanes, taps = g.rows.taps();
  const int64_t panel_bytes = taps * g.depth * width * static_cast<int64_t>(sizeof(TIn));
  const int64_t tile_bytes = kTileRows * taps * g.depth * static_cast<int64_t>(sizeof(TIn));
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(kGemmBlockTiles, (512 << 10) / tile_bytes)) * kTileRows;
  const void** pointers = reinterpret_cast<const void**>(scratch);
  HWY_ALIGN float c[kTileRows * kPanelVectors * hn::MaxLanes(D())];
  for (int64_t begin = row0; begin < row1; begin += block) {
    int64_t end = std::min(begin + block, row1);
    for (int64_t r = begin; r < end; r += kTileRows)
      FillRows<TIn>(g, r, static_cast<int>(std::min<int64_t>(kTileRows, end - r)), pointers + (r - begin) * taps);
    for (int64_t p = panel0; p < panel1; ++p) {
      const void* panel = static_cast<const char*>(g.packed) + p * panel_bytes;
      for (int64_t r = begin; r < end; r += kTileRows) {
        int rows = static_cast<int>(std::min<int64_t>(kTileRows, end - r));
        Micro micro = nullptr;
        if constexpr (sizeof(TIn) == 4) micro = MicroFor(rows);
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
        else micro = MicroForHalf(rows);
#endif
        micro(taps, pointers + (r - begin) * taps, g.depth, panel, c);
        FinishTile<TOut>(g, c, r, rows, p * width);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
