// Random numbers that depend on their keys alone, the same with every standard library: SplitMix64 (Steele, Lea, Flood 2014) from
// a state that is hashed out of up to four keys.
//
//   Random random(seed, epoch, index);
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

namespace lathe {

class Random {
 public:
  explicit Random(uint64_t a, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0) {
    for (uint64_t key : {a, b, c, d}) state_ = mix(state_ + kStep + key);
  }

  uint64_t bits() { return mix(state_ += kStep); }
  // [0, 1), 53 bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  bool chance(double probability) { return uniform() < probability; }
  // 0 … n − 1; n of 0 gives 0. Lemire's multiplication (2019), of 64 bits: biased by less than n / 2⁶⁴.
  uint64_t below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(bits()) * n) >> 64); }
  // Mean 0, deviation 1: Box and Muller 1958.
  double normal() {
    double radius = std::sqrt(-2 * std::log(1 - uniform())), angle = 2 * std::numbers::pi * uniform();
    return radius * std::cos(angle);
  }
  // Gamma(shape, 1), shape > 0: Marsaglia and Tsang 2000; below 1 their boost by U^(1/shape).
  double gamma(double shape) {
    if (shape < 1) return gamma(shape + 1) * std::pow(1 - uniform(), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    for (;;) {
      double x = normal(), v = 1 + c * x;
      if (v <= 0) continue;
      v = v * v * v;
      if (std::log(1 - uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
    }
  }
  // Beta(a, b) as Γ(a) / (Γ(a) + Γ(b)); where both underflow, 0 or 1 by a coin.
  double beta(double a, double b) {
    double x = gamma(a), y = gamma(b);
    return x + y > 0 ? x / (x + y) : chance(a / (a + b));
  }
  // 0 … n − 1 in a random order (Fisher and Yates).
  std::vector<size_t> permutation(size_t n) {
    std::vector<size_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = i;
    for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    return order;
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t state_ = 0;
};

}  // namespace lathe
