// Sums of products of codes of 8 bits, and how they become codes again (included once per Highway target).
//
// A lane of 32 bits holds a group of factors: four codes (u8) against four weights (i8) where the processor has an
// instruction for their sum of products, else two codes against two weights, all widened to i16. Code that is the
// same but for that takes `kQuads`.
#if defined(LATHE_INTEGER_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_INTEGER_INL
#undef LATHE_INTEGER_INL
#else
#define LATHE_INTEGER_INL
#endif

#include "kernels/cpu/byte_permutations.h"
#include "kernels/cpu/masked-inl.h"
#include "kernels/requantize.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using DI = hn::ScalableTag<int32_t>;
using DF = hn::ScalableTag<float>;
using D8 = hn::ScalableTag<uint8_t>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;
using V8 = hn::Vec<D8>;

// acc + Σ x·w over the groups of each lane.
template <bool kQuads>
HWY_INLINE VI Dot(VI acc, VI x, VI w) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  // Highway's targets do not include the instruction; callers check that the machine has it.
  if constexpr (kQuads) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.raw) : "v"(x.raw), "v"(w.raw));
    return acc;
  }
#endif
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  const hn::Repartition<int16_t, DI> d16;
  VI unused = hn::Zero(DI());
  return hn::ReorderWidenMulAccumulate(DI(), hn::BitCast(d16, x), hn::BitCast(d16, w), acc, unused);
#else
  const VI x_even = hn::ShiftRight<16>(hn::ShiftLeft<16>(x)), w_even = hn::ShiftRight<16>(hn::ShiftLeft<16>(w));
  return hn::Add(acc, hn::Add(hn::Mul(x_even, w_even), hn::Mul(hn::ShiftRight<16>(x), hn::ShiftRight<16>(w))));
#endif
}

// What Requantize says (kernels/requantize.h), for vectors.
struct Limits {
  VF least, most;
  VI zero;
  Limits(float low, float high, int32_t z) : least(hn::Set(DF(), low)), most(hn::Set(DF(), high)), zero(hn::Set(DI(), z)) {}
  // Codes in the low bits of each lane: a value in units of the output's scale.
  HWY_INLINE VI Code(VF value) const { return hn::Add(hn::NearestInt(hn::Min(hn::Max(value, least), most)), zero); }
};

// The low byte of each lane.
HWY_INLINE hn::Vec<hn::Rebind<uint8_t, DI>> LowBytes(VI v) {
  return hn::DemoteTo(hn::Rebind<uint8_t, DI>(), hn::And(v, hn::Set(DI(), 255)));
}

#undef LATHE_PACKS_CODES
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define LATHE_PACKS_CODES 1
#else
#define LATHE_PACKS_CODES 0
#endif

#if LATHE_PACKS_CODES
// 64 codes at once through a table of 256 entries. Callers check has_byte_permutations(), as for Dot().
class CodeTable {
 public:
  explicit CodeTable(const uint8_t* entries) {
    if (!entries) return;
    for (int i = 0; i < 4; ++i) part_[i] = hn::LoadU(D8(), entries + 64 * i);
  }
  HWY_INLINE V8 operator()(V8 codes) const {
    V8 lower = codes, upper = codes;  // as indices, which the entries replace
    __asm__("vpermi2b %2, %1, %0" : "+v"(lower.raw) : "v"(part_[0].raw), "v"(part_[1].raw));
    __asm__("vpermi2b %2, %1, %0" : "+v"(upper.raw) : "v"(part_[2].raw), "v"(part_[3].raw));
    return V8{_mm512_mask_blend_epi8(_mm512_movepi8_mask(codes.raw), lower.raw, upper.raw)};
  }

 private:
  V8 part_[4];
};
#endif

// Sums with their bias in them to codes: clamp(round(f32(sum)·scale), low − zero, high − zero) + zero, and then, if there
// is one, the table's entry for it. Codes of i8 go through a table of u8 with their bits.
class Rounding {
 public:
  Rounding(const Requantize& out, const uint8_t* table) : limits_(out.least(), out.most(), out.zero), table_(table) {
#if LATHE_PACKS_CODES
    // Codes are moved to u8 before they are packed, which saturates; a limit of the type itself is then none.
    const int shift = out.type == DType::kI8 ? 128 : 0;
    zero_ = hn::Set(hn::Repartition<int16_t, DI>(), static_cast<int16_t>(out.zero + shift));
    low_ = hn::Set(D8(), static_cast<uint8_t>(out.low + shift));
    high_ = hn::Set(D8(), static_cast<uint8_t>(out.high + shift));
    flip_ = hn::Set(D8(), static_cast<uint8_t>(shift));
    order_ = hn::LoadU(DI(), kOrder);
    permutes_ = table && has_byte_permutations();
    if (permutes_) entries_ = CodeTable(table);
    limited_ = shift != 0 || out.low > 0 || out.high < 255;
#endif
  }

#if LATHE_PACKS_CODES
  // A sum and its scale, rounded, before the zero point and the limits. Too large a product would round to the least
  // integer; too small a one does, and belongs there.
  HWY_INLINE VI Round(VI sum, VF scale) const {
    return hn::VFromD<DI>{_mm512_cvtps_epi32(hn::Min(hn::Mul(hn::ConvertTo(DF(), sum), scale), limits_.most).raw)};
  }
  // Likewise of a value in units of the output's scale.
  HWY_INLINE VI RoundValue(VF value) const { return hn::VFromD<DI>{_mm512_cvtps_epi32(hn::Min(value, limits_.most).raw)}; }
  // Likewise where no product is too large.
  HWY_INLINE VI RoundSmall(VI sum, VF scale) const { return hn::VFromD<DI>{_mm512_cvtps_epi32(hn::Mul(hn::ConvertTo(DF(), sum), scale).raw)}; }
  // Four vectors of those to bytes, in order.
  HWY_INLINE V8 Pack(VI a, VI b, VI c, VI d) const { return Finish(_mm512_permutexvar_epi32(order_.raw, Narrow(a, b, c, d))); }
  // Likewise, where the vectors have the four words of each 128 bits after one another: words 0 to 3 of `a`, of `b`, ...
  HWY_INLINE V8 PackInterleaved(VI a, VI b, VI c, VI d) const { return Finish(Narrow(a, b, c, d)); }
#endif

  // Neighbouring vectors of sums to the first `count` codes at y.
  template <int kVectors>
  HWY_INLINE void Store(const VI* sums, const float* scale, int64_t count, uint8_t* y) const {
    const DF df;
    const auto lanes = static_cast<int64_t>(hn::Lanes(df));
#if LATHE_PACKS_CODES
    VI v[4];
    HWY_UNROLL(4)
    for (int i = 0; i < kVectors; ++i) v[i] = Round(sums[i], hn::LoadU(df, scale + i * lanes));
    HWY_UNROLL(4)
    for (int i = kVectors; i < 4; ++i) v[i] = v[kVectors - 1];
    const V8 codes = Pack(v[0], v[1], v[2], v[3]);
    if (kVectors == 4 && count >= 64) hn::StoreU(codes, D8(), y);
    else _mm512_mask_storeu_epi8(y, count >= 64 ? ~0ull : (1ull << count) - 1, codes.raw);
#else
    const hn::Rebind<uint8_t, DI> d8;
    for (int i = 0; i < kVectors && count > i * lanes; ++i) {
      const auto codes = LowBytes(limits_.Code(hn::Mul(hn::ConvertTo(df, sums[i]), hn::LoadU(df, scale + i * lanes))));
      if (count >= (i + 1) * lanes) hn::StoreU(codes, d8, y + i * lanes);
      else StoreMasked(codes, hn::FirstN(d8, static_cast<size_t>(count - i * lanes)), d8, y + i * lanes);
    }
#endif
    if (must_look_up()) LookUp(y, std::min(count, kVectors * lanes));
  }

  // Whether what Pack() made is still to go through the table.
  bool must_look_up() const {
#if LATHE_PACKS_CODES
    return table_ && !permutes_;
#else
    return table_ != nullptr;
#endif
  }
  void LookUp(uint8_t* y, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) y[i] = table_[y[i]];
  }

 private:
#if LATHE_PACKS_CODES
  // Both instructions work within 128 bits.
  HWY_INLINE __m512i Narrow(VI a, VI b, VI c, VI d) const {
    return _mm512_packus_epi16(_mm512_adds_epi16(_mm512_packs_epi32(a.raw, b.raw), zero_.raw), _mm512_adds_epi16(_mm512_packs_epi32(c.raw, d.raw), zero_.raw));
  }
  HWY_INLINE V8 Finish(__m512i packed) const {
    V8 codes{packed};
    if (limited_) codes = hn::Xor(hn::Min(hn::Max(codes, low_), high_), flip_);
    if (permutes_) codes = entries_(codes);
    return codes;
  }
#endif

  Limits limits_;
  const uint8_t* table_;
#if LATHE_PACKS_CODES
  CodeTable entries_{nullptr};
  alignas(64) static constexpr int32_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  hn::Vec<hn::Repartition<int16_t, DI>> zero_;
  V8 low_, high_, flip_;
  VI order_;
  bool limited_, permutes_;
#endif
};

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
