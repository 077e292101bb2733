// Products with weights of 4 or 8 bits in groups by sums of products of bytes. Codes are the unsigned bytes as they come
// from memory; 64 of them meet an instruction at once, where a decoder to f32 makes 16.
//
// Rows of A are cut into blocks, each brought to one scale by its largest element and written as whole numbers of 24 bits:
// three digits of eight bits from −128 to 127, so that an element errs by no more than half a unit in the last place of
// the block's largest. Products of digits and codes are summed as integers without an error. The digits of 256 elements
// by codes less their zero points stay under 2³¹ for the lower two together.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/coded_dot.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/coded-inl.h"
#include "kernels/cpu/coded_gemm.h"
#include "kernels/cpu/integer-inl.h"

#ifndef LATHE_CODED_DOT_SHARED
#define LATHE_CODED_DOT_SHARED
namespace lathe {
constexpr int kDigits = 3;
constexpr float kLargestWhole = 8.3e6f;   // three digits reach 127·(2¹⁶ + 2⁸ + 1)
constexpr float kLargest = 1e30f, kSmallest = 1e-30f;  // of a block's largest elements that have a scale
constexpr int64_t kMostDotRows = 4;
constexpr int64_t kDotPrefetch = 4096;  // bytes

// What is known of a block beside its digits.
struct DotBlock {
  float scale;
  int32_t start[kDigits];  // sums of digits, times −zero if there is one zero point for all
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Digits of `count` numbers, [kDigits, block], and zeros up to a multiple of kDotDepth. False where the numbers have no
// scale.
bool DotSplit(const float* from, int64_t count, int64_t block, int32_t zero, int8_t* digits, DotBlock& b) {
  const D d;
  const DI di;
  const hn::Rebind<int8_t, D> d8;
  const int64_t lanes = CodedLanes();
  const V limit = hn::Set(d, kLargest);
  V most = hn::Zero(d);
  for (int64_t i = 0; i < count; i += lanes) {
    const V x = hn::Abs(LoadMasked(FirstLanes(d, count - i), d, from + i));
    if (!hn::AllTrue(d, hn::Le(x, limit))) return false;
    most = hn::Max(most, x);
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  if (largest > 0 && largest < kSmallest) return false;
  b.scale = largest / kLargestWhole;
  const V inverse = hn::Set(d, largest > 0 ? kLargestWhole / largest : 0.0f);
  VI sums[kDigits] = {hn::Zero(di), hn::Zero(di), hn::Zero(di)};
  for (int64_t i = 0; i < count; i += lanes) {
    VI whole = hn::NearestInt(hn::Mul(LoadMasked(FirstLanes(d, count - i), d, from + i), inverse));
    const int64_t room = std::min((count + kDotDepth - 1) / kDotDepth * kDotDepth - i, lanes);
    for (int k = 0; k < kDigits; ++k) {
      const VI digit = hn::ShiftRight<24>(hn::ShiftLeft<24>(whole));
      whole = hn::ShiftRight<8>(hn::Sub(whole, digit));
      sums[k] = hn::Add(sums[k], digit);
      StoreMasked(hn::DemoteTo(d8, digit), hn::FirstN(d8, static_cast<size_t>(room)), d8, digits + k * block + i);
    }
  }
  for (int k = 0; k < kDigits; ++k) b.start[k] = -zero * hn::GetLane(hn::SumOfLanes(di, sums[k]));
  return true;
}

HWY_INLINE VI FourDigits(const int8_t* digits) {
  int32_t four;
  std::memcpy(&four, digits, sizeof four);
  return hn::Set(DI(), four);
}

// Sums of kRows rows, whose digits and blocks are given, and a tile, to rows `step` apart. With one row a sum is split in
// two, since it waits for the one before.
template <int kBits, int kRows>
void DotTile(const CodedGemm& g, int64_t tile, int64_t block, const int8_t* const* digits, const DotBlock* const* blocks, float* to, int64_t step) {
  const D d;
  const DI di;
  constexpr int kChains = kRows == 1 ? 2 : 1, kUnitBytes = kDotColumns * kBits;  // a unit: kDotDepth of the depth
  const int64_t lanes = 16, units = (g.depth + kDotDepth - 1) / kDotDepth, count = (g.depth + block - 1) / block;
  const int64_t in_group = g.groups > 1 ? g.group / block : count;
  const uint8_t* codes = g.codes + tile * units * kUnitBytes;
  const float* scales = g.scales + tile * g.groups * kDotColumns;
  const float* zeros = g.zeros ? g.zeros + tile * g.groups * kDotColumns : nullptr;
  const VI low_half = hn::Set(di, 0x0f0f0f0f);
  V total[kRows][2];
  for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = hn::Zero(d);
  int64_t left = in_group;
  for (int64_t b = 0; b < count; ++b) {
    VI acc[kChains][kRows][2][kDigits];
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < kDigits; ++k) {
        const VI start = hn::Set(di, blocks[r][b].start[k]);
        for (int v = 0; v < 2; ++v) {
          acc[0][r][v][k] = zeros ? hn::Mul(start, hn::ConvertTo(di, hn::LoadU(d, zeros + v * lanes))) : start;
          if constexpr (kChains == 2) acc[1][r][v][k] = hn::Zero(di);
        }
      }
    const int64_t end = std::min((b + 1) * block, units * kDotDepth) - b * block;
    const int64_t base = b * block * kDigits;
    for (int64_t i = 0; i < end; i += kDotDepth, codes += kUnitBytes) {
      VI w[2][2];  // first and second four elements of the depth
      HWY_UNROLL(2)
      for (int v = 0; v < 2; ++v) {
        if constexpr (kBits == 4) {
          const VI both = hn::LoadU(di, reinterpret_cast<const int32_t*>(codes + v * 64));
          w[0][v] = hn::And(both, low_half);
          w[1][v] = hn::And(hn::ShiftRight<4>(both), low_half);
        } else {
          w[0][v] = hn::LoadU(di, reinterpret_cast<const int32_t*>(codes + v * 64));
          w[1][v] = hn::LoadU(di, reinterpret_cast<const int32_t*>(codes + 128 + v * 64));
        }
      }
      for (int line = 0; line < kUnitBytes; line += 64) __builtin_prefetch(codes + kDotPrefetch + line);
      HWY_UNROLL(2)
      for (int half = 0; half < 2; ++half) {
        HWY_UNROLL(4)
        for (int r = 0; r < kRows; ++r) {
          HWY_UNROLL(3)
          for (int k = 0; k < kDigits; ++k) {
            const VI x = FourDigits(digits[r] + base + k * block + i + half * 4);
            HWY_UNROLL(2)
            for (int v = 0; v < 2; ++v) {
              VI& sum = acc[half % kChains][r][v][k];
              sum = Dot<true>(sum, w[half][v], x);
            }
          }
        }
      }
    }
    HWY_UNROLL(2)
    for (int v = 0; v < 2; ++v) {
      const V scale = hn::LoadU(d, scales + v * lanes);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kChains == 2)
          for (int k = 0; k < kDigits; ++k) acc[0][r][v][k] = hn::Add(acc[0][r][v][k], acc[1][r][v][k]);
        const VI* digit = acc[0][r][v];
        const V low = hn::ConvertTo(d, hn::Add(hn::ShiftLeft<8>(digit[1]), digit[0]));
        const V sum = hn::MulAdd(hn::ConvertTo(d, digit[2]), hn::Set(d, 65536.0f), low);
        total[r][v] = hn::MulAdd(sum, hn::Mul(scale, hn::Set(d, blocks[r][b].scale)), total[r][v]);
      }
    }
    if (--left == 0) {
      left = in_group;
      scales += kDotColumns;
      if (zeros) zeros += kDotColumns;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 2; ++v) hn::StoreU(total[r][v], d, to + r * step + v * lanes);
}

template <int kBits>
void DotRows(const CodedGemm& g, int64_t tile, int64_t block, int64_t rows, const int8_t* const* digits, const DotBlock* const* blocks, float* to, int64_t step) {
  switch (rows) {
    case 1: return DotTile<kBits, 1>(g, tile, block, digits, blocks, to, step);
    case 2: return DotTile<kBits, 2>(g, tile, block, digits, blocks, to, step);
    case 3: return DotTile<kBits, 3>(g, tile, block, digits, blocks, to, step);
    default: return DotTile<kBits, kMostDotRows>(g, tile, block, digits, blocks, to, step);
  }
}

bool HasCodedDot() { return true; }
void CodedDotTile(const CodedGemm& g, int64_t tile, int64_t block, int64_t rows, const int8_t* const* digits, const DotBlock* const* blocks, float* to, int64_t step) {
  if (g.bits == 4) DotRows<4>(g, tile, block, rows, digits, blocks, to, step);
  else DotRows<8>(g, tile, block, rows, digits, blocks, to, step);
}

#else
bool HasCodedDot() { return false; }
bool DotSplit(const float*, int64_t, int64_t, int32_t, int8_t*, DotBlock&) { return false; }
void CodedDotTile(const CodedGemm&, int64_t, int64_t, int64_t, const int8_t* const*, const DotBlock* const*, float*, int64_t) {}
#endif

void CodedDotFinish(const CodedGemm& g, const float* sums, int64_t row, int64_t column, int64_t count) { FinishRow(g, sums, row, column, count); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(HasCodedDot);
HWY_EXPORT(DotSplit);
HWY_EXPORT(CodedDotTile);
HWY_EXPORT(CodedDotFinish);

namespace {

// How rows in digits lie: [blocks, kDigits, block] bytes, [blocks] of DotBlock, and where the row itself is if it must be
// multiplied as it stands.
struct SplitRow {
  int8_t* digits;
  DotBlock* blocks;
  const float** plain;
};
struct SplitLayout {
  int64_t block, count, row_bytes;  // elements that are brought to one scale, such blocks of a row
  explicit SplitLayout(const CodedGemm& g) {
    const int64_t most = g.bits == 8 ? 128 : 256;
    block = std::min(g.groups <= 1 ? (g.depth + kDotDepth - 1) / kDotDepth * kDotDepth : g.group / kDotDepth * kDotDepth, most);
    while (g.groups > 1 && g.group % block != 0) block -= kDotDepth;
    count = (g.depth + block - 1) / block;
    row_bytes = (digit_bytes() + count * kBlockBytes + static_cast<int64_t>(sizeof(float*)) + 63) / 64 * 64;
  }
  SplitRow row(void* split, int64_t r) const {
    auto* at = static_cast<char*>(split) + r * row_bytes;
    return {reinterpret_cast<int8_t*>(at), reinterpret_cast<DotBlock*>(at + digit_bytes()), reinterpret_cast<const float**>(at + digit_bytes() + count * kBlockBytes)};
  }

 private:
  static constexpr int64_t kBlockBytes = sizeof(DotBlock);
  int64_t digit_bytes() const { return count * kDigits * block; }
};

// A row without digits: element by element.
void plain_tile(const CodedGemm& g, const float* x, int64_t tile, float* to) {
  const int64_t units = (g.depth + kDotDepth - 1) / kDotDepth;
  for (int64_t c = 0; c < kDotColumns; ++c) {
    float sum = 0;
    for (int64_t k = 0; k < g.depth; ++k) {
      const uint8_t* unit = g.codes + (tile * units + k / kDotDepth) * kDotColumns * g.bits;
      const int64_t half = k % kDotDepth / 4, group = g.groups > 1 ? k / g.group : 0, at = (tile * g.groups + group) * kDotColumns + c;
      const int code = g.bits == 4 ? unit[c * 4 + k % 4] >> 4 * half & 15 : unit[(half * kDotColumns + c) * 4 + k % 4];
      sum += (static_cast<float>(code) - (g.zeros ? g.zeros[at] : static_cast<float>(g.moved_up()))) * g.scales[at] * x[k];
    }
    to[c] = sum;
  }
}

}  // namespace

bool has_coded_dot() { return has_vnni_instructions() && HWY_DYNAMIC_DISPATCH(HasCodedDot)(); }

int64_t coded_dot_row_bytes(const CodedGemm& g) { return SplitLayout(g).row_bytes; }

void coded_dot_split(const CodedGemm& g, int64_t from, int64_t to, void* split) {
  const SplitLayout layout(g);
  // Where columns have zero points of their own, they are multiplied in later.
  const int32_t zero = g.zeros ? 1 : g.moved_up();
  for (int64_t row = from; row < to; ++row) {
    const float* a = g.a + row * g.a_step;
    const SplitRow r = layout.row(split, row);
    bool cut = true;
    for (int64_t b = 0, first = 0; cut && b < layout.count; ++b, first += layout.block)
      cut = HWY_DYNAMIC_DISPATCH(DotSplit)(a + first, std::min(layout.block, g.depth - first), layout.block, zero, r.digits + first * kDigits, r.blocks[b]);
    *r.plain = cut ? nullptr : a;
  }
}

void coded_dot_panels(const CodedGemm& g, void* split, int64_t row0, int64_t row1, int64_t chunk0, int64_t chunk1, float* sums) {
  const SplitLayout layout(g);
  const int64_t tiles = (g.columns + kDotColumns - 1) / kDotColumns;
  for (int64_t chunk = chunk0; chunk < chunk1; ++chunk) {
    const int64_t first = chunk * kCodedChunkColumns / kDotColumns, last = std::min(first + kCodedChunkColumns / kDotColumns, tiles);
    for (int64_t tile = first; tile < last; ++tile) {
      float* to = sums + (tile - first) * kDotColumns;
      for (int64_t row = row0; row < row1;) {
        const int8_t* digits[kMostDotRows];
        const DotBlock* blocks[kMostDotRows];
        int64_t count = 0;
        const float* plain = nullptr;
        while (count < kMostDotRows && row + count < row1) {
          const SplitRow r = layout.row(split, row + count);
          if ((plain = *r.plain)) break;
          digits[count] = r.digits;
          blocks[count++] = r.blocks;
        }
        if (count > 0) HWY_DYNAMIC_DISPATCH(CodedDotTile)(g, tile, layout.block, count, digits, blocks, to + (row - row0) * kCodedChunkColumns, kCodedChunkColumns);
        row += count;
        if (plain) plain_tile(g, plain, tile, to + (row++ - row0) * kCodedChunkColumns);
      }
    }
    const int64_t column = chunk * kCodedChunkColumns, count = std::min(kCodedChunkColumns, g.columns - column);
    for (int64_t r = row0; r < row1; ++r) HWY_DYNAMIC_DISPATCH(CodedDotFinish)(g, sums + (r - row0) * kCodedChunkColumns, r, column, count);
  }
}

}  // namespace lathe
#endif
