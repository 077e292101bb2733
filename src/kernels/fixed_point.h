// Arithmetic of whole numbers that stand for fractions, for operators that must give the same bits on a processor without a
// floating-point unit: IntegerLayerNorm and IntegerAttention (graph/ops/integer_tokens.cpp). Everything here is exact integer
// arithmetic, so that C for microcontrollers (targets/mcu) can say the same.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace lathe {

// mantissa · 2^(exponent − 31), with the mantissa in [2³⁰, 2³¹): how TensorFlow Lite and CMSIS-NN write a scale.
struct FixedPoint {
  int32_t mantissa = 0;
  int exponent = 0;
  // Throws kModel for what is not positive and finite, or outside 2^±30.
  static FixedPoint of(double value) {
    int exponent = 0;
    const double part = std::frexp(value, &exponent);
    check_model(value > 0 && std::isfinite(value) && exponent >= -30 && exponent <= 30, "the scale {} has no form in fixed point", value);
    auto mantissa = static_cast<int64_t>(std::llround(std::ldexp(part, 31)));
    if (mantissa == int64_t{1} << 31) mantissa /= 2, ++exponent;
    return {static_cast<int32_t>(mantissa), exponent};
  }
};

// (a·b + 2³⁰) >> 31.
inline int32_t doubling_high(int32_t a, int32_t b) { return static_cast<int32_t>((int64_t{a} * b + (int64_t{1} << 30)) >> 31); }

// x / 2^n, n ≥ 0, rounded, ties away from zero.
inline int32_t divide_by_power(int32_t x, int n) {
  if (n == 0) return x;
  const int64_t half = int64_t{1} << (n - 1), magnitude = (std::abs(int64_t{x}) + half) >> n;
  return static_cast<int32_t>(x < 0 ? -magnitude : magnitude);
}

// x·m: (x << max(e, 0)) must fit into 32 bits.
inline int32_t multiply(int32_t x, FixedPoint m) {
  const int left = m.exponent > 0 ? m.exponent : 0, right = m.exponent < 0 ? -m.exponent : 0;
  return divide_by_power(doubling_high(static_cast<int32_t>(int64_t{x} * (int64_t{1} << left)), m.mantissa), right);
}

// e^x for x ≤ 0 with 26 bits behind the point (x = −1 is −2²⁶), as a fraction of 31 bits: the polynomial and the factors of
// gemmlowp's exp_on_negative_values (Jacob et al. 2018, appendix A.3), with this header's rounding. Largest error 2e-7.
inline int32_t exp_of_negative(int32_t x) {
  if (x == 0) return INT32_MAX;
  constexpr int32_t kQuarter = 1 << 24;
  const int32_t rest = (x & (kQuarter - 1)) - kQuarter;  // in [−1/4, 0)
  // e^rest = e^(−1/8)·e^t, t = rest + 1/8 in [−1/8, 1/8), by Taylor's series to t⁴.
  const int32_t t = rest * 32 + (1 << 28);
  const int32_t t2 = doubling_high(t, t), t3 = doubling_high(t2, t), t4 = doubling_high(t2, t2);
  constexpr int32_t kThird = 715827883, kStart = 1895147668;  // 2³¹/3, e^(−1/8)·2³¹
  const int32_t tail = divide_by_power(doubling_high(divide_by_power(t4, 2) + t3, kThird) + t2, 1);  // t²/2 + t³/6 + t⁴/24
  int32_t y = kStart + doubling_high(kStart, t + tail);
  // e^(−2^k) · 2³¹ for k = −2 … 4.
  constexpr int32_t kFactors[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
  const int32_t quarters = (rest - x) >> 24;
  for (int k = 0; k < 7; ++k)
    if (quarters >> k & 1) y = doubling_high(y, kFactors[k]);
  return y;
}

// ⌊√v⌋ by Newton's method from above.
inline uint64_t whole_root(uint64_t v) {
  if (v < 2) return v;
  uint64_t x = uint64_t{1} << ((static_cast<unsigned>(std::bit_width(v)) + 1) / 2);
  for (;;) {
    const uint64_t next = (x + v / x) / 2;
    if (next >= x) return x;
    x = next;
  }
}

// Layer norm of codes x [D] with weights: y·2^42 = n·inv·weight + bias, where n = D·x − Σx and inv = 2³⁸ / ⌊√v⌋,
// rounded, with v = 2¹⁶·(D·Σx² − (Σx)²) + epsilon (at least 1). The zero point of x cancels.
struct RowMoments {
  int64_t sum = 0, inverse = 0;
};
template <class Code>
RowMoments row_moments(const Code* x, int64_t count, int64_t epsilon) {
  int64_t sum = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += x[i];
    squares += int64_t{x[i]} * x[i];
  }
  const int64_t variance = (count * squares - sum * sum) * (1 << 16) + epsilon;
  const auto root = static_cast<int64_t>(whole_root(static_cast<uint64_t>(variance > 0 ? variance : 1)));
  return {sum, ((int64_t{1} << 38) + root / 2) / root};
}
// In units of the output's scale, rounded, without its zero point.
inline int64_t normed(int64_t x, int64_t count, const RowMoments& m, int64_t weight, int64_t bias) {
  // Modulo 2⁶⁴: whoever makes the weights sees to it that nothing is lost.
  const auto product = static_cast<uint64_t>((count * x - m.sum) * m.inverse) * static_cast<uint64_t>(weight);
  return static_cast<int64_t>(product + static_cast<uint64_t>(bias) + (uint64_t{1} << 41)) >> 42;
}

// Attention of one row of codes: weights e^(s_j − max) of 15 bits, and what a sum of values times weights is in the output's steps.
struct ScoreScale {
  FixedPoint unit;       // of one score: q·k·scale, with 26 bits behind the point
  int32_t least = 0;     // scores further below the largest weigh nothing: 31·2²⁶ / 2^e
  static ScoreScale of(double score_unit) {
    ScoreScale s{FixedPoint::of(std::ldexp(score_unit, 26)), 0};
    const int left = s.unit.exponent > 0 ? s.unit.exponent : 0;
    s.least = static_cast<int32_t>((int64_t{31} << 26) >> left);
    return s;
  }
  int32_t weight(int32_t below) const { return below < -least ? 0 : exp_of_negative(multiply(below, unit)) >> 16; }
};
// ratio: of the values' scale to the output's, times 2³⁰.
inline int64_t share(int64_t ratio, int64_t all) { return (ratio + all / 2) / all; }
inline int64_t mixed(int64_t sum, int64_t share) { return static_cast<int64_t>(static_cast<uint64_t>(sum) * static_cast<uint64_t>(share) + (uint64_t{1} << 29)) >> 30; }

}  // namespace lathe
