#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/round_row.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <bit>
#include <cmath>

#include "core/dtype.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/round_row.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Rows that are cut at the last vector; `m` are the lanes that there are, the others are zero.
template <class F>
HWY_INLINE void ForVectors(int64_t count, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes)
    if (!f.template operator()<true>(k, FirstLanes(d, lanes))) return;
  if (k < count) f.template operator()<false>(k, FirstLanes(d, count - k));
}

void RoundRow(const float* w, const float* mean, int64_t count, uint16_t* rounded) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  V along = hn::Zero(d), common = along, square = along, size = along;  // Σ e·m, Σ e, Σ m², Σ |e|
  ForVectors(count, [&]<bool kFull>(int64_t k, hn::Mask<D> m) {
    const V x = LoadChannels<kFull>(d, w + k, m), mk = LoadChannels<kFull>(d, mean + k, m);
    StoreChannels<kFull>(d, x, rounded + k, m);
    const V e = hn::Sub(hn::BitCast(d, hn::ShiftLeft<16>(RoundToHalf(d, x))), x);
    along = hn::MulAdd(e, mk, along);
    common = hn::Add(common, e);
    square = hn::MulAdd(mk, mk, square);
    size = hn::Add(size, hn::Abs(e));
    return true;
  });
  const auto sum = [&](V v) { return hn::GetLane(hn::SumOfLanes(d, v)); };
  float a = sum(along), c = sum(common);
  const float average = sum(square) / static_cast<float>(count), share = kCommonError * average, own = kOwnError * average;
  // A rounding error is a quarter of a step on average. What is left of a fifth of one is not worth another.
  const float step = 4 * sum(size) / static_cast<float>(count), enough = 0.04f * step * step * average;
  if (!std::isfinite(a) || !std::isfinite(c) || !std::isfinite(enough)) return;
  // Weights that lie nearly in the middle first: others cost more than they mend.
  for (float least : {0.45f, 0.35f, 0.2f}) {
    if (a * a + share * c * c <= enough) return;
    ForVectors(count, [&]<bool kFull>(int64_t k, hn::Mask<D> m) {
      const V x = LoadChannels<kFull>(d, w + k, m), now = LoadChannels<kFull>(d, rounded + k, m), mk = LoadChannels<kFull>(d, mean + k, m);
      const V e = hn::Sub(now, x);
      // The step to the next number of bf16, 2⁻⁷ of the power of two below x; weights too small for it to be normal stay.
      const auto exponent = hn::And(hn::BitCast(du, x), hn::Set(du, 0x7f800000u));
      const auto normal = hn::RebindMask(d, hn::Gt(hn::BitCast(hn::RebindToSigned<D>(), exponent), hn::Set(hn::RebindToSigned<D>(), 8 << 23)));
      const V step_k = hn::BitCast(d, hn::Sub(exponent, hn::Set(du, 7u << 23)));
      const V change = hn::CopySign(step_k, hn::Neg(e)), after = hn::Add(e, change);
      // By how much the sum of squares changes, were it this weight alone.
      const V along_after = hn::MulAdd(change, mk, hn::Set(d, a)), common_after = hn::Add(hn::Set(d, c), change);
      V worse = hn::Sub(hn::Mul(along_after, along_after), hn::Set(d, a * a));
      worse = hn::MulAdd(hn::Set(d, share), hn::Sub(hn::Mul(common_after, common_after), hn::Set(d, c * c)), worse);
      worse = hn::MulAdd(hn::Set(d, own), hn::Sub(hn::Mul(after, after), hn::Mul(e, e)), worse);
      auto better = hn::And(hn::Lt(worse, hn::Zero(d)), hn::Ge(hn::Abs(e), hn::Mul(hn::Set(d, least), step_k)));
      better = hn::And(hn::And(better, m), hn::RebindMask(d, normal));
      if (hn::AllFalse(d, better)) return true;
      HWY_ALIGN float errors[hn::MaxLanes(D())], changes[hn::MaxLanes(D())];
      uint8_t bits[8] = {};
      hn::Store(e, d, errors);
      hn::Store(change, d, changes);
      hn::StoreMaskBits(d, better, bits);
      for (int64_t i = 0; i < static_cast<int64_t>(hn::Lanes(d)); ++i) {
        if (!(bits[i / 8] >> (i % 8) & 1)) continue;
        const float to = to_float(BF16{rounded[k + i]}) + changes[i], error = errors[i] + changes[i];
        const float a_after = a + changes[i] * mean[k + i], c_after = c + changes[i];
        if (a_after * a_after - a * a + share * (c_after * c_after - c * c) + own * (error * error - errors[i] * errors[i]) >= 0) continue;
        if (!std::isfinite(to)) continue;
        rounded[k + i] = to_bf16(to).bits;
        a = a_after;
        c = c_after;
      }
      return a * a + share * c * c > enough;
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(RoundRow);
void round_row(const float* weights, const float* means, int64_t count, uint16_t* rounded) {
  if (count > 0) HWY_DYNAMIC_DISPATCH(RoundRow)(weights, means, count, rounded);
}
}  // namespace lathe
#endif
