#include "optimize/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "core/error.h"
#include "tasks/detect.h"
#include "tasks/head.h"
#include "tasks/segment.h"

namespace lathe {
namespace {

constexpr uint64_t kBootstrapSeed = 20231;
// Of a value that takes long to compute anew; the ends of the interval then move by some hundredths of its width.
constexpr int kFewResamples = 400;
// Where the original's boxes stand for the truth: those that `lathe run` would show.
constexpr float kShownScore = 0.4f;
constexpr uint8_t kIgnoredPixel = 255;

class TopK : public Metric {
 public:
  TopK(const Dataset& data, const ClassRules& rules, int64_t k) : data_(data), rules_(rules), k_(k) {}

  void add(size_t sample, const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) override {
    int64_t truth = data_.labelled() ? data_.label(sample) + rules_.offset : best_class(expected[0]);
    const Tensor& scores = actual[0];
    double own = truth < scores.size() ? scores.get(truth) : NAN;
    int64_t better = 0;
    // Of equal scores the first counts as better, as in best_class().
    for (int64_t i = 0; i < scores.size(); ++i) better += scores.get(i) > own || (scores.get(i) == own && i < truth) || std::isnan(own);
    right_.push_back(better < k_);
  }
  Interval value() const override { return wilson(std::count(right_.begin(), right_.end(), true), samples()); }
  Interval drop_from(const Metric& metric) const override {
    const auto& before = dynamic_cast<const TopK&>(metric);
    require(before.right_.size() == right_.size(), "metrics over different samples are compared");
    int64_t lost = 0, won = 0;
    for (size_t i = 0; i < right_.size(); ++i) lost += before.right_[i] && !right_[i], won += right_[i] && !before.right_[i];
    return paired_difference(lost, won, samples());
  }
  int64_t samples() const override { return static_cast<int64_t>(right_.size()); }

 private:
  const Dataset& data_;
  ClassRules rules_;
  int64_t k_;
  std::vector<bool> right_;
};

// A mean over samples of a number that each sample has for itself.
class MeanMetric : public Metric {
 public:
  explicit MeanMetric(bool cosine) : cosine_(cosine) {}

  void add(size_t, const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) override {
    double sum = 0;
    int64_t outputs = 0;
    for (size_t o = 0; o < expected.size(); ++o) {
      if (expected[o].size() == 0) continue;
      sum += cosine_ ? cosine(actual[o], expected[o]) : squares(actual[o], expected[o]);
      ++outputs;
    }
    values_.push_back(outputs ? sum / static_cast<double>(outputs) : cosine_ ? 1 : 0);
  }
  Interval value() const override { return bootstrap_mean(values_, kBootstrapSeed); }
  Interval drop_from(const Metric& metric) const override {
    const auto& before = dynamic_cast<const MeanMetric&>(metric);
    require(before.values_.size() == values_.size(), "metrics over different samples are compared");
    std::vector<double> lost;
    for (size_t i = 0; i < values_.size(); ++i) lost.push_back(cosine_ ? before.values_[i] - values_[i] : values_[i] - before.values_[i]);
    return bootstrap_mean(lost, kBootstrapSeed);
  }
  int64_t samples() const override { return static_cast<int64_t>(values_.size()); }

 private:
  static double cosine(const Tensor& a, const Tensor& b) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < b.size(); ++i) {
      double x = a.get(i), y = b.get(i);
      ab += x * y, aa += x * x, bb += y * y;
    }
    if (aa == 0 && bb == 0) return 1;  // nothing and nothing
    return aa == 0 || bb == 0 ? 0 : std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);
  }
  static double squares(const Tensor& a, const Tensor& b) {
    double sum = 0;
    for (int64_t i = 0; i < b.size(); ++i) sum += (a.get(i) - b.get(i)) * (a.get(i) - b.get(i));
    return sum / static_cast<double>(b.size());
  }

  bool cosine_;
  std::vector<double> values_;
};

// A value over a whole set of samples that is no mean of theirs: interval and paired difference by drawing samples anew.
class SetMetric : public Metric {
 public:
  Interval value() const override {
    std::vector<double> drawn;
    resample([&](const std::vector<size_t>& picks) { drawn.push_back(over(picks)); });
    return interval(over(everything()), drawn);
  }
  Interval drop_from(const Metric& metric) const override {
    const auto& before = dynamic_cast<const SetMetric&>(metric);
    require(before.samples() == samples(), "metrics over different samples are compared");
    std::vector<double> drawn;
    resample([&](const std::vector<size_t>& picks) { drawn.push_back(before.over(picks) - over(picks)); });
    return interval(before.over(everything()) - over(everything()), drawn);
  }

 protected:
  virtual double over(const std::vector<size_t>& samples) const = 0;

 private:
  std::vector<size_t> everything() const {
    std::vector<size_t> all(static_cast<size_t>(samples()));
    std::iota(all.begin(), all.end(), size_t{0});
    return all;
  }
  template <class F>
  void resample(F f) const {
    std::mt19937_64 random(kBootstrapSeed);
    std::vector<size_t> picks(static_cast<size_t>(samples()));
    if (picks.empty()) return;
    std::uniform_int_distribution<size_t> pick(0, picks.size() - 1);
    for (int i = 0; i < kFewResamples; ++i) {
      for (size_t& p : picks) p = pick(random);
      f(picks);
    }
  }
  static Interval interval(double value, std::vector<double> drawn) {
    if (drawn.empty()) return {value, value, value};
    std::sort(drawn.begin(), drawn.end());
    return {value, drawn[drawn.size() * 25 / 1000], drawn[drawn.size() * 975 / 1000]};
  }
};

class MeanAveragePrecision : public SetMetric {
 public:
  explicit MeanAveragePrecision(const Dataset& data) : data_(data) {}

  void add(size_t sample, const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) override {
    Picture p;
    std::vector<Detection> found = boxes(sample, actual, kLeastScore);
    if (data_.truth() == Truth::kBoxes) {
      p.truth = data_.boxes(sample);
    } else {
      for (const Detection& d : boxes(sample, expected, kShownScore)) p.truth.push_back({d.x0, d.y0, d.x1, d.y1, d.class_index});
    }
    for (size_t t = 0; t < kOverlaps; ++t) p.found[t] = judge_boxes(found, p.truth, 0.5f + 0.05f * static_cast<float>(t));
    pictures_.push_back(std::move(p));
  }
  int64_t samples() const override { return static_cast<int64_t>(pictures_.size()); }

 protected:
  double over(const std::vector<size_t>& samples) const override {
    std::map<int64_t, int64_t> objects;
    std::array<std::vector<JudgedBox>, kOverlaps> found;
    for (size_t s : samples) {
      const Picture& p = pictures_[s];
      for (const TrueBox& b : p.truth) objects[b.class_index] += !b.crowd;
      for (size_t t = 0; t < kOverlaps; ++t) found[t].insert(found[t].end(), p.found[t].begin(), p.found[t].end());
    }
    double sum = 0;
    for (const std::vector<JudgedBox>& at : found) sum += mean_average_precision(at, objects);
    return sum / kOverlaps;
  }

 private:
  static constexpr size_t kOverlaps = 10;  // 0.50, 0.55, … 0.95
  struct Picture {
    std::vector<TrueBox> truth;
    std::array<std::vector<JudgedBox>, kOverlaps> found;
  };

  std::vector<Detection> boxes(size_t sample, const std::vector<Tensor>& outputs, float least) const {
    const Dataset::Picture& p = data_.picture(sample);
    DetectOptions options;
    options.min_score = least;
    options.input_width = p.steps.crop_width ? p.steps.crop_width : p.steps.resize_width;
    options.input_height = p.steps.crop_height ? p.steps.crop_height : p.steps.resize_height;
    return to_picture(detect(outputs, detector_form(outputs), options), p.steps, p.width, p.height);
  }

  const Dataset& data_;
  std::vector<Picture> pictures_;
};

class MeanIou : public SetMetric {
 public:
  explicit MeanIou(const Dataset& data) : data_(data) {}

  void add(size_t sample, const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) override {
    Segmentation map = segment(actual[0]);
    std::vector<int32_t> truth = data_.truth() == Truth::kMap ? known(sample, map) : segment(expected[0]).classes;
    std::map<int32_t, Counts> counts;
    for (size_t i = 0; i < map.classes.size(); ++i) {
      if (truth[i] == kIgnoredPixel && data_.truth() == Truth::kMap) continue;
      if (truth[i] == map.classes[i]) ++counts[truth[i]].both;
      ++counts[truth[i]].truth;
      ++counts[map.classes[i]].found;
    }
    pictures_.push_back(std::move(counts));
  }
  int64_t samples() const override { return static_cast<int64_t>(pictures_.size()); }

 protected:
  double over(const std::vector<size_t>& samples) const override {
    std::map<int32_t, Counts> sums;
    for (size_t s : samples)
      for (const auto& [c, n] : pictures_[s]) sums[c].both += n.both, sums[c].truth += n.truth, sums[c].found += n.found;
    double sum = 0;
    int64_t classes = 0;
    for (const auto& [c, n] : sums) {
      if (n.truth == 0) continue;  // a class that does not occur lowers those whose pixels it took
      sum += static_cast<double>(n.both) / static_cast<double>(n.truth + n.found - n.both);
      ++classes;
    }
    return classes ? sum / static_cast<double>(classes) : 1;
  }

 private:
  struct Counts {
    int64_t both = 0, truth = 0, found = 0;
  };

  // The labels under the middle of each pixel of the network's map.
  std::vector<int32_t> known(size_t sample, const Segmentation& map) const {
    LabelMap labels = data_.map(sample);
    const Dataset::Picture& p = data_.picture(sample);
    if (labels.width != p.width || labels.height != p.height)
      fail(ErrorKind::kInput, "the map of classes for {} is {} x {}, the picture {} x {}", data_.name(sample), labels.width, labels.height, p.width, p.height);
    auto [x0, y0, w, h] = p.steps.visible_part(p.width, p.height);
    std::vector<int32_t> truth;
    truth.reserve(map.classes.size());
    for (int y = 0; y < map.height; ++y)
      for (int x = 0; x < map.width; ++x) {
        int lx = std::clamp(static_cast<int>(x0 + (x + 0.5) / map.width * w), 0, labels.width - 1);
        int ly = std::clamp(static_cast<int>(y0 + (y + 0.5) / map.height * h), 0, labels.height - 1);
        truth.push_back(labels.labels[size_t{1} * ly * labels.width + lx]);
      }
    return truth;
  }

  const Dataset& data_;
  std::vector<std::map<int32_t, Counts>> pictures_;
};

}  // namespace

std::string_view name_of(MetricKind kind) {
  constexpr std::string_view names[] = {"top1", "top5", "map", "iou", "cosine", "mse"};
  return names[static_cast<int>(kind)];
}

MetricKind parse_metric(std::string_view text) {
  std::string known;
  for (MetricKind kind : kMetrics) {
    if (name_of(kind) == text) return kind;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name_of(kind));
  }
  fail(ErrorKind::kUsage, "there is no metric '{}'; known are {}", text, known);
}

bool higher_is_better(MetricKind kind) { return kind != MetricKind::kMse; }
bool is_share(MetricKind kind) { return kind != MetricKind::kMse && kind != MetricKind::kCosine; }

Truth truth_wanted(MetricKind kind) {
  switch (kind) {
    case MetricKind::kTop1:
    case MetricKind::kTop5: return Truth::kClass;
    case MetricKind::kMap: return Truth::kBoxes;
    case MetricKind::kIou: return Truth::kMap;
    default: return Truth::kNone;
  }
}

bool is_class_scores(const std::vector<Tensor>& outputs) {
  if (outputs.size() != 1 || !is_float(outputs[0].dtype()) || outputs[0].rank() < 2) return false;
  const Shape& s = outputs[0].shape();
  int64_t count = outputs[0].size();
  return s[0] == 1 && count > 1 && std::count(s.begin(), s.end(), count) == 1;
}

int64_t best_class(const Tensor& scores) {
  int64_t best = 0;
  for (int64_t i = 1; i < scores.size(); ++i)
    if (scores.get(i) > scores.get(best)) best = i;
  return best;
}

MetricKind default_metric(const Dataset& data, const std::vector<Tensor>& example) {
  if (is_class_scores(example) && (data.pictures() || data.labelled())) return MetricKind::kTop1;
  if (!data.pictures()) return MetricKind::kCosine;
  Head head = head_of(example);
  // Without known boxes or maps, answers that only look like some would be taken for what they are not.
  if (head == Head::kBoxes && data.truth() == Truth::kBoxes) return MetricKind::kMap;
  if (head == Head::kMap && (data.truth() == Truth::kMap || is_integer(example[0].dtype()))) return MetricKind::kIou;
  return MetricKind::kCosine;
}

std::unique_ptr<Metric> make_metric(MetricKind kind, const Dataset& data, const ClassRules& rules, const std::vector<Tensor>& example) {
  Truth wanted = truth_wanted(kind);
  if (wanted != Truth::kNone && data.truth() != Truth::kNone && data.truth() != wanted) {
    constexpr std::string_view what[] = {"nothing", "classes", "boxes", "maps of classes"};
    fail(ErrorKind::kUsage, "--metric {} is measured against {}, the labels are {}", name_of(kind), what[static_cast<int>(wanted)], what[static_cast<int>(data.truth())]);
  }
  switch (kind) {
    case MetricKind::kTop1:
    case MetricKind::kTop5:
      if (!is_class_scores(example)) fail(ErrorKind::kUsage, "--metric {} needs a network with one output of class scores", name_of(kind));
      return std::make_unique<TopK>(data, rules, kind == MetricKind::kTop1 ? 1 : 5);
    case MetricKind::kMap:
      if (!is_detector(example) || !data.pictures()) fail(ErrorKind::kUsage, "--metric map needs pictures and a detector whose outputs are of a known form");
      return std::make_unique<MeanAveragePrecision>(data);
    case MetricKind::kIou:
      if (!data.pictures() || head_of(example) != Head::kMap) fail(ErrorKind::kUsage, "--metric iou needs pictures and a network that gives a map of classes");
      return std::make_unique<MeanIou>(data);
    case MetricKind::kCosine: return std::make_unique<MeanMetric>(true);
    case MetricKind::kMse: return std::make_unique<MeanMetric>(false);
  }
  fail(ErrorKind::kInternal, "no such metric");
}

double average_precision(const std::vector<bool>& right, int64_t objects) {
  std::vector<double> precision, recall;
  int64_t hits = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    hits += right[i];
    precision.push_back(static_cast<double>(hits) / static_cast<double>(i + 1));
    recall.push_back(static_cast<double>(hits) / static_cast<double>(objects));
  }
  for (size_t i = precision.size(); i-- > 1;) precision[i - 1] = std::max(precision[i - 1], precision[i]);
  double sum = 0;
  for (int point = 0; point <= 100; ++point) {
    auto at = std::lower_bound(recall.begin(), recall.end(), point / 100.0 - 1e-12);
    if (at != recall.end()) sum += precision[static_cast<size_t>(at - recall.begin())];
  }
  return sum / 101;
}

std::vector<JudgedBox> judge_boxes(const std::vector<Detection>& found, const std::vector<TrueBox>& truth, float least) {
  std::vector<JudgedBox> judged;
  std::vector<bool> taken(truth.size(), false);
  for (const Detection& d : found) {
    size_t best = truth.size();
    float most = least;
    bool on_crowd = false;
    for (size_t i = 0; i < truth.size(); ++i) {
      const TrueBox& b = truth[i];
      if (b.class_index != d.class_index) continue;
      if (b.crowd) {
        float w = std::min(d.x1, b.x1) - std::max(d.x0, b.x0), h = std::min(d.y1, b.y1) - std::max(d.y0, b.y0);
        on_crowd = on_crowd || (w > 0 && h > 0 && w * h >= least * (d.x1 - d.x0) * (d.y1 - d.y0));
      } else if (float o = overlap(d, Detection{b.x0, b.y0, b.x1, b.y1, 1, b.class_index, ""}); !taken[i] && o >= most) {
        most = o;
        best = i;
      }
    }
    if (best < truth.size()) taken[best] = true;
    else if (on_crowd) continue;
    judged.push_back({d.class_index, d.score, best < truth.size()});
  }
  return judged;
}

double mean_average_precision(const std::vector<JudgedBox>& found, const std::map<int64_t, int64_t>& objects) {
  std::map<int64_t, std::vector<std::pair<float, bool>>> by_class;
  for (const JudgedBox& f : found) by_class[f.class_index].emplace_back(f.score, f.right);
  double sum = 0;
  int64_t counted = 0;
  for (const auto& [index, count] : objects) {
    if (count == 0) continue;  // of classes that never occur nothing can be missed
    auto& list = by_class[index];
    std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<bool> right;
    for (const auto& f : list) right.push_back(f.second);
    sum += average_precision(right, count);
    ++counted;
  }
  return counted ? sum / static_cast<double>(counted) : 1;
}

double expected_calibration_error(const std::vector<double>& confidence, const std::vector<bool>& right) {
  constexpr int kBins = 15;
  std::array<double, kBins> sure{}, hits{}, count{};
  for (size_t i = 0; i < confidence.size(); ++i) {
    int bin = std::clamp(static_cast<int>(std::ceil(confidence[i] * kBins)) - 1, 0, kBins - 1);
    sure[static_cast<size_t>(bin)] += confidence[i];
    hits[static_cast<size_t>(bin)] += right[i];
    count[static_cast<size_t>(bin)] += 1;
  }
  double error = 0;
  for (size_t b = 0; b < kBins; ++b)
    if (count[b] > 0) error += std::fabs(hits[b] - sure[b]) / static_cast<double>(confidence.size());
  return error;
}

}  // namespace lathe
