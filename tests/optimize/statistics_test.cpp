#include "optimize/statistics.h"

#include <gtest/gtest.h>

#include <random>

namespace lathe {
namespace {

TEST(Statistics, MedianOfOddAndEvenCounts) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({3, 1}), 2);
  EXPECT_EQ(median({5, 1, 3}), 3);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
}

// A 95 % interval holds the true median about 95 times in a hundred.
TEST(Statistics, BootstrapCoversTheMedian) {
  std::mt19937_64 random(5);
  std::lognormal_distribution<double> noise(0, 0.3);  // median 1, a long tail, as times have
  int covered = 0;
  constexpr int kTrials = 300;
  for (int t = 0; t < kTrials; ++t) {
    std::vector<double> values(41);
    for (double& v : values) v = noise(random);
    Interval i = bootstrap_median(values, 7 + static_cast<uint64_t>(t));
    EXPECT_LE(i.low, i.value);
    EXPECT_GE(i.high, i.value);
    covered += i.low <= 1 && i.high >= 1;
  }
  EXPECT_GE(covered, kTrials * 91 / 100);
  EXPECT_LE(covered, kTrials * 99 / 100);
}

TEST(Statistics, BootstrapIsTheSameForTheSameSeed) {
  std::vector<double> values{1, 2, 4, 8, 16, 32, 64};
  Interval a = bootstrap_median(values, 3), b = bootstrap_median(values, 3);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
}

TEST(Statistics, WilsonAgreesWithPublishedValues) {
  Interval i = wilson(15, 148);  // Newcombe 1998, table of method 3 for 15/148: 0.0624 to 0.1605
  EXPECT_NEAR(i.low, 0.0624, 1e-4);
  EXPECT_NEAR(i.high, 0.1605, 1e-4);
  i = wilson(0, 20);
  EXPECT_EQ(i.low, 0);
  EXPECT_NEAR(i.high, 0.1611, 1e-4);
  i = wilson(20, 20);
  EXPECT_EQ(i.high, 1);
  EXPECT_EQ(wilson(0, 0).high, 1);
}

TEST(Statistics, PairedDifferenceOfFewSamplesIsUncertain) {
  Interval none = paired_difference(0, 0, 100);
  EXPECT_EQ(none.value, 0);
  EXPECT_LT(none.low, 0);
  EXPECT_GT(none.high, 0.01);
  Interval worse = paired_difference(30, 5, 500);
  EXPECT_DOUBLE_EQ(worse.value, 0.05);
  EXPECT_GT(worse.low, 0.02);
  EXPECT_LT(worse.high, 0.08);
}

}  // namespace
}  // namespace lathe
