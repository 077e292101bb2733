#include "quantize/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quantize/quantizer.h"

namespace lathe {
namespace {

constexpr size_t kBins = 8192;        // a power of two, half of them below zero
constexpr size_t kEntropyBins = 2048; // of the magnitude (Migacz 2017)

// A share 1 − percentile/100 of the numbers lies outside at each end.
Range percentile(const Observer& seen, double percent) {
  const double outside = (1 - percent / 100) * static_cast<double>(seen.count());
  const auto& bins = seen.bins();
  Range range = seen.whole();
  double sum = 0;
  for (size_t i = 0; i < bins.size(); ++i)
    if ((sum += bins[i]) > outside) {
      range.least = std::max(range.least, static_cast<float>(seen.middle(i)));
      break;
    }
  sum = 0;
  for (size_t i = bins.size(); i-- > 0;)
    if ((sum += bins[i]) > outside) {
      range.most = std::min(range.most, static_cast<float>(seen.middle(i)));
      break;
    }
  return range;
}

Range clipped(const Range& whole, double magnitude) {
  return {static_cast<float>(std::max<double>(whole.least, -magnitude)), static_cast<float>(std::min<double>(whole.most, magnitude))};
}

// The threshold whose clipped distribution loses least when its bins are merged into as many as there are codes.
Range entropy(const Observer& seen, int bits) {
  const Range whole = seen.whole();
  const double magnitude = std::max(-static_cast<double>(whole.least), static_cast<double>(whole.most));
  const bool both_signs = whole.least < 0;
  const size_t levels = size_t{1} << (both_signs ? bits - 1 : bits);
  if (!(magnitude > 0)) return whole;
  std::vector<double> p(kEntropyBins, 0);
  for (size_t i = 0; i < seen.bins().size(); ++i) {
    const double m = std::abs(seen.middle(i));
    p[std::min(kEntropyBins - 1, static_cast<size_t>(m / magnitude * kEntropyBins))] += seen.bins()[i];
  }
  // A Relu's zeros are many and exactly representable: they would outweigh all else.
  p[0] = p.size() > 1 ? p[1] : 0;
  double outside = 0, least = std::numeric_limits<double>::infinity();
  size_t best = kEntropyBins;
  std::vector<double> after(kEntropyBins + 1, 0);
  for (size_t i = kEntropyBins; i-- > 0;) after[i] = after[i + 1] + p[i];
  for (size_t end = std::max(levels, size_t{16}); end <= kEntropyBins; end += 8) {
    outside = after[end];
    double total = after[0], divergence = 0, total_q = 0;
    std::vector<double> q(end, 0);
    for (size_t level = 0; level < levels; ++level) {
      const size_t begin = level * end / levels, stop = (level + 1) * end / levels;
      double sum = 0;
      size_t filled = 0;
      for (size_t i = begin; i < stop; ++i) sum += p[i], filled += p[i] > 0;
      for (size_t i = begin; i < stop; ++i)
        if (p[i] > 0) q[i] = sum / static_cast<double>(filled), total_q += q[i];
    }
    if (!(total > 0) || !(total_q > 0)) continue;
    for (size_t i = 0; i < end; ++i) {
      const double pi = (p[i] + (i + 1 == end ? outside : 0)) / total;
      if (pi <= 0) continue;
      divergence += pi * std::log(pi / std::max(q[i] / total_q, 1e-12));
    }
    if (divergence < least) least = divergence, best = end;
  }
  return clipped(whole, magnitude * static_cast<double>(best) / kEntropyBins);
}

// The clipping of a range, in steps from all of it to a fifth, with the best score over the histogram.
template <class Score>
Range best_part(const Observer& seen, int bits, bool symmetric, const Score& score) {
  const Range whole = seen.whole();
  Range best = whole;
  double highest = -std::numeric_limits<double>::infinity();
  for (int i = 100; i >= 20; --i) {
    const float part = static_cast<float>(i) / 100;
    const Range range{whole.least * part, whole.most * part};
    const Grid grid = uniform_grid(range.least, range.most, bits, symmetric);
    const double s = score(grid);
    if (s > highest) highest = s, best = range;
  }
  return best;
}

}  // namespace

std::string RangeSpec::text() const {
  switch (method) {
    case RangeMethod::kMinMax: return "minmax";
    case RangeMethod::kAverage: return "average";
    case RangeMethod::kPercentile: return fmt::format("percentile:{:g}", percentile);
    case RangeMethod::kEntropy: return "entropy";
    case RangeMethod::kSquaredError: return "mse";
    case RangeMethod::kCosine: return "cosine";
  }
  return "";
}

const std::vector<std::string>& range_names() {
  static const std::vector<std::string> names{"minmax", "average", "percentile:99.9", "percentile:99.99", "percentile:99.999", "entropy", "mse", "cosine"};
  return names;
}

RangeSpec parse_range(std::string_view text) {
  if (text == "minmax") return {};
  if (text == "average") return {RangeMethod::kAverage};
  if (text == "entropy" || text == "kl") return {RangeMethod::kEntropy};
  if (text == "mse") return {RangeMethod::kSquaredError};
  if (text == "cosine") return {RangeMethod::kCosine};
  if (text == "percentile") return {RangeMethod::kPercentile};
  if (text.starts_with("percentile:")) {
    const std::string number(text.substr(11));
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    if (!number.empty() && *end == 0 && value > 50 && value <= 100) return {RangeMethod::kPercentile, value};
  }
  fail(ErrorKind::kUsage, "calibration \"{}\" is not known; there are minmax, average, percentile[:99.99], entropy, mse and cosine", text);
}

void Observer::widen(double magnitude) {
  if (bins_.empty()) {
    bins_.assign(kBins, 0);
    limit_ = std::ldexp(1.0, std::max(-120, std::ilogb(std::max(magnitude, 1e-30)) + 1));
  }
  while (limit_ < magnitude) {  // two bins become one
    std::vector<double> wider(kBins, 0);
    for (size_t i = 0; i < kBins; ++i) wider[kBins / 4 + i / 2] += bins_[i];
    bins_ = std::move(wider);
    limit_ *= 2;
  }
}

void Observer::add(const Tensor& sample) {
  if (sample.dtype() != DType::kF32 || sample.size() == 0) return;
  const float* x = sample.data<float>();
  float least = std::numeric_limits<float>::infinity(), most = -least;
  for (int64_t i = 0; i < sample.size(); ++i) {
    if (!std::isfinite(x[i])) continue;
    least = std::min(least, x[i]);
    most = std::max(most, x[i]);
  }
  if (least > most) {
    not_finite_ += sample.size();
    return;
  }
  widen(std::max(std::abs(static_cast<double>(least)), std::abs(static_cast<double>(most))));
  const double per_unit = static_cast<double>(kBins) / (2 * limit_);
  constexpr size_t kHalf = kBins / 2;
  const auto factor = static_cast<float>(per_unit), shift = static_cast<float>(kHalf);
  for (int64_t i = 0; i < sample.size(); ++i) {
    if (!std::isfinite(x[i])) {
      ++not_finite_;
      continue;
    }
    bins_[static_cast<size_t>(std::clamp(x[i] * factor + shift, 0.0f, static_cast<float>(kBins - 1)))] += 1;
    ++count_;
  }
  least_ = seen_ ? std::min(least_, least) : least;
  most_ = seen_ ? std::max(most_, most) : most;
  average_least_ = seen_ ? 0.9f * average_least_ + 0.1f * least : least;
  average_most_ = seen_ ? 0.9f * average_most_ + 0.1f * most : most;
  seen_ = true;
}

std::vector<Observer> observe(const Graph& graph, const Samples& samples, const std::vector<ValueId>& values,
                              const std::function<void(double)>& progress) {
  std::vector<Observer> seen(values.size());
  visit_values(graph, samples, values, [&](size_t, size_t i, const Tensor& t) { seen[i].add(t); }, progress);
  return seen;
}

Range range_of(const Observer& seen, const RangeSpec& spec, int bits, bool symmetric) {
  Range range;
  const auto& bins = seen.bins();
  if (seen.count() == 0) return range;
  switch (spec.method) {
    case RangeMethod::kMinMax: range = seen.whole(); break;
    case RangeMethod::kAverage: range = seen.average(); break;
    case RangeMethod::kPercentile: range = percentile(seen, spec.percentile); break;
    case RangeMethod::kEntropy: range = entropy(seen, bits); break;
    case RangeMethod::kSquaredError:
      range = best_part(seen, bits, symmetric, [&](const Grid& grid) {
        double error = 0;
        for (size_t i = 0; i < bins.size(); ++i) {
          if (bins[i] == 0) continue;
          const double x = seen.middle(i), e = x - static_cast<double>(grid.fake(static_cast<float>(x)));
          error += bins[i] * e * e;
        }
        return -error;
      });
      break;
    case RangeMethod::kCosine:
      range = best_part(seen, bits, symmetric, [&](const Grid& grid) {
        double xq = 0, qq = 0, xx = 0;
        for (size_t i = 0; i < bins.size(); ++i) {
          if (bins[i] == 0) continue;
          const double x = seen.middle(i), q = static_cast<double>(grid.fake(static_cast<float>(x)));
          xq += bins[i] * x * q;
          qq += bins[i] * q * q;
          xx += bins[i] * x * x;
        }
        return qq > 0 && xx > 0 ? xq / std::sqrt(qq * xx) : 0;
      });
      break;
  }
  return {std::min(range.least, 0.0f), std::max(range.most, 0.0f)};
}

}  // namespace lathe
