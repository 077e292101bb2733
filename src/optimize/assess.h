// How good a network is on data: its metric with an interval, which classes it confuses, whether it is as sure as it is right;
// and beside another network, sample by sample.
//
//   Assessment a = assess(model, nullptr, data, {});
//   nlohmann::json j = to_json(a);
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "optimize/evaluate.h"

namespace lathe {

struct AssessOptions {
  std::optional<MetricKind> metric;  // nothing: default_metric()
  size_t worst = 10;                 // pairs of classes and samples that are told
  std::function<void(double)> progress = nullptr;
};

struct Confusion {
  int64_t truth = 0, predicted = 0, count = 0;
};

// Answers to one sample that differ between the two networks.
struct Disagreement {
  std::string sample;
  int64_t truth = -1;                  // class; −1: unknown
  int64_t first = -1, second = -1;     // best classes, of classifiers
  double largest_error = 0;            // over the range of the second's output
};

struct Assessment {
  int64_t samples = 0;
  MetricKind metric = MetricKind::kTop1;
  bool against_labels = false;         // else against the answers of the other network
  std::map<MetricKind, Interval> scores;  // the metric, and for classifiers top1 and top5
  bool classifies = false;
  int64_t label_offset = 0;
  std::optional<double> calibration_error;  // of classifiers with labels
  double mean_confidence = 0;
  std::vector<Confusion> confusion;    // most frequent first
  int64_t confused_pairs = 0;          // different ones
  struct Other {
    std::map<MetricKind, Interval> scores;
    std::optional<Interval> drop;      // of the metric: the other's less this one's
    int64_t lost = 0, won = 0;         // samples that only the other, only this one has right (top1)
    std::optional<double> mcnemar;     // with labels, of classifiers
    std::optional<Interval> agreement; // of best classes
    double largest_error = 0, mean_error = 0;
    std::vector<Disagreement> differences;  // worst first
    int64_t different = 0;             // samples whose best class differs
  };
  std::optional<Other> other;
};

// `other` may be null when the data have labels. Throws kUsage when there is nothing to measure against, kInput when the other network
// takes other inputs.
Assessment assess(Runner& network, Runner* other, Dataset& data, const AssessOptions& options);
nlohmann::json to_json(const Assessment& assessment);

}  // namespace lathe
