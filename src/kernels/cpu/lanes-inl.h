// Vectors of channels in memory, f32 or bf16, whole or cut at the last channel, and what ends every product:
// bias, activation, residual (included once per Highway target).
#if defined(LATHE_LANES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_LANES_INL
#undef LATHE_LANES_INL
#else
#define LATHE_LANES_INL
#endif

#include "kernels/cpu/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Keeps the compiler from reading x from memory again at each use: GCC folds a load into every product that
// uses it, and loads then outnumber products.
HWY_INLINE void KeepInRegister([[maybe_unused]] V& x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  __asm__("" : "+v"(x.raw));
#endif
}

// The last vector of a pixel may hold fewer channels: loads and stores then are masked.
template <bool kFull>
HWY_INLINE V LoadChannels(D d, const float* p, hn::Mask<D> m) {
  if constexpr (kFull) return hn::LoadU(d, p);
  return LoadMasked(m, d, p);
}
template <bool kFull>
HWY_INLINE void StoreChannels(D d, V v, float* p, hn::Mask<D> m) {
  if constexpr (kFull) hn::StoreU(v, d, p);
  else StoreMasked(v, m, d, p);
}

// bf16 elements widen to f32 by a shift; back, they round to nearest even and NaN stays NaN.
template <bool kFull>
HWY_INLINE V LoadChannels(D d, const uint16_t* p, hn::Mask<D> m) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  hn::Vec<decltype(d16)> bits;
  if constexpr (kFull) bits = hn::LoadU(d16, p);
  else bits = LoadMasked(hn::FirstN(d16, hn::CountTrue(d, m)), d16, p);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
// The bits in the lower half of each lane.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> RoundToHalf(D, V v) {
  const hn::RebindToUnsigned<D> d32;
  auto bits = hn::BitCast(d32, v);
  auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  auto quiet = hn::Or(bits, hn::Set(d32, 0x400000));
  return hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded));
}
template <bool kFull>
HWY_INLINE void StoreChannels(D d, V v, uint16_t* p, hn::Mask<D> m) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToSigned<D> di;
  auto half = hn::DemoteTo(d16, hn::BitCast(di, RoundToHalf(d, v)));
  if constexpr (kFull) hn::StoreU(half, d16, p);
  else StoreMasked(half, hn::FirstN(d16, hn::CountTrue(d, m)), d16, p);
}

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
// bf16 where the processor converts: one instruction for some ten. It takes denormal numbers as zero. Written in
// assembly because Highway's targets do not include it; callers check that the machine has it.
struct NativeHalf {
  uint16_t bits;
};
template <bool kFull>
HWY_INLINE V LoadChannels(D d, const NativeHalf* p, hn::Mask<D> m) {
  return LoadChannels<kFull>(d, reinterpret_cast<const uint16_t*>(p), m);
}
template <bool kFull>
HWY_INLINE void StoreChannels(D, V v, NativeHalf* p, hn::Mask<D> m) {
  __m256i half;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v.raw));
  if constexpr (kFull) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
  else _mm256_mask_storeu_epi16(p, m.raw, half);
}
#else
using NativeHalf = uint16_t;
#endif

// Calls body.template operator()<T>() for the type of elements in memory: f32, or bf16, which
// rounds natively where the machine can.
template <class Body>
HWY_INLINE void WithElements(bool half, Body&& body) {
  if (!half) body.template operator()<float>();
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  else if (has_bf16_instructions()) body.template operator()<NativeHalf>();
#endif
  else body.template operator()<uint16_t>();
}

// y[at] = activation(acc + residual) or activation(acc) + residual. `residual` may be null.
template <class T, ActivationKind kAct, bool kFull>
HWY_INLINE void FinishLanes(D d, V acc, const T* residual, bool residual_first, T* y, hn::Mask<D> m, V alpha, V beta) {
  if (residual && residual_first) acc = hn::Add(acc, LoadChannels<kFull>(d, residual, m));
  acc = Activate<kAct>(d, acc, alpha, beta);
  if (residual && !residual_first) acc = hn::Add(acc, LoadChannels<kFull>(d, residual, m));
  StoreChannels<kFull>(d, acc, y, m);
}

HWY_INLINE hn::Mask<D> FirstLanes(D d, int64_t n) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  return hn::FirstN(d, static_cast<size_t>(n < lanes ? n : lanes));
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
