// How good answers are, as one number with an interval: against what is known of the samples (labels, boxes, maps), or,
// where nothing is known, against the answers of the original network.
//
//   auto metric = make_metric(MetricKind::kTop1, data, rules);
//   for (size_t i = 0; i < data.size(); ++i) metric->add(i, session.run(data.inputs(i)), original_answers(i));
//   Interval accuracy = metric->value(), lost = metric->drop_from(*metric_of_the_original);
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optimize/dataset.h"
#include "optimize/statistics.h"
#include "tasks/detect.h"

namespace lathe {

enum class MetricKind {
  kTop1,    // share of samples whose best class is the true one; without labels the original's best
  kTop5,    // share of samples whose true class is among the best five
  kMap,     // detection: mean average precision over classes and overlaps of 0.50, 0.55, … 0.95 (COCO), 101 points of recall
  kIou,     // segmentation: mean over classes of intersection over union, pixels labelled 255 left out
  kCosine,  // mean over samples of the cosine between answers and the original's; needs no labels and uses none
  kMse,     // mean over samples of the squared difference from the original's answers; the same
};
constexpr MetricKind kMetrics[] = {MetricKind::kTop1, MetricKind::kTop5, MetricKind::kMap, MetricKind::kIou, MetricKind::kCosine, MetricKind::kMse};
std::string_view name_of(MetricKind kind);          // "top1"
MetricKind parse_metric(std::string_view text);     // throws kUsage with the list of names
bool higher_is_better(MetricKind kind);             // all but mse
bool is_share(MetricKind kind);                     // in 0 … 1 and printed in per cent: all but cosine and mse
Truth truth_wanted(MetricKind kind);                // kNone for cosine and mse

// What the numbers of classes mean.
struct ClassRules {
  int64_t offset = 0;  // 1: the network's class 0 is "background", which the labels leave out
};

class Metric {
 public:
  virtual ~Metric() = default;
  // `expected`: the original's answers. Samples come in the same order to metrics that are compared.
  virtual void add(size_t sample, const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) = 0;
  // With a 95 % interval: Wilson's for shares of samples, else by bootstrap over samples.
  virtual Interval value() const = 0;
  // What is lost against `before`, a metric of the same kind over the same samples: positive is worse. Paired.
  virtual Interval drop_from(const Metric& before) const = 0;
  virtual int64_t samples() const = 0;
};

// Throws kUsage when the metric does not suit the answers (`example`: those of one sample) or what is known of the data.
std::unique_ptr<Metric> make_metric(MetricKind kind, const Dataset& data, const ClassRules& rules, const std::vector<Tensor>& example);
// The one that suits best: top1 for classifiers, map for detectors and iou for maps of classes, where the data are pictures, else cosine.
MetricKind default_metric(const Dataset& data, const std::vector<Tensor>& example);

// One output of class scores, [1, classes] with sizes of 1 around it.
bool is_class_scores(const std::vector<Tensor>& outputs);
int64_t best_class(const Tensor& scores);

// Average precision of one class by COCO's rules: detections of all pictures, best first, each right or wrong at one overlap, and
// the number of true objects. 101 points of recall; precision at each is the best at that recall or beyond.
double average_precision(const std::vector<bool>& right, int64_t objects);

// A detection by whether it found an object.
struct JudgedBox {
  int64_t class_index;
  float score;
  bool right;
};
// The detections of one picture, in the order given, which is best first: each takes the free object of its class that it overlaps most,
// by `least` or more; what lies on a crowd counts neither way and is left out. Boxes in one unit.
std::vector<JudgedBox> judge_boxes(const std::vector<Detection>& found, const std::vector<TrueBox>& truth, float least);
// Mean of average_precision over the classes that have objects: `objects` by class, detections of all pictures. 1 without objects.
double mean_average_precision(const std::vector<JudgedBox>& found, const std::map<int64_t, int64_t>& objects);
// Detections of lower scores are left out of it.
constexpr float kLeastScore = 0.05f;

// Expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2): mean distance between how
// sure the network is and how often it is right, over 15 bins of equal width of its best probability, weighted by samples.
double expected_calibration_error(const std::vector<double>& confidence, const std::vector<bool>& right);

}  // namespace lathe
