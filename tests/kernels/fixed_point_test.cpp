// Whole-number arithmetic against float64, over all codes and rows that are hard.
#include "kernels/fixed_point.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace lathe {
namespace {

TEST(FixedPoint, HasThirtyOneBits) {
  for (double v : {1.0, 0.5, 0.999999999, 3.0, 1e-6, 12345.678, 0.1}) {
    const FixedPoint p = FixedPoint::of(v);
    EXPECT_GE(p.mantissa, 1 << 30);
    EXPECT_NEAR(std::ldexp(static_cast<double>(p.mantissa), p.exponent - 31), v, v * std::ldexp(1, -31));
  }
  for (double v : {0.0, -1.0, 1e300, 1e-300, std::nan("")}) EXPECT_THROW(FixedPoint::of(v), Error) << v;
}

TEST(FixedPoint, DividesWithTiesAwayFromZero) {
  for (int32_t x : {0, 1, -1, 2, -2, 3, -3, 5, -5, 6, -6, 1000001, -1000001, INT32_MAX, INT32_MIN})
    for (int n : {0, 1, 2, 7, 30}) EXPECT_EQ(divide_by_power(x, n), static_cast<int32_t>(std::round(std::ldexp(static_cast<double>(x), -n)))) << x << " " << n;
}

TEST(FixedPoint, ExponentialOfNegativeNumbers) {
  double largest = 0;
  std::mt19937 random(1);
  const auto check = [&](int32_t x) { largest = std::max(largest, std::abs(std::ldexp(static_cast<double>(exp_of_negative(x)), -31) - std::exp(std::ldexp(static_cast<double>(x), -26)))); };
  for (int32_t x = 0; x > -(1 << 20); x -= 7) check(x);
  for (int i = 0; i < 300000; ++i) check(-static_cast<int32_t>(random() & INT32_MAX));
  for (int k = 0; k < 31; ++k)
    for (int d : {-1, 0, 1}) check(std::min(-(1 << k) + d, 0));
  EXPECT_LT(largest, 3e-7);
}

TEST(FixedPoint, RootsAreWhole) {
  std::mt19937_64 random(2);
  const auto check = [](uint64_t v) {
    const uint64_t r = whole_root(v);
    EXPECT_LE(r, v / std::max<uint64_t>(r, 1));
    EXPECT_GT(r + 1, v / (r + 1));
  };
  for (uint64_t v = 0; v < 2000; ++v) check(v);
  for (int i = 0; i < 20000; ++i) check(random() >> (random() % 60 + 3));
  for (uint64_t r : {uint64_t{1} << 16, uint64_t{1} << 27, (uint64_t{1} << 30) - 1})
    for (int64_t d : {-1, 0, 1}) check(r * r + static_cast<uint64_t>(d));
}

// Rows of codes that make rounding hard: equal, one apart, the extremes, at random.
std::vector<std::vector<int64_t>> rows(int64_t count, int64_t least, int64_t most) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<std::vector<int64_t>> all;
  const auto size = static_cast<size_t>(count);
  all.push_back(std::vector<int64_t>(size, least));
  all.push_back(std::vector<int64_t>(size, 3));
  all.push_back(std::vector<int64_t>(size, 3));
  all.back()[0] = 4;
  all.push_back(std::vector<int64_t>(size, least));
  all.back()[size / 2] = most;
  for (int kind = 0; kind < 20; ++kind) {
    std::vector<int64_t> row(size);
    for (int64_t& x : row) x = kind % 2 ? (random() % 2 ? least : most) : least + static_cast<int64_t>(random() % static_cast<unsigned>(most - least + 1));
    all.push_back(row);
  }
  return all;
}

TEST(FixedPoint, LayerNormIsWithinOneStep) {
  double largest = 0;
  for (int64_t count : {1, 2, 7, 64, 192, 1024})
    for (double x_scale : {0.02, 0.3})
      for (const std::vector<int64_t>& row : rows(count, -128, 127)) {
        const double step = 0.03, epsilon = 1e-5;
        const RowMoments m = row_moments(row.data(), count, std::llround(epsilon * static_cast<double>(count * count) / (x_scale * x_scale) * 65536));
        double mean = 0, variance = 0;
        for (int64_t x : row) mean += static_cast<double>(x) * x_scale / static_cast<double>(count);
        for (int64_t x : row) variance += std::pow(static_cast<double>(x) * x_scale - mean, 2) / static_cast<double>(count);
        for (size_t i = 0; i < row.size(); ++i) {
          const double weight = 0.5 + static_cast<double>(i % 5) * 0.3, bias = static_cast<double>(i % 3) - 1;
          const double exact = ((static_cast<double>(row[i]) * x_scale - mean) / std::sqrt(variance + epsilon) * weight + bias) / step;
          const int64_t got = normed(row[i], count, m, std::llround(weight / step * 4096), std::llround(bias / step * std::ldexp(1, 42)));
          // Saturated both, as codes are.
          largest = std::max(largest, std::abs(std::clamp(static_cast<double>(got), -128.0, 127.0) - std::clamp(exact, -128.0, 127.0)));
        }
      }
  EXPECT_LT(largest, 0.52);
}

TEST(FixedPoint, AttentionIsWithinOneStep) {
  double largest = 0;
  for (int64_t tokens : {1, 2, 17, 197, 226, 512})
    for (double unit : {1e-5, 3e-4, 0.01}) {
      const ScoreScale scale = ScoreScale::of(unit);
      std::vector<std::vector<int64_t>> scores = rows(tokens, -30000, 30000);
      const std::vector<std::vector<int64_t>> values = rows(tokens, -128, 127);
      for (size_t r = 0; r < scores.size(); ++r) {
        const int64_t most = *std::max_element(scores[r].begin(), scores[r].end());
        int64_t all = 0, sum = 0;
        double exact_all = 0, exact = 0;
        for (size_t j = 0; j < scores[r].size(); ++j) {
          const int32_t w = scale.weight(static_cast<int32_t>(scores[r][j] - most));
          all += w;
          sum += w * values[r][j];
          const double e = std::exp(static_cast<double>(scores[r][j] - most) * unit);
          exact_all += e;
          exact += e * static_cast<double>(values[r][j]);
        }
        const double ratio = 1.1;
        largest = std::max(largest, std::abs(static_cast<double>(mixed(sum, share(std::llround(std::ldexp(ratio, 30)), all))) - ratio * exact / exact_all));
      }
    }
  EXPECT_LT(largest, 1);
}

}  // namespace
}  // namespace lathe
