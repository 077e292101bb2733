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

#include "kernels/cpu/masked-inl.h"

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

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
