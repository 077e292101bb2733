#include "optimize/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace lathe {
namespace {

constexpr double kZ = 1.959964;  // of the normal distribution: 95 %, both sides
// Enough for the ends of a 95 % interval to move by less than a tenth of its width from seed to seed.
constexpr int kResamples = 2000;

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(half), values.end());
  double upper = values[half];
  if (values.size() % 2) return upper;
  return (upper + *std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(half))) / 2;
}

namespace {

// Percentiles of what `measure` says of samples drawn from the values.
template <class Measure>
Interval bootstrap(const std::vector<double>& values, uint64_t seed, const Measure& measure) {
  Interval result{measure(values), 0, 0};
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<size_t> pick(0, values.size() - 1);
  std::vector<double> measured, sample(values.size());
  measured.reserve(kResamples);
  for (int i = 0; i < kResamples; ++i) {
    for (double& x : sample) x = values[pick(random)];
    measured.push_back(measure(sample));
  }
  std::sort(measured.begin(), measured.end());
  result.low = measured[kResamples * 25 / 1000];
  result.high = measured[kResamples * 975 / 1000];
  return result;
}

}  // namespace

Interval bootstrap_median(const std::vector<double>& values, uint64_t seed) {
  if (values.empty()) return {median(values), 0, 0};
  return bootstrap(values, seed, median);
}

Interval bootstrap_mean(const std::vector<double>& values, uint64_t seed) {
  if (values.empty()) return {};
  Interval result = bootstrap(values, seed, [](const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size()); });
  result.low = std::min(result.value, result.low);
  result.high = std::max(result.value, result.high);
  return result;
}

Interval wilson(int64_t hits, int64_t count) {
  if (count == 0) return {0, 0, 1};
  auto n = static_cast<double>(count);
  double p = static_cast<double>(hits) / n, z2 = kZ * kZ;
  double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  double half = kZ * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {p, std::max(0.0, std::min(p, centre - half)), std::min(1.0, std::max(p, centre + half))};
}

Interval paired_difference(int64_t lost, int64_t won, int64_t count) {
  if (count == 0) return {0, -1, 1};
  auto n = static_cast<double>(count), b = static_cast<double>(lost), c = static_cast<double>(won);
  double d = (b - c) / (n + 2);
  double half = kZ * std::sqrt(std::max(0.0, b + c + 1 - (b - c) * (b - c) / (n + 2))) / (n + 2);
  return {(b - c) / n, std::max(-1.0, d - half), std::min(1.0, d + half)};
}

double mcnemar(int64_t lost, int64_t won) {
  const int64_t n = lost + won, least = std::min(lost, won);
  if (n == 0) return 1;
  double tail = 0;  // binomial, by logarithms of factorials
  for (int64_t k = 0; k <= least; ++k)
    tail += std::exp(std::lgamma(static_cast<double>(n) + 1) - std::lgamma(static_cast<double>(k) + 1) - std::lgamma(static_cast<double>(n - k) + 1) - static_cast<double>(n) * std::log(2.0));
  return std::min(1.0, 2 * tail);
}

}  // namespace lathe
