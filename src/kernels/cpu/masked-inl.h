// Loads and stores of the first lanes of a vector. Instruction sets below AVX2 have none: Highway then reads and
// writes whole aligned vectors, which tails of rows are not (included once per Highway target).
#if defined(LATHE_MASKED_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LATHE_MASKED_INL
#undef LATHE_MASKED_INL
#else
#define LATHE_MASKED_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The lanes of `m`, which is made by FirstN; the rest are zero.
template <class D, class T>
HWY_INLINE hn::Vec<D> LoadMasked(hn::Mask<D> m, D d, const T* p) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[hn::MaxLanes(d)] = {};
  for (size_t i = 0, n = hn::CountTrue(d, m); i < n; ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(m, d, p);
#endif
}

template <class D, class T>
HWY_INLINE void StoreMasked(hn::Vec<D> v, hn::Mask<D> m, D d, T* p) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  for (size_t i = 0, n = hn::CountTrue(d, m); i < n; ++i) p[i] = lanes[i];
#else
  hn::BlendedStore(v, m, d, p);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();
#endif
