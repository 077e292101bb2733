// Which range of an activation the codes cover: statistics over samples, and the rules that make a range of them.
//
//   std::vector<Observer> seen = observe(graph, samples, values);
//   Range range = range_of(seen[0], {.method = RangeMethod::kEntropy}, 8, false);
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/layers.h"

namespace lathe {

enum class RangeMethod {
  kMinMax,
  kAverage,       // of the samples' least and most, moving with factor 0.9 (Jacob et al. 2018, section 3)
  kPercentile,    // leaves out the same share at both ends
  kEntropy,       // least Kullback–Leibler divergence over 2048 bins (Migacz 2017, "8-bit Inference with TensorRT")
  kSquaredError,
  kCosine,        // largest cosine between the numbers and what their codes stand for
};
struct RangeSpec {
  RangeMethod method = RangeMethod::kMinMax;
  double percentile = 99.99;
  bool operator==(const RangeSpec&) const = default;
  std::string text() const;  // "percentile:99.99"
};
// "minmax", "average", "percentile[:99.9]", "entropy" or "kl", "mse", "cosine". Throws kUsage.
RangeSpec parse_range(std::string_view text);
const std::vector<std::string>& range_names();

struct Range {
  float least = 0, most = 0;
};

// What was seen of one value. Not-a-numbers and infinities are counted and left out.
class Observer {
 public:
  void add(const Tensor& sample);

  int64_t count() const { return count_; }
  int64_t not_finite() const { return not_finite_; }
  Range whole() const { return {least_, most_}; }
  Range average() const { return {average_least_, average_most_}; }
  // Numbers in equal bins from −limit to limit.
  const std::vector<double>& bins() const { return bins_; }
  double limit() const { return limit_; }
  double middle(size_t bin) const { return (static_cast<double>(bin) + 0.5) * 2 * limit_ / static_cast<double>(bins_.size()) - limit_; }

 private:
  void widen(double magnitude);
  float least_ = 0, most_ = 0, average_least_ = 0, average_most_ = 0;
  int64_t count_ = 0, not_finite_ = 0;
  bool seen_ = false;
  double limit_ = 0;  // a power of two
  std::vector<double> bins_;
};

std::vector<Observer> observe(const Graph& graph, const Samples& samples, const std::vector<ValueId>& values,
                              const std::function<void(double)>& progress = nullptr);

// For codes of `bits`; 0 is always inside.
Range range_of(const Observer& seen, const RangeSpec& spec, int bits, bool symmetric);

}  // namespace lathe
