// Products with weights of 1, 2, 4 or 8 bits (CodedMatMul, CodedConv of graph/ops/coded.cpp), whose codes are decoded on the
// way from memory to the multiplier. A product of few rows waits for its weights: with 4 bits it reads a quarter of what bf16
// does.
//
// Codes become numbers by a shuffle: the 16 (or fewer) numbers that a code may stand for are one register, which is the
// table of a column, or, for weights in groups, made for each group as (0 … 15 − zero)·scale. So the weights are exactly
// those of the reference, and only sums are in another order. Lanes are consecutive elements of the depth, since columns
// have tables of their own; what they hold is added up at the end. Where there are sums of products of bytes, codes of 4 and
// 8 bits in groups go the shorter way of coded_dot.cpp.
//
// Packed: tiles of kTileColumns columns, one after the other. In a tile [units, kTileColumns, lanes] words of 32 bits: code
// i of lane j in unit u is element u·lanes·(32 / bits) + i·lanes + j. Codes of 8 bits are [vectors, kTileColumns, lanes]
// bytes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/coded_gemm.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/coded-inl.h"
#include "kernels/cpu/coded_gemm.h"

#ifndef LATHE_CODED_GEMM_SHARED
#define LATHE_CODED_GEMM_SHARED
namespace lathe {
constexpr int64_t kTileColumns = 4;
// Vectors of the depth that are decoded before they meet many rows of A: four columns of them take 16 KiB of the first-level
// cache. A multiple of what a word of any width holds.
constexpr int64_t kPartVectors = 64;
constexpr int64_t kChunkTiles = kCodedChunkColumns / kTileColumns;
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D32 = hn::RebindToUnsigned<D>;
using V32 = hn::Vec<D32>;

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr int kDecodedColumns = 4;  // tables, codes and sums of so many columns fit the registers
constexpr int kDirectRows = 4;      // rows of A for which weights are decoded into registers
constexpr int kDenseRows = 6;       // rows of A that meet decoded columns at once

// 16 numbers, of which the lowest four bits of a lane take one.
struct NumberTable {
  V numbers;
};
HWY_INLINE NumberTable LoadTable16(const float* numbers) { return {hn::LoadU(D(), numbers)}; }
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V zero, V scale) { return {hn::Mul(hn::Sub(t.numbers, zero), scale)}; }
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V scale) { return {hn::Mul(t.numbers, scale)}; }
HWY_INLINE V LookUp(const NumberTable& t, V32 codes) { return V{_mm512_permutexvar_ps(codes.raw, t.numbers.raw)}; }
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2
constexpr int kDecodedColumns = 2;
constexpr int kDirectRows = 2;
constexpr int kDenseRows = 3;

struct NumberTable {
  V low, high;
};
HWY_INLINE NumberTable LoadTable16(const float* numbers) { return {hn::LoadU(D(), numbers), hn::LoadU(D(), numbers + 8)}; }
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V zero, V scale) { return {hn::Mul(hn::Sub(t.low, zero), scale), hn::Mul(hn::Sub(t.high, zero), scale)}; }
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V scale) { return {hn::Mul(t.low, scale), hn::Mul(t.high, scale)}; }
HWY_INLINE V LookUp(const NumberTable& t, V32 codes) {
  const __m256 low = _mm256_permutevar8x32_ps(t.low.raw, codes.raw), high = _mm256_permutevar8x32_ps(t.high.raw, codes.raw);
  return V{_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes.raw, 28)))};
}
#else
constexpr int kDecodedColumns = 2;
constexpr int kDirectRows = 2;
constexpr int kDenseRows = 3;

struct NumberTable {
  float numbers[16];
};
HWY_INLINE NumberTable LoadTable16(const float* numbers) {
  NumberTable t;
  std::memcpy(t.numbers, numbers, sizeof t.numbers);
  return t;
}
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V zero, V scale) {
  NumberTable scaled;
  for (int i = 0; i < 16; ++i) scaled.numbers[i] = (t.numbers[i] - hn::GetLane(zero)) * hn::GetLane(scale);
  return scaled;
}
HWY_INLINE NumberTable ScaleTable(const NumberTable& t, V scale) { return ScaleTable(t, hn::Zero(D()), scale); }
HWY_INLINE V LookUp(const NumberTable& t, V32 codes) {
  const hn::RebindToSigned<D> di;
  return hn::GatherIndex(D(), t.numbers, hn::BitCast(di, hn::And(codes, hn::Set(D32(), 15))));
}
#endif

// The 2^kBits numbers of a codebook, repeated: higher bits of the four are those of the next code.
template <int kBits>
HWY_INLINE NumberTable LoadCodebook(const float* book) {
  if constexpr (kBits == 4) return LoadTable16(book);
  HWY_ALIGN float repeated[16];
  for (int i = 0; i < 16; ++i) repeated[i] = book[i & ((1 << kBits) - 1)];
  return LoadTable16(repeated);
}

constexpr int64_t kPrefetchBytes = 4096;

// Calls use.template Take<kChain>(v, w) with vector v of the depth of columns [first, first + kDecodedColumns) of a tile,
// for `begin` ≤ v < `end` in order; kChain counts 0, 1, 0, 1, … `begin` is a multiple of kPartVectors.
template <int kBits, bool kGrouped, int kSegment, class Use>
HWY_INLINE void DecodeWords(const CodedGemm& g, int64_t tile, int first, int64_t begin, int64_t end, Use& result) {
  Use use = result;  // a copy, which the compiler keeps in registers
  const D d;
  const D32 d32;
  constexpr int kCodes = 32 / kBits, kCols = kDecodedColumns;
  const int64_t lanes = CodedLanes(), vectors = (g.depth + lanes - 1) / lanes, units = (vectors + kCodes - 1) / kCodes;
  const auto* words = reinterpret_cast<const uint32_t*>(g.codes) + ((tile * units + begin / kCodes) * kTileColumns + first) * lanes;
  const int64_t group_vectors = g.groups > 1 ? g.group / lanes : (vectors / kPartVectors + 1) * kPartVectors;
  const int64_t first_scale = (tile * g.groups + begin / group_vectors) * kTileColumns + first;
  const float* scales = kGrouped ? g.scales + first_scale : nullptr;
  const float* zeros = g.zeros ? g.zeros + first_scale : nullptr;
  NumberTable plain, tables[kCols];
  if constexpr (kGrouped) {
    HWY_ALIGN static constexpr float kSigned[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    HWY_ALIGN static constexpr float kUnsigned[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    plain = LoadTable16(g.is_signed ? kSigned : kUnsigned);
  } else {
    for (int c = 0; c < kCols; ++c) {
      const int64_t column = g.one_codebook ? 0 : std::min(tile * kTileColumns + first + c, g.columns - 1);
      tables[c] = LoadCodebook<kBits>(g.codebook + column * (int64_t{1} << kBits));
    }
  }
  int64_t left = 0;  // vectors of this group
  const auto next_group = [&]() HWY_ATTR {
    for (int c = 0; c < kCols; ++c) tables[c] = zeros ? ScaleTable(plain, hn::Set(d, zeros[c]), hn::Set(d, scales[c])) : ScaleTable(plain, hn::Set(d, scales[c]));
    scales += kTileColumns;
    if (zeros) zeros += kTileColumns;
    left = group_vectors;
  };
  if constexpr (kGrouped) {
    next_group();
    left -= begin % group_vectors;
  }
  V32 codes[kCols];
  int64_t v = begin;
  for (; v + kCodes <= end; v += kCodes) {
    HWY_UNROLL(4)
    for (int c = 0; c < kCols; ++c) {
      codes[c] = hn::LoadU(d32, words + c * lanes);
      __builtin_prefetch(reinterpret_cast<const char*>(words + c * lanes) + kPrefetchBytes);
    }
    words += kTileColumns * lanes;
    HWY_UNROLL(32)
    for (int s = 0; s < kCodes; s += kSegment) {
      if constexpr (kGrouped) {
        if (left == 0) next_group();
        left -= kSegment;
      }
      HWY_UNROLL(32)
      for (int i = 0; i < kSegment; ++i) {
        V w[kCols];
        HWY_UNROLL(4)
        for (int c = 0; c < kCols; ++c) {
          w[c] = LookUp(tables[c], codes[c]);
          codes[c] = hn::ShiftRight<kBits>(codes[c]);
        }
        if (i % 2 == 0) use.template Take<0>(v + s + i, w);
        else use.template Take<1>(v + s + i, w);
      }
    }
  }
  if (v == end) {
    result = use;
    return;
  }
  for (int c = 0; c < kCols; ++c) codes[c] = hn::LoadU(d32, words + c * lanes);
  for (; v < end; ++v) {
    if constexpr (kGrouped) {
      if (left == 0) next_group();
      --left;
    }
    V w[kCols];
    for (int c = 0; c < kCols; ++c) {
      w[c] = LookUp(tables[c], codes[c]);
      codes[c] = hn::ShiftRight<kBits>(codes[c]);
    }
    use.template Take<0>(v, w);
  }
  result = use;
}

// The same for codes of 8 bits, which are numbers themselves.
template <class T, class Use>
HWY_INLINE void DecodeBytes(const CodedGemm& g, int64_t tile, int first, int64_t begin, int64_t end, Use& result) {
  Use use = result;
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<T, D> d8;
  constexpr int kCols = kDecodedColumns;
  const int64_t lanes = CodedLanes(), vectors = (g.depth + lanes - 1) / lanes, group_vectors = g.groups > 1 ? g.group / lanes : vectors;
  const T* codes = reinterpret_cast<const T*>(g.codes) + ((tile * vectors + begin) * kTileColumns + first) * lanes;
  for (int64_t group = begin / group_vectors, v = begin; v < end; ++group) {
    const float* scales = g.scales + (tile * g.groups + group) * kTileColumns + first;
    const float* zeros = g.zeros ? g.zeros + (tile * g.groups + group) * kTileColumns + first : nullptr;
    V scale[kCols], zero[kCols];
    for (int c = 0; c < kCols; ++c) {
      scale[c] = hn::Set(d, scales[c]);
      zero[c] = zeros ? hn::Set(d, zeros[c]) : hn::Zero(d);
    }
    const auto decode = [&](V* w) HWY_ATTR {
      HWY_UNROLL(4)
      for (int c = 0; c < kCols; ++c) {
        w[c] = hn::Mul(hn::Sub(hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, codes + c * lanes))), zero[c]), scale[c]);
        __builtin_prefetch(reinterpret_cast<const char*>(codes + c * lanes) + kPrefetchBytes);
      }
      codes += kTileColumns * lanes;
    };
    const int64_t group_end = std::min((group + 1) * group_vectors, end);
    V w[kCols];
    for (; v + 2 <= group_end; v += 2) {
      decode(w);
      use.template Take<0>(v, w);
      decode(w);
      use.template Take<1>(v + 1, w);
    }
    if (v < group_end) {
      decode(w);
      use.template Take<0>(v++, w);
    }
  }
  result = use;
}

template <class Use>
void Decode(const CodedGemm& g, int64_t tile, int first, int64_t begin, int64_t end, Use& use) {
  if (g.bits == 8) {
    if (g.is_signed) return DecodeBytes<int8_t>(g, tile, first, begin, end, use);
    return DecodeBytes<uint8_t>(g, tile, first, begin, end, use);
  }
  if (g.groups == 0) {
    if (g.bits == 1) return DecodeWords<1, false, 32>(g, tile, first, begin, end, use);
    if (g.bits == 2) return DecodeWords<2, false, 16>(g, tile, first, begin, end, use);
    return DecodeWords<4, false, 8>(g, tile, first, begin, end, use);
  }
  // How many codes of a word surely belong to one group.
  const int64_t vectors = g.groups > 1 ? g.group / CodedLanes() : 8;
  if (vectors % 8 == 0) return DecodeWords<4, true, 8>(g, tile, first, begin, end, use);
  if (vectors % 4 == 0) return DecodeWords<4, true, 4>(g, tile, first, begin, end, use);
  if (vectors % 2 == 0) return DecodeWords<4, true, 2>(g, tile, first, begin, end, use);
  return DecodeWords<4, true, 1>(g, tile, first, begin, end, use);
}

// Products of kRows rows of A with columns as they are decoded. A sum is split in two where there are few, since a product
// waits four cycles for the one before.
template <int kRows>
struct SumDecoded {
  static constexpr int kChains = kRows <= 2 ? 2 : 1;
  const float* a[kRows];
  V sums[kChains][kRows][kDecodedColumns];

  template <int kChain>
  HWY_INLINE void Take(int64_t v, const V* w) {
    const D d;
    const int64_t at = v * CodedLanes();
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      const V x = hn::LoadU(d, a[r] + at);
      HWY_UNROLL(4)
      for (int c = 0; c < kDecodedColumns; ++c) {
        V& sum = sums[kChain % kChains][r][c];
        sum = hn::MulAdd(x, w[c], sum);
      }
    }
  }
};

// The sums of the lanes of four vectors.
HWY_INLINE void SumFour(V a, V b, V c, V e, float* to, bool add) {
#if HWY_TARGET == HWY_SCALAR
  const float sums[4] = {hn::GetLane(a), hn::GetLane(b), hn::GetLane(c), hn::GetLane(e)};
  for (int i = 0; i < 4; ++i) to[i] = add ? to[i] + sums[i] : sums[i];
#else
  const D d;
  const hn::Repartition<double, D> pairs;
  const hn::FixedTag<float, 4> four;
  const auto ab = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const V all = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)), hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce)));
  // [a, b, c, e] of each block of four lanes.
  const auto blocks = [&]<class From>(From of, hn::Vec<From> v, auto&& self) HWY_ATTR -> hn::Vec<decltype(four)> {
    if constexpr (hn::MaxLanes(of) == 4) {
      return v;
    } else {
      const hn::Half<From> half;
      return self(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), self);
    }
  };
  const auto sums = blocks(d, all, blocks);
  hn::StoreU(add ? hn::Add(sums, hn::LoadU(four, to)) : sums, four, to);
#endif
}

// Sums of rows [row, row + kRows) and a tile, to [kRows] rows `step` apart.
template <int kRows>
void DirectTile(const CodedGemm& g, int64_t row, int64_t tile, float* to, int64_t step) {
  const D d;
  for (int first = 0; first < kTileColumns; first += kDecodedColumns) {
    SumDecoded<kRows> s;
    for (int r = 0; r < kRows; ++r) s.a[r] = g.a + (row + r) * g.a_step;
    for (auto& chain : s.sums)
      for (auto& of_row : chain)
        for (V& sum : of_row) sum = hn::Zero(d);
    Decode(g, tile, first, 0, (g.depth + CodedLanes() - 1) / CodedLanes(), s);
    for (int r = 0; r < kRows; ++r) {
      V sums[kDecodedColumns];
      for (int c = 0; c < kDecodedColumns; ++c) {
        sums[c] = s.sums[0][r][c];
        for (int k = 1; k < SumDecoded<kRows>::kChains; ++k) sums[c] = hn::Add(sums[c], s.sums[k][r][c]);
      }
      float* here = to + r * step + first;
      if constexpr (kDecodedColumns == 4) SumFour(sums[0], sums[1], sums[2], sums[3], here, false);
      else for (int c = 0; c < kDecodedColumns; ++c) here[c] = hn::GetLane(hn::SumOfLanes(d, sums[c]));
    }
  }
}

struct KeepDecoded {
  float* to;  // columns `step` apart, from vector `begin` on
  int64_t step, begin;
  template <int kChain>
  HWY_INLINE void Take(int64_t v, const V* w) {
    HWY_UNROLL(4)
    for (int c = 0; c < kDecodedColumns; ++c) hn::StoreU(w[c], D(), to + c * step + (v - begin) * CodedLanes());
  }
};

// Rows of A by kTileColumns decoded columns of `depth` elements, `step_w` apart; with `add`, added to what is there.
template <int kRows>
void DenseTile(const float* a, int64_t a_step, const float* w, int64_t depth, int64_t step_w, float* to, int64_t step, bool add) {
  const D d;
  const int64_t lanes = CodedLanes();
  V sums[kRows][kTileColumns];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r)
    HWY_UNROLL(4)
    for (int c = 0; c < kTileColumns; ++c) sums[r][c] = hn::Zero(d);
  for (int64_t k = 0; k < depth; k += lanes) {
    V columns[kTileColumns];
    HWY_UNROLL(4)
    for (int c = 0; c < kTileColumns; ++c) columns[c] = hn::LoadU(d, w + c * step_w + k);
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) {
      V x = hn::LoadU(d, a + r * a_step + k);
      KeepInRegister(x);
      HWY_UNROLL(4)
      for (int c = 0; c < kTileColumns; ++c) sums[r][c] = hn::MulAdd(x, columns[c], sums[r][c]);
    }
  }
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) SumFour(sums[r][0], sums[r][1], sums[r][2], sums[r][3], to + r * step, add);
}

// `rows` rows, in tiles of nearly equal height.
HWY_INLINE void DenseRows(const float* a, int64_t a_step, int64_t rows, const float* w, int64_t depth, int64_t step_w, float* to, int64_t step, bool add) {
  for (int64_t r = 0, tiles = (rows + kDenseRows - 1) / kDenseRows; r < rows; --tiles) {
    const int64_t here = (rows - r + tiles - 1) / tiles;
    const float* from = a + r * a_step;
    float* sums = to + r * step;
    switch (here) {
      case 1: DenseTile<1>(from, a_step, w, depth, step_w, sums, step, add); break;
      case 2: DenseTile<2>(from, a_step, w, depth, step_w, sums, step, add); break;
      case 3: DenseTile<3>(from, a_step, w, depth, step_w, sums, step, add); break;
      case 4: DenseTile<std::min(4, kDenseRows)>(from, a_step, w, depth, step_w, sums, step, add); break;
      case 5: DenseTile<std::min(5, kDenseRows)>(from, a_step, w, depth, step_w, sums, step, add); break;
      default: DenseTile<kDenseRows>(from, a_step, w, depth, step_w, sums, step, add);
    }
    r += here;
  }
}

// Rows [row0, row1) by tiles [tile0, tile1). `scratch`: kTileColumns parts of decoded columns, then sums of kChunkTiles
// tiles.
void CodedPanels(const CodedGemm& g, int64_t row0, int64_t row1, int64_t tile0, int64_t tile1, float* scratch) {
  const int64_t lanes = CodedLanes(), vectors = (g.depth + lanes - 1) / lanes, rows = row1 - row0, part = kPartVectors * lanes;
  float* const sums = scratch + kTileColumns * part;
  constexpr int64_t step = kChunkTiles * kTileColumns;
  for (int64_t begin = tile0; begin < tile1; begin += kChunkTiles) {
    const int64_t end = std::min(begin + kChunkTiles, tile1);
    if (rows <= kDirectRows) {
      for (int64_t t = begin; t < end; ++t) {
        float* to = sums + (t - begin) * kTileColumns;
        switch (rows) {
          case 1: DirectTile<1>(g, row0, t, to, step); break;
          case 2: DirectTile<2>(g, row0, t, to, step); break;
          case 3: DirectTile<std::min(3, kDirectRows)>(g, row0, t, to, step); break;
          default: DirectTile<kDirectRows>(g, row0, t, to, step);
        }
      }
    } else {
      // A part of the depth of A meets the tiles of a chunk while it stays near.
      for (int64_t v = 0; v < vectors; v += kPartVectors) {
        const int64_t stop = std::min(v + kPartVectors, vectors);
        for (int64_t t = begin; t < end; ++t) {
          for (int first = 0; first < kTileColumns; first += kDecodedColumns) {
            KeepDecoded keep{scratch + first * part, part, v};
            Decode(g, t, first, v, stop, keep);
          }
          DenseRows(g.a + row0 * g.a_step + v * lanes, g.a_step, rows, scratch, (stop - v) * lanes, part, sums + (t - begin) * kTileColumns, step, v > 0);
        }
      }
    }
    const int64_t column = begin * kTileColumns, count = std::min(end * kTileColumns, g.columns) - column;
    for (int64_t r = 0; r < rows; ++r) FinishRow(g, sums + r * step, row0 + r, column, count);
  }
}

int64_t CodedVectorLanes() { return CodedLanes(); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(CodedPanels);
HWY_EXPORT(CodedVectorLanes);

namespace {

constexpr int64_t kRowBytes = 256 << 10;    // of A, that meet all columns while they stay in a second-level cache
constexpr int64_t kWindowBytes = 1 << 20;   // of windows that are copied at once
constexpr int64_t kAliasedFloats = 512;     // rows so many floats apart share the few lines of a cache that begin alike
constexpr int64_t kFewRows = 4;             // that lie in the same lines without harm

int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class CodedProduct : public Kernel {
 public:
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override {
    std::vector<PackedInput> list{{}, {codes_, layout()}, {bias_}, {}, {numbers_, layout()}};
    if (zeros_.defined()) list.push_back({zeros_, layout()});
    return list;
  }
  size_t scratch_bytes() const override {
    return static_cast<size_t>(copied_rows() * row_step() + split_floats() + omp_get_max_threads() * thread_floats()) * sizeof(float);
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    CodedGemm g = gemm_;
    auto* copies = static_cast<float*>(scratch);
    float* split = copies + copied_rows() * row_step();
    float* own = split + split_floats();
    const auto* residual = residual_ ? in[3]->data<float>() : nullptr;
    auto* y = out[0]->data<float>();
    const auto* x = in[0]->data<float>();
    const int64_t most = copies_ ? copied_rows() : dot_ ? split_rows() : rows_;
    for (int64_t row = 0; row < rows_; row += most) {
      g.rows = std::min(most, rows_ - row);
      if (copies_) {
        parallel_for(g.rows, kParallelGrain / (gemm_.depth + 1) + 1, [&](int64_t begin, int64_t end) { copy(x, row + begin, row + end, copies + begin * row_step()); });
        g.a = copies;
        g.a_step = row_step();
      } else if (dot_) {
        g.a = x + row * gemm_.depth;
        g.a_step = gemm_.depth;
      } else {
        g.a = x;
        g.a_step = gemm_.depth;
      }
      g.y = y + row * g.columns;
      g.residual = residual ? residual + row * g.columns : nullptr;
      if (dot_)
        parallel_for(g.rows, kParallelGrain / (gemm_.depth + 1) + 1, [&](int64_t begin, int64_t end) { coded_dot_split(g, begin, end, split); });
      multiply(g, split, own);
    }
  }

 protected:
  explicit CodedProduct(const KernelRequest& r) : lanes_(HWY_DYNAMIC_DISPATCH(CodedVectorLanes)()) {
    const Shape &w = r.in_shape(1), &s = r.in_shape(4);
    const int64_t block = r.node.get_int("block_size");
    gemm_.columns = w[0];
    gemm_.depth = w[1];
    rows_ = element_count(r.out_shape()) / w[0];
    gemm_.activation = activation_of(r.node);
    gemm_.residual_first = r.node.get_int("residual_first") != 0;
    residual_ = r.has_input(3);
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, r.in_shape(2), 0, [](const Tensor& t) { return t; });
    gemm_.bias = bias_.defined() ? bias_.data<float>() : nullptr;
    const DType type = r.input(1).dtype;
    gemm_.is_signed = type == DType::kI4 || type == DType::kI8;
    if (block == 0) {
      gemm_.bits = s[1] <= 2 ? 1 : s[1] <= 4 ? 2 : 4;
      gemm_.one_codebook = s[0] == 1;
      const int64_t entries = int64_t{1} << gemm_.bits;
      numbers_ = r.packed_input(4, DType::kF32, {s[0], entries}, layout(), [&](const Tensor& book) {
        Tensor padded(DType::kF32, {s[0], entries});
        for (int64_t i = 0; i < padded.size(); ++i) padded.data<float>()[i] = i % entries < s[1] ? book.data<float>()[i / entries * s[1] + i % entries] : 0.0f;
        return padded;
      });
      gemm_.codebook = numbers_.data<float>();
    } else {
      gemm_.bits = bits_of(type);
      gemm_.groups = s[1];
      gemm_.group = block;
      dot_ = gemm_.bits >= 4 && has_coded_dot();
      const Shape in_tiles{tiles(), s[1], tile_columns()};
      const auto to_tiles = [&](const Tensor& t, double more) {
        Tensor moved(DType::kF32, in_tiles);
        for (int64_t i = 0; i < moved.size(); ++i) {
          const int64_t column = i / (s[1] * tile_columns()) * tile_columns() + i % tile_columns(), group = i / tile_columns() % s[1];
          moved.data<float>()[i] = column < w[0] ? static_cast<float>(t.get(column * s[1] + group) + more) : 0.0f;
        }
        return moved;
      };
      numbers_ = r.packed_input(4, DType::kF32, in_tiles, layout(), [&](const Tensor& t) { return to_tiles(t, 0); });
      gemm_.scales = numbers_.data<float>();
      if (r.has_input(5)) {
        zeros_ = r.packed_input(5, DType::kF32, in_tiles, layout(), [&](const Tensor& t) { return to_tiles(t, dot_ ? gemm_.moved_up() : 0); });
        gemm_.zeros = zeros_.data<float>();
      }
    }
    const int64_t vectors = (gemm_.depth + lanes_ - 1) / lanes_, in_word = 32 / gemm_.bits;
    const int64_t units = dot_ ? (gemm_.depth + kDotDepth - 1) / kDotDepth : gemm_.bits == 8 ? vectors : (vectors + in_word - 1) / in_word;
    const Shape packed{tiles(), units, dot_ ? kDotColumns * gemm_.bits : kTileColumns * lanes_ * (gemm_.bits == 8 ? 1 : 4)};
    codes_ = r.packed_input(1, DType::kU8, packed, layout(), [&](const Tensor& t) { return dot_ ? pack_dot(t, packed) : pack(t, packed); });
    gemm_.codes = codes_.data<uint8_t>();
  }

  virtual void copy(const float* x, int64_t from, int64_t to, float* rows) const = 0;
  // Whole vectors, and rows that do not begin in the same lines of a cache.
  int64_t row_step() const {
    const int64_t whole = rounded(gemm_.depth, lanes_);
    return whole % kAliasedFloats ? whole : whole + 16;
  }

  CodedGemm gemm_;
  int64_t rows_ = 0, lanes_ = 1;
  bool copies_ = false;
  bool dot_ = false;  // by coded_dot.cpp

 private:
  int64_t tile_columns() const { return dot_ ? kDotColumns : kTileColumns; }
  int64_t tiles() const { return (gemm_.columns + tile_columns() - 1) / tile_columns(); }
  uint64_t layout() const { return 2 | static_cast<uint64_t>(lanes_) << 8 | static_cast<uint64_t>(dot_) << 16; }
  int64_t block_rows() const { return std::clamp<int64_t>(kRowBytes / (row_step() * 4), 24, 192); }
  int64_t copied_rows() const { return copies_ ? split_rows() : 0; }
  int64_t split_rows() const { return std::min(rows_, std::max(kWindowBytes / (row_step() * 4), block_rows())); }
  int64_t split_floats() const { return dot_ ? split_rows() * coded_dot_row_bytes(gemm_) / 4 : 0; }
  int64_t thread_floats() const { return kTileColumns * kPartVectors * lanes_ + std::min(rows_, block_rows()) * kChunkTiles * kTileColumns + 16; }

  Tensor pack_dot(const Tensor& t, const Shape& shape) const {
    Tensor packed(DType::kU8, shape);
    std::memset(packed.raw(), 0, packed.bytes());
    const int64_t depth = gemm_.depth, most = (1 << gemm_.bits) - 1;
    parallel_for(gemm_.columns, 16, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const auto* row = t.data<uint8_t>() + n * depth;
        uint8_t* tile = packed.data<uint8_t>() + n / kDotColumns * shape[1] * shape[2];
        for (int64_t k = 0; k < depth; ++k) {
          uint8_t* unit = tile + k / kDotDepth * shape[2];
          const int64_t half = k % kDotDepth / 4, lane = n % kDotColumns * 4 + k % 4;
          const int code = (row[k] + gemm_.moved_up()) & most;
          if (gemm_.bits == 4) unit[lane] |= static_cast<uint8_t>(code << 4 * half);
          else unit[half * kDotColumns * 4 + lane] = static_cast<uint8_t>(code);
        }
      }
    });
    return packed;
  }

  Tensor pack(const Tensor& t, const Shape& shape) const {
    Tensor packed(DType::kU8, shape);
    std::memset(packed.raw(), 0, packed.bytes());
    const int64_t units = shape[1], unit_bytes = shape[2];
    const int64_t depth = gemm_.depth, in_word = gemm_.bits == 8 ? 1 : 32 / gemm_.bits;
    parallel_for(gemm_.columns, 16, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const auto* row = t.data<uint8_t>() + n * depth;  // one code a byte, whatever its type
        uint8_t* tile = packed.data<uint8_t>() + n / kTileColumns * units * unit_bytes;
        for (int64_t k = 0; k < depth; ++k) {
          const int64_t vector = k / lanes_, unit = vector / in_word, i = vector % in_word;
          const int64_t at = (unit * kTileColumns + n % kTileColumns) * lanes_ + k % lanes_;
          if (gemm_.bits == 8) {
            tile[at] = row[k];
            continue;
          }
          const int64_t bit = i * gemm_.bits;
          tile[at * 4 + bit / 8] |= static_cast<uint8_t>((row[k] & ((1 << gemm_.bits) - 1)) << bit % 8);
        }
      }
    });
    return packed;
  }

  void multiply(const CodedGemm& g, void* split, float* scratch) const {
    const int64_t chunks = (g.columns + kCodedChunkColumns - 1) / kCodedChunkColumns, cost = g.depth * kCodedChunkColumns / 16 + 1;
    const int64_t block = std::min(block_rows(), g.rows), blocks = (g.rows + block - 1) / block;
    const auto panels = [&](int64_t row0, int64_t row1, int64_t chunk0, int64_t chunk1) {
      float* own = scratch + omp_get_thread_num() * thread_floats();
      if (dot_) coded_dot_panels(g, split, row0, row1, chunk0, chunk1, own);
      else HWY_DYNAMIC_DISPATCH(CodedPanels)(g, row0, row1, chunk0 * kChunkTiles, std::min(chunk1 * kChunkTiles, tiles()), own);
    };
    if (blocks == 1)
      return parallel_for(chunks, kParallelGrain / (cost * g.rows) + 1, [&](int64_t begin, int64_t end) { panels(0, g.rows, begin, end); });
    parallel_for(blocks, kParallelGrain / (cost * block * chunks) + 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) panels(begin * block, std::min((begin + 1) * block, g.rows), 0, chunks);
    });
  }

  Tensor codes_, numbers_, zeros_, bias_;
  bool residual_ = false;
};

class CodedMatMul : public CodedProduct {
 public:
  explicit CodedMatMul(const KernelRequest& r) : CodedProduct(r) { copies_ = !dot_ && (gemm_.depth % lanes_ != 0 || (rows_ > kFewRows && gemm_.depth % kAliasedFloats == 0)); }

 private:
  void copy(const float* x, int64_t from, int64_t to, float* rows) const override {
    for (int64_t r = from; r < to; ++r, rows += row_step()) {
      std::memcpy(rows, x + r * gemm_.depth, static_cast<size_t>(gemm_.depth) * sizeof(float));
      std::fill(rows + gemm_.depth, rows + row_step(), 0.0f);
    }
  }
};

class CodedConv : public CodedProduct {
 public:
  explicit CodedConv(const KernelRequest& r)
      : CodedProduct(r), x_(r.in_shape()), y_(r.out_shape()), kernel_(r.node.get_ints("kernel_shape")), strides_(r.node.get_ints("strides")),
        pads_(r.node.get_ints("pads")), dilations_(r.node.get_ints("dilations")) {
    copies_ = true;
  }

 private:
  // Windows [from, to), tap by tap.
  void copy(const float* x, int64_t from, int64_t to, float* rows) const override {
    const int64_t channels = x_[3];
    const size_t bytes = static_cast<size_t>(channels) * sizeof(float);
    for (int64_t r = from; r < to; ++r, rows += row_step()) {
      const int64_t ox = r % y_[2], oy = r / y_[2] % y_[1], image = r / (y_[2] * y_[1]);
      float* at = rows;
      for (int64_t ky = 0; ky < kernel_[0]; ++ky)
        for (int64_t kx = 0; kx < kernel_[1]; ++kx, at += channels) {
          const int64_t iy = oy * strides_[0] - pads_[0] + ky * dilations_[0], ix = ox * strides_[1] - pads_[1] + kx * dilations_[1];
          if (iy < 0 || iy >= x_[1] || ix < 0 || ix >= x_[2]) std::memset(at, 0, bytes);
          else std::memcpy(at, x + ((image * x_[1] + iy) * x_[2] + ix) * channels, bytes);
        }
      std::fill(at, rows + row_step(), 0.0f);
    }
  }

  Shape x_, y_;
  std::vector<int64_t> kernel_, strides_, pads_, dilations_;
};

bool supported(const KernelRequest& r) {
  if (r.input(0).dtype != DType::kF32 || r.output().dtype != DType::kF32) return false;
  for (size_t i : {1, 2, 4, 5})
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  const int64_t block = r.node.get_int("block_size");
  return block == 0 || block >= r.in_shape(1)[1] || block % 16 == 0;  // a vector has one scale
}

}  // namespace

void register_coded_gemm(KernelRegistry& r) {
  r.add("CodedMatMul", "ai.lathe", {"coded.matmul", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<CodedMatMul>(q); }});
  r.add("CodedConv", "ai.lathe", {"coded.conv", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<CodedConv>(q); }});
}

}  // namespace lathe
#endif
