// What ends a product with weights of few bits (included once per Highway target).
#if defined(LATHE_CODED_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_CODED_INL
#undef LATHE_CODED_INL
#else
#define LATHE_CODED_INL
#endif

#include "kernels/cpu/coded_gemm.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

HWY_INLINE int64_t CodedLanes() { return static_cast<int64_t>(hn::Lanes(D())); }

// Bias, activation and residual of `count` columns from `column` on of a row, whose sums are given.
HWY_INLINE void FinishRow(const CodedGemm& g, const float* sums, int64_t row, int64_t column, int64_t count) {
  const D d;
  const int64_t lanes = CodedLanes(), at = row * g.columns + column;
  const V alpha = hn::Set(d, g.activation.alpha), beta = hn::Set(d, g.activation.beta);
  WithActivation(g.activation.kind, [&]<ActivationKind kAct>() HWY_ATTR {
    for (int64_t i = 0; i < count; i += lanes) {
      const bool full = i + lanes <= count;
      const hn::Mask<D> m = FirstLanes(d, count - i);
      V sum = hn::LoadU(d, sums + i);
      if (g.bias) sum = hn::Add(sum, full ? hn::LoadU(d, g.bias + column + i) : LoadMasked(m, d, g.bias + column + i));
      const float* residual = g.residual ? g.residual + at + i : nullptr;
      if (full) FinishLanes<float, kAct, true>(d, sum, residual, g.residual_first, g.y + at + i, m, alpha, beta);
      else FinishLanes<float, kAct, false>(d, sum, residual, g.residual_first, g.y + at + i, m, alpha, beta);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
