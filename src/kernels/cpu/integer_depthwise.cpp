// IntegerConv of one channel a group. Bytes of a column of the picture that lie in neighbouring rows of the window are
// interleaved to one lane (kernels/cpu/integer-inl.h), four rows or two at a time, in a buffer that stays in the first-level
// cache. So one lane serves all columns of the window, and with the weights moved by one row also the next row of outputs.
// A row of outputs is then one run of bytes, in which tap k of every output lies at the same distance, whatever the number of
// channels; columns of each residue of the stride lie side by side. Weights repeat with the channels: they are laid out
// for each way in which vectors and channels meet.
//
// From as many channels as a vector has bytes on, that many are done at a time: weights then stay in the first-level cache for
// all rows. Windows of 3×3 taps need no buffer with AVX-512: interleaved columns of 64 channels stay in registers while a
// row of outputs is made.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer_depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/parallel.h"
#include "kernels/cpu/integer-inl.h"
#include "kernels/kernel.h"
#include "kernels/requantize.h"

#ifndef LATHE_INTEGER_DEPTHWISE_SHARED
#define LATHE_INTEGER_DEPTHWISE_SHARED
namespace lathe {
struct IntegerDepthwise {
  int64_t taps = 1, groups = 1;      // columns of the window; groups of its rows
  int64_t phases = 1;
  int64_t plane = 0;                 // lanes from a group's to the next one's
  int64_t step = 0, y_step = 0;      // from an output's to the next one's in a run of channels; 0: none but all channels
  const int64_t* distances = nullptr;  // [taps], of lanes
  int64_t channels = 1, width = 1, out_width = 1, pad_left = 0;  // of blocks of 64 channels
  const int32_t* weights = nullptr;  // [phases, taps, groups, packed_rows, 4, lanes]
  int64_t packed_rows = 1;           // of outputs
  const int32_t* bias = nullptr;     // [phases, 4, lanes]
  const float* scale = nullptr;
  const uint8_t* table = nullptr;
  int32_t outside = 0;               // a lane of what lies outside the picture
  bool quads = false, flip = false;
  Requantize out;
};
// Rows [first, last) of outputs of one picture, for IntegerDepthwiseBlock.
struct DepthwisePicture {
  const uint8_t* x;
  uint8_t* y;
  const uint8_t* outside;  // a row that lies above or below
  int64_t height, line, y_line, pad_top, first, last;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
// One lane cannot hold four bytes side by side: left to the product of matrices (IntegerVectorBytes).
void IntegerInterleave(const IntegerDepthwise&, const uint8_t* const*, int64_t, int64_t, int64_t, int32_t*) {}
void IntegerDepthwiseRows(const IntegerDepthwise&, int, const int32_t*, int64_t, uint8_t*, int64_t) {}
void IntegerDepthwiseBlock(const IntegerDepthwise&, int64_t, int, int64_t, const DepthwisePicture&, int64_t) {}
bool HasIntegerBlocks() { return false; }
int64_t IntegerVectorBytes() { return 0; }
#else

// `runs` times `count` bytes of each row of a group, `apart` bytes from one another, side by side in a lane, to `to` and up to
// a vector of bytes beyond. With more than one run `count` is a vector's.
void IntegerInterleave(const IntegerDepthwise& a, const uint8_t* const* rows, int64_t count, int64_t runs, int64_t apart, int32_t* to) {
  const DI di;
  [[maybe_unused]] const D8 d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
#if LATHE_PACKS_CODES
  if (a.quads) {
    const hn::Repartition<uint16_t, DI> d16;
    // Interleaving works within 128 bits: the words of a vector are brought four apart first.
    alignas(64) static constexpr int32_t kApart[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const VI order = hn::Load(di, kApart);
    const V8 flip = hn::Set(d8, static_cast<uint8_t>(a.flip ? 0x80 : 0));
    const int64_t step = runs > 1 ? apart : 64, end = runs > 1 ? runs * apart : count;
    for (int64_t i = 0; i < end; i += step, to += 64) {
      V8 row[4];
      const bool whole = runs > 1 || count - i >= 64;
      const auto mask = hn::FirstN(d8, static_cast<size_t>(std::min<int64_t>(count - i, 64)));
      HWY_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const V8 bytes = whole ? hn::LoadU(d8, rows[r] + i) : hn::MaskedLoad(mask, d8, rows[r] + i);
        row[r] = V8{_mm512_permutexvar_epi32(order.raw, hn::Xor(bytes, flip).raw)};
      }
      const auto ab0 = hn::BitCast(d16, hn::InterleaveLower(d8, row[0], row[1])), ab1 = hn::BitCast(d16, hn::InterleaveUpper(d8, row[0], row[1]));
      const auto cd0 = hn::BitCast(d16, hn::InterleaveLower(d8, row[2], row[3])), cd1 = hn::BitCast(d16, hn::InterleaveUpper(d8, row[2], row[3]));
      hn::StoreU(hn::BitCast(di, hn::InterleaveLower(d16, ab0, cd0)), di, to);
      hn::StoreU(hn::BitCast(di, hn::InterleaveUpper(d16, ab0, cd0)), di, to + 16);
      hn::StoreU(hn::BitCast(di, hn::InterleaveLower(d16, ab1, cd1)), di, to + 32);
      hn::StoreU(hn::BitCast(di, hn::InterleaveUpper(d16, ab1, cd1)), di, to + 48);
    }
    return;
  }
#endif
  const hn::Rebind<uint8_t, DI> dq;
  const auto flip = hn::Set(dq, static_cast<uint8_t>(a.flip ? 0x80 : 0));
  for (int64_t run = 0; run < runs; ++run, to += count)
    for (int64_t i = 0; i < count; i += lanes) {
      VI pair[2];
      for (int r = 0; r < 2; ++r) {
        const uint8_t* from = rows[r] + run * apart + i;
        const auto bytes = count - i >= lanes ? hn::LoadU(dq, from) : LoadMasked(hn::FirstN(dq, static_cast<size_t>(count - i)), dq, from);
        pair[r] = hn::PromoteTo(di, hn::Xor(bytes, flip));
      }
      hn::StoreU(hn::Or(pair[0], hn::ShiftLeft<16>(pair[1])), di, to + i);
    }
}

// kRows rows of outputs in vectors that follow one another, the last with what is left of `bytes`. kBlocks: outputs of one
// run of channels, a.step lanes and a.y_step bytes apart; two at a time, which share the weights.
template <bool kQuads, int kRows, bool kBlocks>
void DepthwiseRows(const IntegerDepthwise& a, const int32_t* buffer, int64_t bytes, uint8_t* y, int64_t y_line) {
  const DI di;
  constexpr int kPixels = kBlocks && LATHE_PACKS_CODES ? 2 : 1;  // 16 registers hold no more sums
  const auto lanes = static_cast<int64_t>(hn::Lanes(di)), vector = 4 * lanes, next = a.packed_rows * vector;
  const Rounding rounding(a.out, a.table);
  const int64_t taps = a.taps, groups = a.groups, phases = kBlocks ? 1 : a.phases, plane = a.plane, *distances = a.distances;  // what no store changes
  const int64_t step = kBlocks ? a.step : vector, y_step = kBlocks ? a.y_step : vector;
  const int32_t *all_weights = a.weights, *all_bias = a.bias;
  const float* scale = a.scale;
  int64_t phase = 0;
  for (int64_t at = 0; at < bytes; at += kPixels * vector, buffer += kPixels * step, y += kPixels * y_step, phase = phase + 1 == phases ? 0 : phase + 1) {
    const int32_t *weights = all_weights + phase * taps * groups * next, *bias = all_bias + phase * vector;
    VI acc[kPixels][kRows][4];
    HWY_UNROLL(4)
    for (int v = 0; v < 4; ++v) {
      const VI first = hn::LoadU(di, bias + v * lanes);
      HWY_UNROLL(2)
      for (int p = 0; p < kPixels; ++p) {
        HWY_UNROLL(2)
        for (int r = 0; r < kRows; ++r) acc[p][r][v] = first;
      }
    }
    for (int64_t k = 0; k < taps; ++k)
      for (int64_t g = 0; g < groups; ++g, weights += next) {
        const int32_t* from = buffer + g * plane + distances[k];
        HWY_UNROLL(4)
        for (int v = 0; v < 4; ++v) {
          VI group[kPixels];
          HWY_UNROLL(2)
          for (int p = 0; p < kPixels; ++p) group[p] = hn::LoadU(di, from + p * step + v * lanes);
          HWY_UNROLL(2)
          for (int r = 0; r < kRows; ++r) {
            const VI w = hn::LoadU(di, weights + r * vector + v * lanes);
            HWY_UNROLL(2)
            for (int p = 0; p < kPixels; ++p) acc[p][r][v] = Dot<kQuads>(acc[p][r][v], group[p], w);
          }
        }
      }
    HWY_UNROLL(2)
    for (int p = 0; p < kPixels; ++p) {
      if (p > 0 && at + p * vector >= bytes) break;
      HWY_UNROLL(2)
      for (int r = 0; r < kRows; ++r) rounding.template Store<4>(acc[p][r], scale + phase * vector, bytes - at - p * vector, y + r * y_line + p * y_step);
    }
  }
}

// One row of outputs, or two.
void IntegerDepthwiseRows(const IntegerDepthwise& a, int rows, const int32_t* buffer, int64_t bytes, uint8_t* y, int64_t y_line) {
  auto run = [&]<bool kQuads>() {
    if (a.step) rows == 2 ? DepthwiseRows<kQuads, 2, true>(a, buffer, bytes, y, y_line) : DepthwiseRows<kQuads, 1, true>(a, buffer, bytes, y, y_line);
    else rows == 2 ? DepthwiseRows<kQuads, 2, false>(a, buffer, bytes, y, y_line) : DepthwiseRows<kQuads, 1, false>(a, buffer, bytes, y, y_line);
  };
#if LATHE_PACKS_CODES
  if (a.quads) return run.template operator()<true>();
#endif
  run.template operator()<false>();
}

#if LATHE_PACKS_CODES

// kSegments runs of 64 / kSegments channels, each of other rows, side by side in a vector.
template <int kSegments>
HWY_INLINE V8 LoadSegments(const uint8_t* const* rows, int64_t at) {
  if constexpr (kSegments == 1) {
    return hn::LoadU(D8(), rows[0] + at);
  } else if constexpr (kSegments == 2) {
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[0] + at)));
    return V8{_mm512_inserti64x4(low, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[4] + at)), 1)};
  } else {
    auto piece = [&](int i) HWY_ATTR { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[4 * i] + at)); };
    const __m512i low = _mm512_inserti32x4(_mm512_castsi128_si512(piece(0)), piece(1), 1);
    return V8{_mm512_inserti32x4(_mm512_inserti32x4(low, piece(2), 2), piece(3), 3)};
  }
}

template <int kSegments>
HWY_INLINE void StoreSegments(V8 codes, uint8_t* const* to, int64_t at) {
  if constexpr (kSegments == 1) {
    hn::StoreU(codes, D8(), to[0] + at);
  } else if constexpr (kSegments == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[0] + at), _mm512_castsi512_si256(codes.raw));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[1] + at), _mm512_extracti64x4_epi64(codes.raw, 1));
  } else {
    auto put = [&](int i, __m128i piece) HWY_ATTR { _mm_storeu_si128(reinterpret_cast<__m128i*>(to[i] + at), piece); };
    put(0, _mm512_castsi512_si128(codes.raw));
    put(1, _mm512_extracti32x4_epi32(codes.raw, 1));
    put(2, _mm512_extracti32x4_epi32(codes.raw, 2));
    put(3, _mm512_extracti32x4_epi32(codes.raw, 3));
  }
}

// A run of 64 / kSegments channels from `c` on, of kSegments rows of outputs at a time, or, with a stride of one, of as many
// pairs of rows.
template <int kSegments, int kStride, bool kFlip>
void DepthwiseBlock(const IntegerDepthwise& given, const DepthwisePicture& picture, int64_t c, const int32_t* weights, const int32_t* bias, const float* scale) {
  constexpr int kRows = kStride == 1 ? 2 : 1, kColumns = kStride + 3;  // columns that two outputs' windows meet
  const DI di;
  const D8 d8;
  const hn::Repartition<uint16_t, DI> d16;
  const Rounding rounding(given.out, given.table);
  const int64_t channels = given.channels, width = given.width, end = given.out_width, y_line = picture.y_line;
  const V8 flip = hn::Set(d8, 0x80);
  const VI outside = hn::Set(di, given.outside);
  const uint8_t* rows[4 * kSegments];
  uint8_t* to[kSegments];
  // The order of channels within the four vectors is the one that Rounding packs back.
  auto load = [&](int64_t column, VI* q) HWY_ATTR {
    if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(width)) {
      q[0] = q[1] = q[2] = q[3] = outside;
      return;
    }
    int64_t at = column * channels;
    __asm__("" : "+r"(at));  // or GCC keeps the address of each row for each column
    V8 r0 = LoadSegments<kSegments>(rows, at), r1 = LoadSegments<kSegments>(rows + 1, at), r2 = LoadSegments<kSegments>(rows + 2, at);
    V8 r3 = kRows == 1 ? r2 : LoadSegments<kSegments>(rows + 3, at);
    if constexpr (kFlip) r0 = hn::Xor(r0, flip), r1 = hn::Xor(r1, flip), r2 = hn::Xor(r2, flip), r3 = hn::Xor(r3, flip);
    const auto ab0 = hn::BitCast(d16, hn::InterleaveLower(d8, r0, r1)), ab1 = hn::BitCast(d16, hn::InterleaveUpper(d8, r0, r1));
    const auto cd0 = hn::BitCast(d16, hn::InterleaveLower(d8, r2, r3)), cd1 = hn::BitCast(d16, hn::InterleaveUpper(d8, r2, r3));
    q[0] = hn::BitCast(di, hn::InterleaveLower(d16, ab0, cd0));
    q[1] = hn::BitCast(di, hn::InterleaveUpper(d16, ab0, cd0));
    q[2] = hn::BitCast(di, hn::InterleaveLower(d16, ab1, cd1));
    q[3] = hn::BitCast(di, hn::InterleaveUpper(d16, ab1, cd1));
  };
  // Outputs `column` and the next, whose windows begin at q0 and kStride behind it.
  auto emit = [&](int64_t column, const VI* q0, const VI* q1, const VI* q2, const VI* q3, const VI* q4) HWY_ATTR {
    const VI *a[3] = {q0, q1, q2}, *b[3] = {kStride == 1 ? q1 : q2, kStride == 1 ? q2 : q3, kStride == 1 ? q3 : q4};
    VI sum[kRows][2][4];
    HWY_UNROLL(4)
    for (int v = 0; v < 4; ++v) {
      const VI first = hn::LoadU(di, bias + v * 16);
      HWY_UNROLL(2)
      for (int r = 0; r < kRows; ++r) {
        sum[r][0][v] = sum[r][1][v] = first;
        HWY_UNROLL(3)
        for (int k = 0; k < 3; ++k) {
          const VI w = hn::LoadU(di, weights + (k * kRows + r) * 64 + v * 16);
          sum[r][0][v] = Dot<true>(sum[r][0][v], a[k][v], w);
          sum[r][1][v] = Dot<true>(sum[r][1][v], b[k][v], w);
        }
      }
      const VF factor = hn::LoadU(DF(), scale + v * 16);
      HWY_UNROLL(2)
      for (int r = 0; r < kRows; ++r) {
        sum[r][0][v] = rounding.RoundSmall(sum[r][0][v], factor);
        sum[r][1][v] = rounding.RoundSmall(sum[r][1][v], factor);
      }
    }
    HWY_UNROLL(2)
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * y_line + column * channels;
      StoreSegments<kSegments>(rounding.PackInterleaved(sum[r][0][0], sum[r][0][1], sum[r][0][2], sum[r][0][3]), to, at);
      if (column + 1 < end) StoreSegments<kSegments>(rounding.PackInterleaved(sum[r][1][0], sum[r][1][1], sum[r][1][2], sum[r][1][3]), to, at + channels);
    }
  };
  for (int64_t row = picture.first; row < picture.last; row += kRows * kSegments) {
    for (int64_t i = 0; i < kSegments; ++i) {
      // Rows that are not there are the last ones once more.
      const int64_t of = std::min(row + i * kRows, picture.last - kRows), top = of * kStride - picture.pad_top;
      to[i] = picture.y + of * y_line + c;
      for (int64_t k = 0; k < 4; ++k) rows[4 * i + k] = (top + k < 0 || top + k >= picture.height ? picture.outside : picture.x + (top + k) * picture.line) + c;
    }
    VI q[kColumns][4];
    int64_t x = -given.pad_left;
    load(x, q[0]);
    if constexpr (kStride == 1) {
      load(x + 1, q[1]);
      for (int64_t column = 0; column < end; column += 4, x += 4) {
        load(x + 2, q[2]);
        load(x + 3, q[3]);
        emit(column, q[0], q[1], q[2], q[3], nullptr);
        if (column + 2 >= end) break;
        load(x + 4, q[0]);
        load(x + 5, q[1]);
        emit(column + 2, q[2], q[3], q[0], q[1], nullptr);
      }
    } else {
      for (int64_t column = 0; column < end; column += 2, x += 4) {
        HWY_UNROLL(4)
        for (int i = 1; i < kColumns; ++i) load(x + i, q[i]);
        emit(column, q[0], q[1], q[2], q[3], q[4]);
        HWY_UNROLL(4)
        for (int v = 0; v < 4; ++v) q[0][v] = q[4][v];
      }
    }
  }
  if (!rounding.must_look_up()) return;
  for (int64_t row = picture.first; row < picture.last; ++row)
    for (int64_t column = 0; column < end; ++column) rounding.LookUp(picture.y + row * y_line + column * channels + c, 64 / kSegments);
}

template <int kSegments>
void DepthwiseBlockOf(const IntegerDepthwise& a, int64_t block, int64_t stride, const DepthwisePicture& p, int64_t c) {
  const int32_t *weights = a.weights + block * 3 * a.packed_rows * 64, *bias = a.bias + block * 64;
  const float* scale = a.scale + block * 64;
  if (stride == 1 && a.flip) DepthwiseBlock<kSegments, 1, true>(a, p, c, weights, bias, scale);
  else if (stride == 1) DepthwiseBlock<kSegments, 1, false>(a, p, c, weights, bias, scale);
  else if (a.flip) DepthwiseBlock<kSegments, 2, true>(a, p, c, weights, bias, scale);
  else DepthwiseBlock<kSegments, 2, false>(a, p, c, weights, bias, scale);
}

#endif

void IntegerDepthwiseBlock([[maybe_unused]] const IntegerDepthwise& a, [[maybe_unused]] int64_t block, [[maybe_unused]] int segments, [[maybe_unused]] int64_t stride,
                           [[maybe_unused]] const DepthwisePicture& picture, [[maybe_unused]] int64_t c) {
#if LATHE_PACKS_CODES
  if (segments == 1) DepthwiseBlockOf<1>(a, block, stride, picture, c);
  else if (segments == 2) DepthwiseBlockOf<2>(a, block, stride, picture, c);
  else DepthwiseBlockOf<4>(a, block, stride, picture, c);
#endif
}
bool HasIntegerBlocks() { return LATHE_PACKS_CODES; }

// Of a vector; 0 where there is none.
int64_t IntegerVectorBytes() { return static_cast<int64_t>(hn::Lanes(D8())); }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(IntegerDepthwiseRows);
HWY_EXPORT(IntegerDepthwiseBlock);
HWY_EXPORT(HasIntegerBlocks);
HWY_EXPORT(IntegerInterleave);
HWY_EXPORT(IntegerVectorBytes);

namespace {

// Interleaved rows leave room in a first-level cache of 32 KiB for weights and outputs.
constexpr int64_t kBufferBytes = 20 << 10;
// Part of a picture: half of a second-level cache of 512 KiB, or a quarter of 1 MiB.
constexpr int64_t kPartBytes = 256 << 10;

class IntegerDepthwiseConv : public Kernel {
 public:
  explicit IntegerDepthwiseConv(const KernelRequest& r)
      : x_(r.in_shape()), w_(r.in_shape(1)), y_(r.out_shape()), strides_(r.node.get_ints("strides")), pads_(r.node.get_ints("pads")),
        dilations_(r.node.get_ints("dilations")), vector_(HWY_DYNAMIC_DISPATCH(IntegerVectorBytes)()),
        zero_(static_cast<int>(r.node.get_int("x_zero_point"))) {
    args_.quads = has_vnni_instructions() && r.input(1).dtype == DType::kI8 && !r.has_input(4);
    args_.flip = r.input(0).dtype == DType::kI8;
    args_.out = Requantize::of(r.node);
    if (r.has_input(5)) {
      table_ = r.input(5).constant;
      args_.table = table_.data<uint8_t>();
    }
    args_.taps = w_[3];
    args_.channels = channels();
    args_.width = x_[2];
    args_.out_width = y_[2];
    args_.pad_left = pads_[1];
    args_.outside = (static_cast<uint8_t>(zero_) ^ (args_.flip ? 0x80 : 0)) * (args_.quads ? 0x01010101 : 0x00010001);
    blocks_ = args_.quads && HWY_DYNAMIC_DISPATCH(HasIntegerBlocks)() && w_[2] == 3 && w_[3] == 3 && dilations_[0] == 1 && dilations_[1] == 1 &&
              strides_[0] == strides_[1] && strides_[0] <= 2 && y_[1] >= 2 && small_scales(r) && plan_blocks();
    args_.phases = blocks_ ? static_cast<int64_t>(runs_.size()) : channels() / std::gcd(channels(), vector_);
    // Two rows of outputs at once, where that takes no more groups of rows than one.
    const int64_t each = group_size();
    args_.groups = (w_[2] + each - 1) / each;
    args_.packed_rows = strides_[0] == 1 && dilations_[0] == 1 && (w_[2] + each) / each == args_.groups ? 2 : 1;
    if (blocks_) args_.packed_rows = 3 - strides_[0];
    block_ = !blocks_ && channels() >= vector_ ? vector_ : channels();
    if (!blocks_ && block_ < channels()) {
      for (int64_t c = 0; c < channels(); c += vector_) runs_.push_back({std::min(c, channels() - vector_), 1});
      args_.phases = static_cast<int64_t>(runs_.size());
    }
    // Columns of outputs that a buffer serves. A run's lie as they come, all channels' by residue of the stride.
    const bool apart = block_ < channels();
    const int64_t stride = strides_[1], reach = (w_[3] - 1) * dilations_[1], bytes_each = 4 * args_.groups * stride * block_;
    columns_ = std::clamp<int64_t>(kBufferBytes / bytes_each - reach / stride, 4, y_[2]);
    columns_ = (y_[2] + (y_[2] + columns_ - 1) / columns_ - 1) / ((y_[2] + columns_ - 1) / columns_);  // in equal parts
    residues_ = apart ? 1 : stride;
    residue_ = apart ? (columns_ - 1) * stride + reach + 1 : columns_ + reach / stride;
    args_.plane = residues_ * residue_ * block_;
    if (apart) args_.step = stride * block_, args_.y_step = channels();
    for (int64_t k = 0; k < w_[3]; ++k) {
      const int64_t column = k * dilations_[1];
      distances_.push_back((column % residues_ * residue_ + column / residues_) * block_);
    }
    pack(r);
    args_.weights = packed_.data<int32_t>();
    args_.bias = bias_.data<int32_t>();
    args_.scale = scale_.data<float>();
    outside_ = std::vector<uint8_t>(static_cast<size_t>(x_[2] * channels()), static_cast<uint8_t>(zero_));
  }

  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, layout()}}; }
  size_t scratch_bytes() const override { return blocks_ ? 0 : static_cast<size_t>(omp_get_max_threads() * thread_bytes()); }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.distances = distances_.data();
    const auto* x = in[0]->data<uint8_t>();
    if (blocks_) return run_blocks(x, out[0]->data<uint8_t>());
    const uint8_t* x_end = x + in[0]->size();
    const int64_t line = y_[2] * y_[3], rows_each = args_.packed_rows;
    // Rows of a part of a picture; all of them see one run of channels after the other.
    const int64_t parts = std::clamp<int64_t>(omp_get_max_threads() / y_[0], 1, (y_[1] + rows_each - 1) / rows_each);
    const int64_t part = ((y_[1] + parts - 1) / parts + rows_each - 1) / rows_each * rows_each;
    parallel_for(y_[0] * parts, kParallelGrain / (line * part * w_[2] * w_[3] / 64 + 1) + 1, [&](int64_t begin, int64_t end) {
      auto* own = static_cast<char*>(scratch) + omp_get_thread_num() * thread_bytes();
      for (; begin < end; ++begin) {
        const int64_t image = begin / parts, from = begin % parts * part, to = std::min(from + part, y_[1]);
        for (int64_t run = 0; run < std::max<int64_t>(static_cast<int64_t>(runs_.size()), 1); ++run) {
          IntegerDepthwise args = args_;
          const int64_t c = runs_.empty() ? 0 : runs_[run].channel;
          args.weights += run * args.taps * args.groups * rows_each * vector_;
          args.bias += run * vector_;
          args.scale += run * vector_;
          for (int64_t row = from; row < to; row += rows_each)
            for (int64_t column = 0; column < y_[2]; column += columns_) {
              const int64_t count = std::min(columns_, y_[2] - column);
              interleave(x + image * x_[1] * x_[2] * channels() + c, x_end, row * strides_[0] - pads_[0], column, own);
              HWY_DYNAMIC_DISPATCH(IntegerDepthwiseRows)(args, static_cast<int>(std::min(rows_each, to - row)), reinterpret_cast<int32_t*>(own), count * block_,
                                                         out[0]->data<uint8_t>() + (image * y_[1] + row) * line + column * channels() + c, line);
            }
        }
      }
    });
  }

 private:
  int64_t channels() const { return x_[3]; }
  int64_t group_size() const { return args_.quads ? 4 : 2; }
  // Stores end up to a vector of lanes behind the last, and one output more than there is may be read.
  int64_t buffer_bytes() const { return (args_.groups * args_.plane + args_.step + 2 * vector_) * 4; }
  // A row of one residue, copied in pieces.
  int64_t row_bytes() const { return residues_ == 1 ? 0 : (residue_ * channels() + kPiece + 63) / 64 * 64; }
  int64_t thread_bytes() const { return (buffer_bytes() + 63) / 64 * 64 + 4 * row_bytes(); }
  uint64_t layout() const {
    return 3 | static_cast<uint64_t>(args_.quads) << 8 | static_cast<uint64_t>(args_.packed_rows - 1) << 9 | static_cast<uint64_t>(blocks_) << 10 |
           static_cast<uint64_t>(vector_) << 16;
  }

  // A run of channels that one block computes, in as many segments as rows, or pairs of rows, fill its vectors.
  struct Run {
    int64_t channel;
    int segments;
  };
  // Runs of 64 channels, and the rest in runs of 32 and 16. What is left then overlaps the run before. False where channels
  // are too few for that.
  bool plan_blocks() {
    int64_t c = 0;
    for (; channels() - c >= 64; c += 64) runs_.push_back({c, 1});
    const int64_t left = channels() - c;
    if (left == 0) return true;
    if (left % 16 != 0 || (left == 48 && c > 0)) {
      if (c > 0) runs_.push_back({channels() - 64, 1});
      return c > 0;
    }
    if (left & 32) runs_.push_back({c, 2}), c += 32;
    if (left & 16) runs_.push_back({c, 4});
    return true;
  }
  // No sum of i32 comes near the limits of i32 once it is scaled.
  static bool small_scales(const KernelRequest& r) {
    const Tensor& m = r.input(2).constant;
    return std::all_of(m.data<float>(), m.data<float>() + m.size(), [](float f) { return std::fabs(f) < 0.99f; });
  }

  // Of a lane of all phases', or runs', four vectors. In a run without a buffer it is where interleaving brings it.
  int64_t channel_of(int64_t lane) const {
    if (!blocks_) return runs_.empty() ? lane % channels() : runs_[lane / vector_].channel + lane % vector_;
    const Run& run = runs_[lane / 64];
    const int64_t in_block = lane % 64, v = in_block / 16, l = in_block % 16;
    return run.channel + (l / 4 * 16 + v * 4 + l % 4) % (64 / run.segments);
  }

  // Rows of outputs in parts whose pictures stay in the second-level cache while one run of channels after the other is
  // made, in multiples of those that the run with most segments makes at once; the last part has a few more.
  void run_blocks(const uint8_t* x, uint8_t* y) const {  // NOLINT(readability-non-const-parameter): it is written through copies
    const int64_t each = args_.packed_rows, line = x_[2] * x_[3], y_line = y_[2] * y_[3], most = each * runs_.back().segments;
    const int64_t threads = std::max<int64_t>(omp_get_max_threads() / y_[0], 1);
    const int64_t part = std::max(std::min(kPartBytes / (line * strides_[0]), y_[1] / threads) / most * most, most);
    const int64_t parts = std::max<int64_t>(y_[1] / part, 1);
    parallel_for(y_[0] * parts, kParallelGrain / (y_line * part / 4 + 1) + 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) {
        const int64_t image = begin / parts, first = begin % parts * part;
        const DepthwisePicture picture{x + image * x_[1] * line, y + image * y_[1] * y_line, outside_.data(), x_[1], line, y_line, pads_[0], first,
                                       begin % parts + 1 == parts ? y_[1] : first + part};
        for (size_t i = 0; i < runs_.size(); ++i)
          HWY_DYNAMIC_DISPATCH(IntegerDepthwiseBlock)(args_, static_cast<int64_t>(i), runs_[i].segments, strides_[0], picture, runs_[i].channel);
      }
    });
  }

  // Weights, then what the zero point takes off the sums of each lane. For the second row of outputs they stand one row
  // further down.
  void pack(const KernelRequest& r) {
    const int64_t lanes = vector_, sums = args_.phases * vector_, rows = args_.packed_rows, each = args_.taps * args_.groups * rows;
    packed_ = r.packed_input(1, DType::kI32, {sums * (each + 1)}, layout(), [&](const Tensor& w) {
      Tensor packed(DType::kI32, {sums * (each + 1)});
      std::memset(packed.raw(), 0, packed.bytes());
      const Tensor* zeros = r.has_input(4) ? &r.input(4).constant : nullptr;
      const int zero = zero_ + (args_.flip ? 128 : 0);
      for (int64_t i = 0; i < sums; ++i) {
        const int64_t c = channel_of(i), phase = i / lanes, lane = i % lanes, weight_zero = zeros ? zeros->get_int(zeros->size() == 1 ? 0 : c) : 0;
        int64_t sum = 0;
        for (int64_t ky = 0; ky < w_[2]; ++ky)
          for (int64_t kx = 0; kx < w_[3]; ++kx) {
            const int64_t value = w.get_int((c * w_[2] + ky) * w_[3] + kx) - weight_zero;
            for (int64_t row = 0; row < rows; ++row) {
              const int64_t group = (ky + row) / group_size(), place = (ky + row) % group_size();
              char* at = packed.data<char>() + ((((phase * w_[3] + kx) * args_.groups + group) * rows + row) * lanes + lane) * 4;
              if (args_.quads) reinterpret_cast<int8_t*>(at)[place] = static_cast<int8_t>(value);
              else reinterpret_cast<int16_t*>(at)[place] = static_cast<int16_t>(value);
            }
            sum += value;
          }
        packed.data<int32_t>()[sums * each + i] = static_cast<int32_t>(-zero * sum);
      }
      return packed;
    });
    bias_ = Tensor(DType::kI32, {sums});
    scale_ = Tensor(DType::kF32, {sums});
    for (int64_t i = 0; i < sums; ++i) {
      const int64_t c = channel_of(i);
      const uint32_t given = r.has_input(3) ? r.input(3).constant.data<uint32_t>()[c] : 0;
      bias_.data<uint32_t>()[i] = packed_.data<uint32_t>()[sums * each + i] + given;
      scale_.data<float>()[i] = r.input(2).constant.data<float>()[c];
    }
  }

  // The rows under the window of output row `top` + pad, for columns of outputs from `column` on, with what lies outside
  // the picture. Column c of a window is column c / stride of residue c % stride.
  void interleave(const uint8_t* x, const uint8_t* x_end, int64_t top, int64_t column, char* own) const {
    const int64_t stride = residues_, line = x_[2] * channels();
    const int64_t window = args_.packed_rows + w_[2] - 1;  // rows that weights meet
    auto* copies = reinterpret_cast<uint8_t*>(own) + (buffer_bytes() + 63) / 64 * 64;
    auto* to = reinterpret_cast<int32_t*>(own);
    for (int64_t group = 0; group < args_.groups; ++group) {
      const uint8_t* source[4];
      for (int64_t i = 0; i < group_size(); ++i) {
        const int64_t iy = top + std::min(group * group_size() + i, window - 1) * dilations_[0];
        source[i] = iy < 0 || iy >= x_[1] ? nullptr : x + iy * line;
      }
      for (int64_t residue = 0; residue < stride; ++residue, to += residue_ * block_) {
        // Entry i is column i·stride + first.
        const int64_t first = column * strides_[1] - pads_[1] + residue;
        const int64_t begin = std::clamp<int64_t>(first < 0 ? (stride - 1 - first) / stride : 0, 0, residue_);
        const int64_t room = x_[2] - first, end = std::clamp<int64_t>(room > 0 ? (room + stride - 1) / stride : 0, begin, residue_);
        const uint8_t* rows[4];
        for (int64_t i = 0; i < group_size(); ++i) {
          rows[i] = outside_.data();
          if (!source[i]) continue;
          rows[i] = source[i] + (first + begin * stride) * channels();
          if (stride == 1) continue;
          uint8_t* copy = copies + i * row_bytes();
          gather(rows[i], x_end, end - begin, copy);
          rows[i] = copy;
        }
        std::fill_n(to, begin * block_, args_.outside);
        // All channels are one run, else there is one for each column.
        const bool apart = block_ < channels();
        if (end > begin)
          HWY_DYNAMIC_DISPATCH(IntegerInterleave)(args_, rows, apart ? block_ : (end - begin) * block_, apart ? end - begin : 1, channels(), to + begin * block_);
        std::fill_n(to + end * block_, (residue_ - end) * block_, args_.outside);
      }
    }
  }

  static constexpr int64_t kPiece = 64;  // bytes that are copied at once

  // Pixels a stride apart side by side, and up to a piece beyond the last.
  void gather(const uint8_t* from, const uint8_t* x_end, int64_t count, uint8_t* to) const {
    const int64_t step = strides_[1] * channels();
    for (; count > 0; --count, from += step, to += channels())
      for (int64_t c = 0; c < channels(); c += kPiece) {
        if (x_end - from >= c + kPiece) std::memcpy(to + c, from + c, kPiece);
        else std::memcpy(to + c, from + c, static_cast<size_t>(std::min(kPiece, channels() - c)));
      }
  }

  IntegerDepthwise args_;
  Shape x_, w_, y_;
  std::vector<int64_t> strides_, pads_, dilations_, distances_;
  std::vector<uint8_t> outside_;  // a row that lies above or below the picture
  Tensor packed_, bias_, scale_, table_;
  int64_t vector_, block_ = 1, columns_ = 1, residues_ = 1, residue_ = 1;
  std::vector<Run> runs_;
  bool blocks_ = false;  // in runs_
  int zero_;
};

// Phases repeat the weights up to 64 times; more than this for one layer is not worth it (2048 channels, 9 taps).
constexpr int64_t kMostPackedBytes = 1 << 20;

bool depthwise(const KernelRequest& r) {
  const Shape& w = r.in_shape(1);
  for (size_t i = 1; i < r.node.inputs.size(); ++i)
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  if (w[1] != 1 || r.node.get_int("group") != w[0] || r.in_shape()[3] != w[0]) return false;
  if (!Requantize::of(r.node).is_codes()) return false;
  const int64_t vector = HWY_DYNAMIC_DISPATCH(IntegerVectorBytes)();
  if (vector == 0 || w[2] > 64 || w[3] > 64) return false;
  return w[0] / std::gcd(w[0], vector) * vector * w[3] * ((w[2] + 3) / 2) * 4 <= kMostPackedBytes;
}

}  // namespace

void register_integer_depthwise(KernelRegistry& r) {
  r.add("IntegerConv", "ai.lathe", {"integer.depthwise", depthwise, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<IntegerDepthwiseConv>(q); }});
}

}  // namespace lathe
#endif
