#include "quantize/quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "quantize/clustering.h"

namespace lathe {
namespace {

std::vector<float> normal(size_t n, uint64_t seed, float mean = 0, float deviation = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> draw(mean, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}

const char* kAll[] = {"int8", "int4", "int2", "uint8", "uint4", "pow2:8", "pow2:4", "log:4", "apot:5", "codebook:4", "codebook:2", "twn", "ttq", "binary", "abc:2", "abc:3", "lq:2", "lq:3", "dorefa:4", "dorefa:1", "fp8", "e5m2"};

class Quantizers : public testing::TestWithParam<const char*> {};

TEST_P(Quantizers, RoundingTwiceIsRoundingOnce) {
  const QuantizerSpec spec = parse_quantizer(GetParam());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto x = normal(64, seed, seed % 3 ? 0.0f : 0.3f, std::pow(10.0f, static_cast<float>(seed % 7) - 3));
    const Grid grid = fit(spec, x);
    // Multi-bit and DoReFa levels lie where their rule puts them, not where they would be rounded to themselves.
    if (spec.family == Family::kMultiBit || spec.family == Family::kDoReFa) continue;
    for (float v : x) EXPECT_EQ(grid.fake(grid.fake(v)), grid.fake(v)) << GetParam() << " of " << v;
  }
}

TEST_P(Quantizers, CodesAreWithinTheirBitsAndOrdered) {
  const QuantizerSpec spec = parse_quantizer(GetParam());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto x = normal(200, seed);
    const Grid grid = fit(spec, x);
    EXPECT_LE(grid.codes(), 1 << std::max(spec.bits, spec.family == Family::kMultiBit ? 3 : 1)) << GetParam();
    auto sorted = x;
    std::sort(sorted.begin(), sorted.end());
    int last = -1000;
    for (float v : sorted) {
      const int code = grid.code(v);
      EXPECT_GE(code, last);
      EXPECT_GE(code, grid.low);
      EXPECT_LE(code, grid.high);
      last = code;
    }
  }
}

TEST_P(Quantizers, DegenerateNumbersHaveAGrid) {
  const QuantizerSpec spec = parse_quantizer(GetParam());
  const float tiny = std::numeric_limits<float>::denorm_min(), infinite = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& x : {std::vector<float>{}, std::vector<float>{0, 0, 0}, std::vector<float>{2.5f, 2.5f, 2.5f}, std::vector<float>{-3}, std::vector<float>{tiny, -tiny},
                                      std::vector<float>{1, infinite, -2, -infinite}, std::vector<float>{3e38f, -3e38f}}) {
    const Grid grid = fit(spec, x);
    for (float v : x) EXPECT_TRUE(std::isfinite(grid.fake(v))) << GetParam() << " of " << v;
    EXPECT_EQ(grid.code(std::nanf("")), grid.uniform() ? grid.low : 0);
  }
  const std::vector<float> zeros{0, 0, 0};
  const bool signs_only = spec.family == Family::kBinary || spec.family == Family::kDoReFa || spec.family == Family::kMultiBit || spec.family == Family::kLearnedBasis;
  if (!signs_only) {
    EXPECT_EQ(fit(spec, zeros).fake(0), 0) << GetParam();
  }
  const std::vector<float> bad{1, std::nanf("")};
  EXPECT_THROW(fit(spec, bad), Error);
}

TEST_P(Quantizers, NamesRoundTrip) {
  for (const char* more : {"", ",tensor", ",g32", ",mse"}) {
    const QuantizerSpec spec = parse_quantizer(std::string(GetParam()) + more);
    EXPECT_EQ(parse_quantizer(spec.text()), spec) << spec.text();
  }
}

TEST_P(Quantizers, MatricesKeepTheirErrorAndTheirShape) {
  const QuantizerSpec base = parse_quantizer(GetParam());
  for (Granularity g : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup}) {
    QuantizerSpec spec = base;
    spec.granularity = g;
    spec.group = 7;
    const auto x = normal(5 * 23, 3);
    const Tensor rows = Tensor::of_f32({5, 23}, x);
    const QuantizedTensor q = quantize(spec, rows);
    EXPECT_EQ(q.grids.size(), g == Granularity::kTensor ? 1u : g == Granularity::kChannel ? 5u : 20u);
    const Tensor near = q.dequantize();
    for (int64_t r = 0; r < 5; ++r)
      for (int64_t c = 0; c < 23; ++c) EXPECT_EQ(near.data<float>()[r * 23 + c], q.grid_at(r, c).fake(x[static_cast<size_t>(r * 23 + c)]));
    EXPECT_GT(q.storage_bits(), 5 * 23);
    EXPECT_LE(q.storage_bits(), 5 * 23 * 8 + 20 * 32 * 256);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Quantizers, testing::ValuesIn(kAll));

TEST(Quantizer, SquaredErrorIsTheLeastOfAllScales) {
  for (const char* name : {"int4,mse", "int8,mse", "int2,mse", "uint4,mse"}) {
    QuantizerSpec spec = parse_quantizer(name);
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const auto x = normal(40, seed);
      const double found = squared_error(fit(spec, x), x);
      float least = 0, most = 0;
      for (float v : x) least = std::min(least, v), most = std::max(most, v);
      for (int i = 16; i <= 80; ++i) {
        const float part = static_cast<float>(i) / 80;
        EXPECT_LE(found, squared_error(uniform_grid(least * part, most * part, spec.bits, spec.symmetric), x) * (1 + 1e-6)) << name;
      }
    }
  }
}

TEST(Quantizer, PowerOfTwoScalesArePowersOfTwo) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Grid grid = fit(parse_quantizer("pow2:8"), normal(50, seed, 0, std::pow(3.0f, static_cast<float>(seed) - 15)));
    int exponent = 0;
    EXPECT_EQ(std::frexp(grid.scale, &exponent), 0.5f);
  }
}

TEST(Quantizer, LogarithmicLevelsArePowersOfTwoRoundedInTheLogarithm) {
  const std::vector<float> x{1.0f, 0.5f, 0.25f, -0.125f};
  const Grid grid = fit(parse_quantizer("log:4"), x);
  EXPECT_EQ(grid.fake(0.7f), 0.5f);    // log2 0.7 = −0.51
  EXPECT_EQ(grid.fake(0.72f), 1.0f);   // −0.47
  EXPECT_EQ(grid.fake(-0.3f), -0.25f);
  EXPECT_EQ(grid.fake(1e-6f), 0.0f);
}

TEST(Quantizer, TernaryAndBinaryHaveTheirClosedForms) {
  const std::vector<float> x{0.9f, -0.8f, 0.1f, -0.05f, 0.4f, 0.0f};
  double mean = 0;
  for (float v : x) mean += std::abs(v) / 6.0;
  const Grid twn = fit(parse_quantizer("twn"), x);
  const double delta = 0.7 * mean;  // 0.2625: 0.9, 0.8 and 0.4 are above
  EXPECT_NEAR(twn.levels[2], (0.9 + 0.8 + 0.4) / 3, 1e-6);
  EXPECT_EQ(twn.levels[0], -twn.levels[2]);
  EXPECT_EQ(twn.fake(static_cast<float>(delta * 0.99)), 0);
  EXPECT_EQ(twn.fake(static_cast<float>(delta * 1.01)), twn.levels[2]);
  const Grid ttq = fit(parse_quantizer("ttq"), x);  // Δ = 0.045
  EXPECT_NEAR(ttq.levels[2], (0.9 + 0.1 + 0.4) / 3, 1e-6);
  EXPECT_NEAR(ttq.levels[0], -(0.8 + 0.05) / 2, 1e-6);
  const Grid binary = fit(parse_quantizer("binary"), x);
  EXPECT_NEAR(binary.levels[1], mean, 1e-6);
  EXPECT_EQ(binary.levels[0], -binary.levels[1]);
  // α is the least squared error of ‖w − α·sign(w)‖².
  for (float factor : {0.9f, 0.99f, 1.01f, 1.1f}) {
    Grid other = binary;
    for (float& l : other.levels) l *= factor;
    EXPECT_GT(squared_error(other, x), squared_error(binary, x));
  }
}

TEST(Quantizer, MultiBitFactorsAreLeastSquares) {
  const auto x = normal(200, 8);
  const Grid grid = fit(parse_quantizer("abc:3"), x);
  const double found = squared_error(grid, x);
  std::mt19937_64 random(1);
  std::normal_distribution<float> draw(0, 0.02f);
  // Levels are sums and differences of three factors: any others are worse.
  const float a = (grid.levels[1] - grid.levels[0]) / 2, b = (grid.levels[2] - grid.levels[1]) / 2, c = (grid.levels[3] - grid.levels[2]) / 2;
  for (int i = 0; i < 100; ++i) {
    const float p = a + draw(random), q = b + draw(random), r = c + draw(random);
    Grid other = grid;
    other.levels = {-p - q - r, p - q - r, p + q - r, p + q + r};
    EXPECT_GE(squared_error(other, x), found * (1 - 1e-6));
  }
}

// Every split of the sorted points into k neighbouring groups.
double best_cost(std::vector<double> x, int k) {
  std::sort(x.begin(), x.end());
  std::function<double(size_t, int)> best = [&](size_t begin, int groups) -> double {
    if (begin == x.size()) return 0;
    if (groups == 0) return HUGE_VAL;
    double least = HUGE_VAL;
    for (size_t end = begin + 1; end <= x.size(); ++end) {
      double mean = 0, cost = 0;
      for (size_t i = begin; i < end; ++i) mean += x[i] / static_cast<double>(end - begin);
      for (size_t i = begin; i < end; ++i) cost += (x[i] - mean) * (x[i] - mean);
      least = std::min(least, cost + best(end, groups - 1));
    }
    return least;
  };
  return best(0, k);
}

TEST(Clustering, IsExactOnFewPoints) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const size_t n = 3 + seed % 10;
    const int k = 1 + static_cast<int>(seed % 4);
    const auto x = normal(n, seed);
    const std::vector<float> weight(n, 1), centres = cluster(x, weight, k);
    ASSERT_LE(centres.size(), static_cast<size_t>(k));
    double cost = 0;
    for (float v : x) {
      double least = HUGE_VAL;
      for (float c : centres) least = std::min(least, std::pow(static_cast<double>(v) - static_cast<double>(c), 2));
      cost += least;
    }
    EXPECT_NEAR(cost, best_cost({x.begin(), x.end()}, k), 1e-6 * (1 + cost)) << "seed " << seed;
  }
}

TEST(Clustering, ManyPointsComeNearTheOptimumOfAllOfThem) {
  // 20000 numbers that have 1500 different values: exact on the values, and by neighbourhoods when a little noise makes all differ.
  std::mt19937_64 random(4);
  std::vector<float> coarse(20000), fine(20000);
  std::normal_distribution<float> draw;
  for (size_t i = 0; i < coarse.size(); ++i) {
    coarse[i] = std::round(draw(random) * 200) / 200;
    fine[i] = coarse[i] + 1e-6f * draw(random);
  }
  const std::vector<float> weight(coarse.size(), 1);
  auto cost = [](const std::vector<float>& x, const std::vector<float>& centres) {
    double sum = 0;
    for (float v : x) {
      double least = HUGE_VAL;
      for (float c : centres) least = std::min(least, std::pow(static_cast<double>(v - c), 2));
      sum += least;
    }
    return sum;
  };
  const double exact = cost(coarse, cluster(coarse, weight, 16)), near = cost(fine, cluster(fine, weight, 16));
  EXPECT_LE(near, exact * 1.01);
}

TEST(Quantizer, RowsComeBackFromEveryAxis) {
  const Tensor w = Tensor::of_f32({2, 3, 4}, normal(24, 1));
  for (int64_t axis = 0; axis < 3; ++axis) {
    const Tensor rows = to_rows(w, axis);
    EXPECT_EQ(rows.dim(0), w.dim(axis));
    const Tensor back = from_rows(rows, w.shape(), axis);
    EXPECT_EQ(back.shape(), w.shape());
    EXPECT_EQ(back.to_f32(), w.to_f32());
  }
}

TEST(Quantizer, WrongNamesAreUsageErrors) {
  for (const char* text : {"", "int", "int1", "int9", "float", "codebook:9", "codebook:0", "twn:3", "int8,g1", "int8,g", "int8,channel,foo", "lq:7", "log:1", "pow2:x", ",int8"})
    EXPECT_THROW(parse_quantizer(text), Error) << text;
}

}  // namespace
}  // namespace lathe
