// Activations on vectors of floats, for every instruction set (included once per Highway target).
#if defined(LATHE_ACTIVATION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_ACTIVATION_INL
#undef LATHE_ACTIVATION_INL
#else
#define LATHE_ACTIVATION_INL
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 2^n·e^r with |r| ≤ ln2/2; the polynomial is Taylor's to degree 6, whose error there is 2e-8 relative.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastExp(D d, V x) {
  x = hn::Min(hn::Max(x, hn::Set(d, -87.3f)), hn::Set(d, 88.3f));
  V n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.0f / 720);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const hn::RebindToSigned<D> di;
  auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::Mul(p, hn::BitCast(d, power));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastSigmoid(D d, V x) {
  V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, FastExp(d, hn::Neg(x))));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V FastTanh(D d, V x) {  // 2·sigmoid(2x) − 1
  return hn::MulSub(hn::Set(d, 2.0f), FastSigmoid(d, hn::Add(x, x)), hn::Set(d, 1.0f));
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
#if HWY_ARCH_X86
  return hn::Max(low, x);
#else
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Max(low, x));
#endif
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V MinKeepNaN(D, V high, V x) {
#if HWY_ARCH_X86
  return hn::Min(high, x);
#else
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Min(high, x));
#endif
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
  if constexpr (kKind == K::kSigmoid) y = FastSigmoid(d, x);
  if constexpr (kKind == K::kTanh) y = FastTanh(d, x);
  if constexpr (kKind == K::kSwish) y = hn::Mul(x, FastSigmoid(d, hn::Mul(alpha, x)));
  if constexpr (kKind == K::kGelu)
    y = hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(hn::Set(d, 1.0f), FastErf(d, hn::Mul(x, hn::Set(d, 0.70710678f)))));
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
