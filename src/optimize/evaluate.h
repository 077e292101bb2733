// Answers of a candidate compared with the original's, on the user's samples.
#pragma once

#include <functional>
#include <optional>

#include "optimize/measure.h"

namespace lathe {

struct Quality {
  int64_t samples = 0;
  bool finite = true;           // false: answers hold NaN or infinities where the original's do not
  double largest_error = 0;     // |candidate − original| over the original output's range, largest
  double mean_error = 0;        // the same, mean over elements
  std::optional<double> signal_to_noise;  // dB; nothing when there is no noise or no float output
  std::optional<Interval> agreement;      // share of equal answers: best class, or elements of an integer output
  std::optional<Interval> accuracy;       // share of right answers; with labels only
  std::optional<Interval> drop;           // accuracy of the original less this one, paired
};

// The original's answers, kept while they fit in memory and else computed again.
class Evaluation {
 public:
  using Progress = std::function<void(double)>;

  // Runs the original over all samples. Throws kInput when labels do not fit the network's classes.
  Evaluation(Runner& original, Dataset& data, const Progress& progress = nullptr);
  Quality compare(Runner& candidate, const Progress& progress = nullptr);

  bool classifies() const { return classifies_; }
  int64_t label_offset() const { return label_offset_; }
  std::optional<Interval> accuracy() const;  // the original's

 private:
  std::vector<Tensor> answers(size_t sample);
  int64_t best_class(const Tensor& scores) const;

  Runner& original_;
  Dataset& data_;
  std::vector<std::vector<Tensor>> kept_;  // by sample; shorter than the data when it would be too much
  std::vector<double> range_;              // by output
  std::vector<int64_t> best_;              // by sample, of a classifier
  bool classifies_ = false;
  int64_t label_offset_ = 0;  // 1: the network's class 0 is "background", which the labels leave out
};

// Largest difference over the range of `expected`, over all outputs of one run. Infinite for shapes that differ.
double largest_relative_error(const std::vector<Tensor>& actual, const std::vector<Tensor>& expected);

}  // namespace lathe
