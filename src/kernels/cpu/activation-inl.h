// Activations on vectors of floats, for every instruction set (included once per Highway target).
#if defined(LATHE_ACTIVATION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_ACTIVATION_INL
#undef LATHE_ACTIVATION_INL
#else
#define LATHE_ACTIVATION_INL
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/cpu/masked-inl.h"
#include "kernels/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 2ⁿ·2^f for |f| ≤ ½ and whole n; the polynomial is a minimax fit with p(0) = 1, relative error 1.1e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2OfParts(D d, V n, V f) {
  V p = hn::MulAdd(hn::Set(d, 0.00132647238f), f, hn::Set(d, 0.00967151858f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0555073395f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.240222424f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693147004f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const hn::RebindToSigned<D> di;
  auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::Mul(p, hn::BitCast(d, power));
#endif
}

// eˣ, clamped so that the result stays finite and normal. log2e comes in two parts: what one product rounds off
// counts as many times as x is large.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastExp(D d, V x) {
  x = hn::Min(hn::Max(x, hn::Set(d, -87.3f)), hn::Set(d, 88.0f));
  const V log2e = hn::Set(d, 1.44269504f);
  V n = hn::Round(hn::Mul(x, log2e));
  return Exp2OfParts(d, n, hn::MulAdd(x, hn::Set(d, 1.92596299e-8f), hn::MulSub(x, log2e, n)));
}

// 1 / (1 + e^−(scale·x)). The exponent is one product: its rounding moves the result by less than 1e-7. A division
// runs beside the products; an estimate with a Newton step would compete with them.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastSigmoid(D d, V x, V scale) {
  V t = hn::Mul(x, hn::Mul(scale, hn::Set(d, -1.44269504f)));
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  V n = hn::Round(t), f{_mm512_reduce_ps(t.raw, 8)};  // t − n, and 0 for infinities, so that no limits are needed
#else
  t = hn::Min(hn::Max(t, hn::Set(d, -126.0f)), hn::Set(d, 126.0f));
  V n = hn::Round(t), f = hn::Sub(t, n);
#endif
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp2OfParts(d, n, f)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastTanh(D d, V x) {  // 2·sigmoid(2x) − 1
  const V two = hn::Set(d, 2.0f);
  return hn::MulSub(two, FastSigmoid(d, x, two), hn::Set(d, 1.0f));
}

// Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastErf(D d, V x) {
  V a = hn::Abs(x), one = hn::Set(d, 1.0f);
  V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.3275911f), a, one));
  V p = hn::Set(d, 1.061405429f);
  p = hn::MulAdd(p, t, hn::Set(d, -1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592f));
  V y = hn::NegMulAdd(hn::Mul(p, t), FastExp(d, hn::Neg(hn::Mul(a, a))), one);
  return hn::CopySignToAbs(hn::Max(y, hn::Zero(d)), x);
}

// max(x, low) and min(x, high) that keep a NaN in x: x86 gives the second operand then.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V MaxKeepNaN(D, V low, V x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  return hn::Max(low, x);
#else
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Max(low, x));
#endif
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V MinKeepNaN(D, V high, V x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  return hn::Min(high, x);
#else
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Min(high, x));
#endif
}

// x·Φ(x) = max(x, 0) − |x|·Φ(−|x|), with Φ(−a) = ½·erfc(a/√2) by Abramowitz and Stegun 7.1.26 (absolute error of
// erfc 1.5e-7), which is exact where Φ goes to zero.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastGelu(D d, V x) {
  const V a = hn::Min(hn::Abs(x), hn::Set(d, 13.0f)), one = hn::Set(d, 1.0f);  // Φ(−13) is below the smallest float
  const V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.3275911f * 0.70710678f), a, one));
  V p = hn::MulAdd(hn::Set(d, 0.5f * 1.061405429f), t, hn::Set(d, -0.5f * 1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.5f * 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.5f * 0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.5f * 0.254829592f));
  const V power = hn::Max(hn::Mul(hn::Mul(a, hn::Set(d, -0.5f * 1.44269504f)), a), hn::Set(d, -126.0f)), n = hn::Round(power);
  const V tail = hn::Mul(hn::Mul(p, t), Exp2OfParts(d, n, hn::Sub(power, n)));
  return hn::NegMulAdd(a, tail, MaxKeepNaN(d, hn::Zero(d), x));
}

// NaN passes through every activation, as the operators define it.
template <ActivationKind kKind, class D, class V = hn::Vec<D>>
HWY_INLINE V Activate(D d, V x, [[maybe_unused]] V alpha, [[maybe_unused]] V beta) {
  using K = ActivationKind;
  const V zero = hn::Zero(d);
  V y = x;
  if constexpr (kKind == K::kNone) return x;
  if constexpr (kKind == K::kRelu) return MaxKeepNaN(d, zero, x);
  if constexpr (kKind == K::kClip) return MinKeepNaN(d, beta, MaxKeepNaN(d, alpha, x));
  if constexpr (kKind == K::kLeakyRelu) y = hn::IfThenElse(hn::Lt(x, zero), hn::Mul(x, alpha), x);
  if constexpr (kKind == K::kElu) y = hn::IfThenElse(hn::Lt(x, zero), hn::Mul(alpha, hn::Sub(FastExp(d, x), hn::Set(d, 1.0f))), x);
  if constexpr (kKind == K::kHardSigmoid) y = hn::Min(hn::Max(hn::MulAdd(x, alpha, beta), zero), hn::Set(d, 1.0f));
  if constexpr (kKind == K::kHardSwish)
    y = hn::Mul(x, hn::Min(hn::Max(hn::MulAdd(x, hn::Set(d, 1.0f / 6), hn::Set(d, 0.5f)), zero), hn::Set(d, 1.0f)));
  if constexpr (kKind == K::kSigmoid) y = FastSigmoid(d, x, hn::Set(d, 1.0f));
  if constexpr (kKind == K::kTanh) y = FastTanh(d, x);
  if constexpr (kKind == K::kSwish) return hn::Mul(x, FastSigmoid(d, x, alpha));
  if constexpr (kKind == K::kGelu) return FastGelu(d, x);
  if constexpr (kKind == K::kGeluTanh) {
    V inner = hn::Mul(hn::Set(d, 0.79788456f), hn::MulAdd(hn::Mul(hn::Set(d, 0.044715f), hn::Mul(x, x)), x, x));
    y = hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(hn::Set(d, 1.0f), FastTanh(d, inner)));
  }
  if constexpr (kKind == K::kMish) {  // tanh(ln(1 + e)) = (e² + 2e)/(e² + 2e + 2), e = eˣ; x itself when large
    V e = FastExp(d, hn::Min(x, hn::Set(d, 20.0f)));
    V q = hn::MulAdd(e, e, hn::Add(e, e));
    y = hn::Mul(x, hn::Div(q, hn::Add(q, hn::Set(d, 2.0f))));
  }
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

// Calls body.template operator()<kind>() for a kind known only at run time.
template <class Body>
HWY_INLINE void WithActivation(ActivationKind kind, Body&& body) {
  using K = ActivationKind;
  switch (kind) {
    case K::kNone: return body.template operator()<K::kNone>();
    case K::kRelu: return body.template operator()<K::kRelu>();
    case K::kClip: return body.template operator()<K::kClip>();
    case K::kLeakyRelu: return body.template operator()<K::kLeakyRelu>();
    case K::kHardSwish: return body.template operator()<K::kHardSwish>();
    case K::kHardSigmoid: return body.template operator()<K::kHardSigmoid>();
    case K::kSigmoid: return body.template operator()<K::kSigmoid>();
    case K::kTanh: return body.template operator()<K::kTanh>();
    case K::kSwish: return body.template operator()<K::kSwish>();
    case K::kGelu: return body.template operator()<K::kGelu>();
    case K::kGeluTanh: return body.template operator()<K::kGeluTanh>();
    case K::kMish: return body.template operator()<K::kMish>();
    case K::kElu: return body.template operator()<K::kElu>();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
