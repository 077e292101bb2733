// Matrix products over rows that need not lie together: the core of 1×1 and windowed convolutions (implicit
// GEMM: a row of A is a pixel under one tap of the window), of products with constant weights and of
// Winograd's stages. B is packed once into panels of two vectors; a micro-kernel keeps kTileRows × 2 vectors
// of sums in registers. Included once per Highway target.
#if defined(LATHE_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_GEMM_INL
#undef LATHE_GEMM_INL
#else
#define LATHE_GEMM_INL
#endif

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cpu/gemm.h"
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

constexpr int64_t kPrefetchFloats = 1024;  // a page ahead

// Sums of `taps` products of kRows rows of A, depth elements each, with a packed panel of kVectors vectors, each given
// to end(row, vector, sum). With few rows a sum is split into several, since one product waits four cycles for the
// one before. Where `ahead` is given, a cache line of what lies there is fetched for each four steps, an eighth of what a
// panel of two vectors takes.
template <int kRows, int kVectors, class End>
HWY_INLINE void Accumulate(int64_t taps, const void* const* a, int64_t depth, const void* panel, const char* ahead, End&& end) {
  const D d;
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  const size_t lanes = hn::Lanes(d);
  V acc[kChains][kRows][kVectors];
  HWY_UNROLL(4)
  for (int s = 0; s < kChains; ++s)
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r)
      HWY_UNROLL(2)
      for (int v = 0; v < kVectors; ++v) acc[s][r][v] = hn::Zero(d);
  const float* HWY_RESTRICT b = static_cast<const float*>(panel);
  for (int64_t t = 0; t < taps; ++t, a += kRows) {
    const float* row[kRows];
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) row[r] = static_cast<const float*>(a[r]);
    // kSteps elements of depth, of which each goes to the next chain of sums.
    const auto steps = [&]<int kSteps>(int64_t k) HWY_ATTR {
      HWY_UNROLL(4)
      for (int s = 0; s < kSteps; ++s) {
        const V b0 = hn::Load(d, b), b1 = kVectors == 2 ? hn::Load(d, b + lanes) : b0;
        // With so few rows the panel comes from memory as fast as it is used; the processor's own prefetching stops
        // at every page.
        if constexpr (kRows <= 2)
          for (int v = 0; v < kVectors; ++v) __builtin_prefetch(b + kPrefetchFloats + v * lanes);
        b += kVectors * lanes;
        HWY_UNROLL(12)
        for (int r = 0; r < kRows; ++r) {
          V x = hn::Set(d, row[r][k + s]);
          KeepInRegister(x);
          V(&sum)[kVectors] = acc[s % kChains][r];
          sum[0] = hn::MulAdd(x, b0, sum[0]);
          if constexpr (kVectors == 2) sum[1] = hn::MulAdd(x, b1, sum[1]);
        }
      }
    };
    // By four: the processor foresees the end of a short loop, not that of a long one, and a tile ends often.
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4) {
      if (ahead) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += 64;
      }
      steps.template operator()<4>(k);
    }
    for (; k < depth; ++k) steps.template operator()<1>(k);
  }
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r)
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) {
      V sum = acc[0][r][v];
      HWY_UNROLL(4)
      for (int s = 1; s < kChains; ++s) sum = hn::Add(sum, acc[s][r][v]);
      end(r, v, sum);
    }
}

// To c [kRows][kVectors · lanes].
template <int kRows, int kVectors>
void MicroTile(int64_t taps, const void* const* a, int64_t depth, const void* panel, float* HWY_RESTRICT c) {
  const D d;
  Accumulate<kRows, kVectors>(taps, a, depth, panel, nullptr, [&](int r, int v, V sum) HWY_ATTR { hn::Store(sum, d, c + (kVectors * r + v) * hn::Lanes(d)); });
}

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
// The same on pairs of bf16 with vdpbf16ps, which Highway 1.0 does not reach. Called only where the machine
// has it. `depth` is even; B is packed in pairs.
template <int kRows, int kVectors>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))) void MicroTileHalf(int64_t taps, const void* const* a, int64_t depth,
                                                                         const void* panel, float* HWY_RESTRICT c) {
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  __m512 acc[kChains][kRows][kVectors];
#pragma GCC unroll 4
  for (int s = 0; s < kChains; ++s)
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[s][r][v] = _mm512_setzero_ps();
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
        const __m512bh b0 = (__m512bh)_mm512_load_si512(b), b1 = kVectors == 2 ? (__m512bh)_mm512_load_si512(b + 64) : b0;
        b += 64 * kVectors;
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512bh x = (__m512bh)_mm512_set1_epi32(row[r][k + s]);
          acc[s][r][0] = _mm512_dpbf16_ps(acc[s][r][0], x, b0);
          if constexpr (kVectors == 2) acc[s][r][1] = _mm512_dpbf16_ps(acc[s][r][1], x, b1);
        }
      }
    }
    for (; k < pairs; ++k) {
      const __m512bh b0 = (__m512bh)_mm512_load_si512(b), b1 = kVectors == 2 ? (__m512bh)_mm512_load_si512(b + 64) : b0;
      b += 64 * kVectors;
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(row[r][k]);
        acc[0][r][0] = _mm512_dpbf16_ps(acc[0][r][0], x, b0);
        if constexpr (kVectors == 2) acc[0][r][1] = _mm512_dpbf16_ps(acc[0][r][1], x, b1);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      __m512 sum = acc[0][r][v];
#pragma GCC unroll 4
      for (int s = 1; s < kChains; ++s) sum = _mm512_add_ps(sum, acc[s][r][v]);
      _mm512_store_ps(c + (kVectors * r + v) * 16, sum);
    }
}
#endif

using Micro = void (*)(int64_t taps, const void* const* a, int64_t depth, const void* panel, float* c);

template <int... kIndex>
constexpr auto MicroTable(std::integer_sequence<int, kIndex...>) {
  return std::array<Micro, sizeof...(kIndex)>{MicroTile<kIndex / 2 + 1, kIndex % 2 + 1>...};
}
// Micro-kernel for 1 … kTileRows rows and one or two vectors.
HWY_INLINE Micro MicroFor(int rows, int vectors = kPanelVectors) {
  static constexpr auto table = MicroTable(std::make_integer_sequence<int, 2 * kTileRows>());
  return table[2 * (rows - 1) + vectors - 1];
}
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
template <int... kIndex>
constexpr auto MicroTableHalf(std::integer_sequence<int, kIndex...>) {
  return std::array<Micro, sizeof...(kIndex)>{MicroTileHalf<kIndex / 2 + 1, kIndex % 2 + 1>...};
}
HWY_INLINE Micro MicroForHalf(int rows, int vectors) {
  static constexpr auto table = MicroTableHalf(std::make_integer_sequence<int, 2 * kTileRows>());
  return table[2 * (rows - 1) + vectors - 1];
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
  const int64_t line = w.width * w.pixel, step_h = w.dilation_h * line, step_w = w.dilation_w * w.pixel;
  const int64_t reach_h = (w.taps_h - 1) * w.dilation_h, reach_w = (w.taps_w - 1) * w.dilation_w;
  for (int r = 0; r < rows; ++r) {
    const int64_t iy = oy * w.stride_h - w.pad_top, ix = ox * w.stride_w - w.pad_left;
    const T* corner = a + (image * w.height + iy) * line + ix * w.pixel;
    const void** to = pointers + r;
    if (iy >= 0 && ix >= 0 && iy + reach_h < w.height && ix + reach_w < w.width) {
      for (int64_t ky = 0; ky < w.taps_h; ++ky)
        for (int64_t kx = 0; kx < w.taps_w; ++kx, to += rows) *to = corner + ky * step_h + kx * step_w;
    } else {
      for (int64_t ky = 0; ky < w.taps_h; ++ky)
        for (int64_t kx = 0; kx < w.taps_w; ++kx, to += rows) {
          const int64_t y = iy + ky * w.dilation_h, x = ix + kx * w.dilation_w;
          *to = y >= 0 && y < w.height && x >= 0 && x < w.width ? corner + ky * step_h + kx * step_w : g.zeros;
        }
    }
    if (++ox == w.out_width) {
      ox = 0;
      if (++oy == w.out_height) oy = 0, ++image;
    }
  }
}

template <class T>
HWY_INLINE void FinishTile(const GemmArgs& g, const float* c, int64_t row, int rows, int64_t column, int vectors) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V alpha = hn::Set(d, g.activation.alpha), beta = hn::Set(d, g.activation.beta);
  const T* residual = static_cast<const T*>(g.residual);
  T* y = static_cast<T*>(g.y);
  WithActivation(g.activation.kind, [&]<ActivationKind kAct>() {
    for (int64_t v = 0; v < vectors; ++v) {
      int64_t n = column + v * lanes, left = g.columns - n;
      if (left <= 0) break;
      const hn::Mask<D> m = FirstLanes(d, left);
      const V bias = !g.bias ? hn::Zero(d) : left >= lanes ? hn::LoadU(d, g.bias + n) : LoadMasked(m, d, g.bias + n);
      for (int r = 0; r < rows; ++r) {
        V acc = hn::Add(hn::Load(d, c + (vectors * r + v) * lanes), bias);
        int64_t at = (row + r) * g.row_step() + n;
        const T* from = residual ? residual + at : nullptr;
        if (left >= lanes) FinishLanes<T, kAct, true>(d, acc, from, g.residual_first, y + at, m, alpha, beta);
        else FinishLanes<T, kAct, false>(d, acc, from, g.residual_first, y + at, m, alpha, beta);
      }
    }
  });
}

// A tile that is finished in the registers that hold its sums: what FinishTile does, without the way through memory,
// which costs a small product a quarter of its time. For whole tiles of f32 with an activation of few instructions.
using Finished = void (*)(const GemmArgs& g, const void* const* a, const void* panel, const char* ahead, int64_t row, int64_t column);

template <int kVectors, bool kFull, ActivationKind kAct, bool kResidual>
void FinishedTile(const GemmArgs& g, const void* const* a, const void* panel, const char* ahead, int64_t row, int64_t column) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const hn::Mask<D> last = FirstLanes(d, g.columns - column - (kVectors - 1) * lanes);
  const int64_t step = g.row_step(), at = row * step + column;
  float* y = static_cast<float*>(g.y) + at;
  const float* residual = kResidual ? static_cast<const float*>(g.residual) + at : nullptr;
  V bias[2] = {hn::Zero(d), hn::Zero(d)};
  if (g.bias) {
    if constexpr (kVectors == 2) bias[0] = hn::LoadU(d, g.bias + column);
    bias[kVectors - 1] = LoadChannels<kFull>(d, g.bias + column + (kVectors - 1) * lanes, last);
  }
  Accumulate<kTileRows, kVectors>(g.rows.taps(), a, g.depth, panel, ahead, [&](int r, int v, V sum) HWY_ATTR {
    sum = hn::Add(sum, bias[v]);
    // Read here: the registers are full until the sums are done.
    const V alpha = hn::Set(d, g.activation.alpha), beta = hn::Set(d, g.activation.beta);
    float* to = y + r * step + v * lanes;
    const float* from = residual + (kResidual ? r * step + v * lanes : 0);
    if (kFull || v + 1 < kVectors) FinishLanes<float, kAct, true>(d, sum, kResidual ? from : nullptr, true, to, last, alpha, beta);
    else FinishLanes<float, kAct, false>(d, sum, kResidual ? from : nullptr, true, to, last, alpha, beta);
  });
}

template <int kVectors, bool kFull>
HWY_INLINE Finished FinishedFor(ActivationKind kind, bool residual, bool residual_first) {
  using K = ActivationKind;
  if (residual) {
    if (kind == K::kNone) return FinishedTile<kVectors, kFull, K::kNone, true>;
    if (kind == K::kRelu && residual_first) return FinishedTile<kVectors, kFull, K::kRelu, true>;
    return nullptr;
  }
  switch (kind) {
    case K::kNone: return FinishedTile<kVectors, kFull, K::kNone, false>;
    case K::kRelu: return FinishedTile<kVectors, kFull, K::kRelu, false>;
    case K::kClip: return FinishedTile<kVectors, kFull, K::kClip, false>;
    case K::kHardSwish: return FinishedTile<kVectors, kFull, K::kHardSwish, false>;
    default: return nullptr;
  }
}

// For a panel with so many columns left; null where FinishTile has to do it.
template <class TIn, class TOut>
Finished FinishedFor(const GemmArgs& g, int64_t left) {
  if constexpr (std::is_same_v<TIn, float> && std::is_same_v<TOut, float>) {
    const D d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    const bool residual = g.residual != nullptr;
    if (left >= 2 * lanes) return FinishedFor<2, true>(g.activation.kind, residual, g.residual_first);
    if (left > lanes) return FinishedFor<2, false>(g.activation.kind, residual, g.residual_first);
    return FinishedFor<1, false>(g.activation.kind, residual, g.residual_first);
  }
  return nullptr;
}

// A panel whose rows are multiplied by `scale`: cheaper than multiplying A, which has more rows than the panel.
HWY_INLINE void ScalePanel(const float* panel, const float* scale, int64_t depth, int vectors, float* to) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (int64_t k = 0; k < depth; ++k) {
    const V s = hn::Set(d, scale[k]);
    for (int v = 0; v < vectors; ++v, panel += lanes, to += lanes) hn::Store(hn::Mul(hn::Load(d, panel), s), d, to);
  }
}
HWY_INLINE void ScalePanel(const uint16_t* panel, const uint16_t* scale, int64_t depth, int vectors, uint16_t* to) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const size_t lanes = hn::Lanes(d);
  const auto factor = [&](uint16_t bits) { return hn::BitCast(d, hn::Set(d32, static_cast<uint32_t>(bits) << 16)); };
  for (int64_t k = 0; k < depth; k += 2) {
    const V even = factor(scale[k]), odd = factor(scale[k + 1]);
    for (int v = 0; v < vectors; ++v, panel += 2 * lanes, to += 2 * lanes) {
      const auto pairs = hn::LoadU(d32, reinterpret_cast<const uint32_t*>(panel));
      const V low = hn::Mul(hn::BitCast(d, hn::ShiftLeft<16>(pairs)), even);
      const V high = hn::Mul(hn::BitCast(d, hn::And(pairs, hn::Set(d32, 0xffff0000u))), odd);
      const auto rounded = hn::Or(RoundToHalf(d, low), hn::ShiftLeft<16>(RoundToHalf(d, high)));
      hn::StoreU(rounded, d32, reinterpret_cast<uint32_t*>(to));
    }
  }
}

// Rows [row0, row1) of panels [panel0, panel1). A block of A that fits half of a 1 MiB second-level cache
// meets every panel before the next block is read.
template <class TIn, class TOut>
void GemmBlock(const GemmArgs& g, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1, char* scratch) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = kPanelVectors * lanes, taps = g.rows.taps();
  const int64_t whole_depth = g.whole_depth ? g.whole_depth : g.depth;
  const int64_t panel_bytes = taps * whole_depth * width * static_cast<int64_t>(sizeof(TIn));
  const int64_t tile_bytes = kTileRows * taps * g.depth * static_cast<int64_t>(sizeof(TIn));
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(kGemmBlockTiles, (512 << 10) / tile_bytes)) * kTileRows;
  const void** pointers = reinterpret_cast<const void**>(scratch);
  HWY_ALIGN float c[kTileRows * kPanelVectors * hn::MaxLanes(D())];
  char* scaled = scratch + kGemmBlockTiles * kMostTileRows * taps * static_cast<int64_t>(sizeof(void*));
  const int64_t image_rows = g.rows.out_height * g.rows.out_width;
  for (int64_t begin = row0, end; begin < row1; begin = end) {
    end = std::min(begin + block, row1);
    if (g.scale) end = std::min(end, (begin / image_rows + 1) * image_rows);
    for (int64_t r = begin; r < end; r += kTileRows)
      FillRows<TIn>(g, r, static_cast<int>(std::min<int64_t>(kTileRows, end - r)), pointers + (r - begin) * taps);
    for (int64_t p = panel0; p < panel1; ++p) {
      const int vectors = g.columns - p * width <= lanes ? 1 : 2;
      const char* const part = static_cast<const char*>(g.packed) + p * panel_bytes + g.first_depth * vectors * lanes * static_cast<int64_t>(sizeof(TIn));
      const void* panel = part;
      if (g.scale) {
        const TIn* scale = static_cast<const TIn*>(g.scale) + begin / image_rows * g.depth;
        ScalePanel(static_cast<const TIn*>(panel), scale, g.depth, vectors, reinterpret_cast<TIn*>(scaled));
        panel = scaled;
      }
      const Finished finished = FinishedFor<TIn, TOut>(g, g.columns - p * width);
      // The weights of a large network come from memory; the next panel is on its way while this one is used.
      const char* ahead = g.scale || p + 1 == panel1 ? nullptr : part + panel_bytes;
      const char* const enough = part + panel_bytes + taps * g.depth * width * static_cast<int64_t>(sizeof(TIn));
      for (int64_t r = begin; r < end; r += kTileRows) {
        int rows = static_cast<int>(std::min<int64_t>(kTileRows, end - r));
        if (finished && rows == kTileRows) {
          finished(g, pointers + (r - begin) * taps, panel, ahead, r, p * width);
          if (ahead && (ahead += taps * g.depth * 16) >= enough) ahead = nullptr;
          continue;
        }
        Micro micro = nullptr;
        if constexpr (sizeof(TIn) == 4) micro = MicroFor(rows, vectors);
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
        else micro = MicroForHalf(rows, vectors);
#endif
        micro(taps, pointers + (r - begin) * taps, g.depth, panel, c);
        FinishTile<TOut>(g, c, r, rows, p * width, vectors);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
