// Answers of a candidate compared with the original's, on the user's samples.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "optimize/measure.h"
#include "optimize/metrics.h"

namespace lathe {

struct Quality {
  int64_t samples = 0;
  bool finite = true;           // false: answers hold NaN or infinities where the original's do not
  double largest_error = 0;     // |candidate − original| over the original output's range, largest
  double mean_error = 0;        // the same, mean over elements
  std::optional<double> signal_to_noise;  // dB; nothing when there is no noise or no float output
  std::optional<Interval> agreement;      // share of equal answers: best class, or elements of an integer output
  std::optional<Interval> accuracy;       // share of right answers; of classifiers with labels only
  std::map<MetricKind, Interval> scores;  // of the metric, and of others that the budget asks for
  std::optional<Interval> drop;           // of the metric: the original's less this one, paired; not of mse
};

// The original's answers, kept while they fit in memory and else computed again.
class Evaluation {
 public:
  using Progress = std::function<void(double)>;

  // Runs the original over all samples. `metric`: what `drop` is of; nothing: default_metric(). Throws kInput when
  // labels do not fit the network's classes, kModel when an answer holds NaN, and as make_metric() does.
  Evaluation(Runner& original, Dataset& data, const Progress& progress = nullptr, std::optional<MetricKind> metric = {}, std::vector<MetricKind> others = {});
  // Over `samples` samples, evenly spaced; 0: all of them.
  Quality compare(Runner& candidate, const Progress& progress = nullptr, size_t samples = 0);

  MetricKind metric() const { return metric_; }
  // Without labels the original's answers are what the metric is measured against.
  bool against_original() const { return truth_wanted(metric_) == Truth::kNone || data_.truth() == Truth::kNone; }
  bool classifies() const { return classifies_; }
  int64_t label_offset() const { return label_offset_; }
  std::optional<Interval> accuracy() const;  // the original's
  const std::vector<Tensor>& example() const { return kept_.at(0); }

 private:
  std::vector<Tensor> answers(size_t sample);

  Runner& original_;
  Dataset& data_;
  MetricKind metric_ = MetricKind::kCosine;
  std::vector<MetricKind> others_;
  std::vector<std::vector<Tensor>> kept_;  // by sample; shorter than the data when it would be too much
  std::vector<double> range_;              // by output
  std::vector<int64_t> best_;              // by sample, of a classifier
  bool classifies_ = false;
  int64_t label_offset_ = 0;  // 1: the network's class 0 is "background", which the labels leave out
};

// Largest difference over the range of `expected`, over all outputs of one run. Infinite for shapes that differ.
double largest_relative_error(const std::vector<Tensor>& actual, const std::vector<Tensor>& expected);

}  // namespace lathe
