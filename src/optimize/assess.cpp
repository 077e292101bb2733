#include "optimize/assess.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tasks/classify.h"

namespace lathe {
namespace {

using nlohmann::json;

std::vector<Tensor> own(const std::vector<Tensor>& borrowed) {
  std::vector<Tensor> copies;
  copies.reserve(borrowed.size());
  for (const Tensor& t : borrowed) copies.push_back(t.clone());
  return copies;
}

// Where the network's class 0 is "background", which the labels leave out, one is to be added: with the wrong numbering next to
// nothing is right.
int64_t offset_of(const std::vector<int64_t>& best, const Dataset& data) {
  int64_t right[2] = {0, 0};
  for (size_t i = 0; i < best.size(); ++i)
    for (int64_t offset : {0, 1}) right[offset] += data.label(i) + offset == best[i];
  return right[1] > right[0] ? 1 : 0;
}

class Assessor {
 public:
  Assessor(Runner& network, Runner* other, Dataset& data, const AssessOptions& options) : network_(network), other_(other), data_(data), options_(options) {}

  Assessment run() {
    look();
    result_.samples = static_cast<int64_t>(data_.size());
    for (size_t i = 0; i < data_.size(); ++i) {
      take(i);
      if (options_.progress) options_.progress(0.5 + static_cast<double>(i + 1) / static_cast<double>(2 * data_.size()));
    }
    for (const auto& [kind, metric] : metrics_) result_.scores[kind] = metric->value();
    if (result_.classifies && data_.labelled()) judge_confidence();
    if (other_) compare();
    return std::move(result_);
  }

 private:
  // Runs what has few numbers for answers over all samples: their classes tell how the labels are to be read.
  void look() {
    std::vector<Tensor> example = own(network_.run(data_.inputs(0)));
    result_.metric = options_.metric ? *options_.metric : default_metric(data_, example);
    Truth wanted = truth_wanted(result_.metric);
    result_.against_labels = wanted != Truth::kNone && data_.truth() != Truth::kNone;
    if (!result_.against_labels && !other_)
      fail(ErrorKind::kUsage, "there is nothing to measure the answers against: give --labels{}, or another network with --against",
           wanted == Truth::kNone ? fmt::format(" and a metric that uses them ({} compares with another network)", name_of(result_.metric)) : "");
    result_.classifies = is_class_scores(example) && (data_.pictures() || data_.labelled());
    ClassRules rules, other_rules;
    if (result_.classifies && data_.labelled()) {
      const int64_t classes = example[0].size();
      for (size_t i = 0; i < data_.size(); ++i) {
        best_.push_back(best_class(network_.run(data_.inputs(i))[0]));
        if (options_.progress) options_.progress(static_cast<double>(i + 1) / static_cast<double>(2 * data_.size()));
      }
      rules.offset = result_.label_offset = offset_of(best_, data_);
      for (size_t i = 0; i < data_.size(); ++i)
        if (data_.label(i) + rules.offset >= classes) fail(ErrorKind::kInput, "{} has class {}, but the network tells only {} classes apart", data_.name(i), data_.label(i), classes);
      best_.clear();
    }
    std::vector<Tensor> other_example = other_ ? own(other_->run(data_.inputs(0))) : example;
    if (other_ && result_.classifies && data_.labelled()) {
      std::vector<int64_t> best;
      for (size_t i = 0; i < data_.size(); ++i) best.push_back(best_class(other_->run(data_.inputs(i))[0]));
      other_rules.offset = offset_of(best, data_);
    }
    shift_ = rules.offset - other_rules.offset;
    std::vector<MetricKind> kinds{result_.metric};
    if (result_.classifies && result_.metric != MetricKind::kTop1) kinds.push_back(MetricKind::kTop1);
    if (result_.classifies && example[0].size() > 5 && result_.metric != MetricKind::kTop5) kinds.push_back(MetricKind::kTop5);
    for (MetricKind kind : kinds) {
      metrics_[kind] = make_metric(kind, data_, rules, example);
      if (other_) other_metrics_[kind] = make_metric(kind, data_, other_rules, other_example);
    }
  }

  void take(size_t i) {
    std::vector<Tensor> answers = own(network_.run(data_.inputs(i)));
    for (size_t o = 0; o < answers.size(); ++o)
      if (is_float(answers[o].dtype()))
        for (int64_t k = 0; k < answers[o].size(); ++k)
          if (std::isnan(answers[o].get(k))) fail(ErrorKind::kModel, "the model's answer to {} holds NaN (output {})", data_.name(i), o);
    const std::vector<Tensor> expected = other_ ? own(other_->run(data_.inputs(i))) : answers;
    for (auto& [kind, metric] : metrics_) metric->add(i, answers, expected);
    for (auto& [kind, metric] : other_metrics_) metric->add(i, expected, expected);
    if (result_.classifies) {
      best_.push_back(best_class(answers[0]));
      std::vector<float> p = probabilities(answers[0].to_f32());
      confidence_.push_back(p[static_cast<size_t>(best_.back())]);
    }
    if (!other_) return;
    Disagreement d;
    d.sample = data_.name(i);
    d.truth = data_.labelled() ? data_.label(i) : -1;
    d.largest_error = largest_relative_error(answers, expected);
    if (result_.classifies) {
      d.first = best_.back();
      d.second = best_class(expected[0]) + shift_;
    }
    differences_.push_back(std::move(d));
  }

  void judge_confidence() {
    std::vector<bool> right;
    std::map<std::pair<int64_t, int64_t>, int64_t> pairs;
    double sum = 0;
    for (size_t i = 0; i < best_.size(); ++i) {
      int64_t truth = data_.label(i) + result_.label_offset;
      right.push_back(best_[i] == truth);
      sum += confidence_[i];
      if (!right.back()) ++pairs[{truth, best_[i]}];
    }
    result_.calibration_error = expected_calibration_error(confidence_, right);
    result_.mean_confidence = sum / static_cast<double>(best_.size());
    for (const auto& [pair, count] : pairs) result_.confusion.push_back({pair.first, pair.second, count});
    std::stable_sort(result_.confusion.begin(), result_.confusion.end(), [](const Confusion& a, const Confusion& b) { return a.count > b.count; });
    result_.confused_pairs = static_cast<int64_t>(result_.confusion.size());
    if (result_.confusion.size() > options_.worst) result_.confusion.resize(options_.worst);
  }

  void compare() {
    Assessment::Other o;
    for (const auto& [kind, metric] : other_metrics_) o.scores[kind] = metric->value();
    if (result_.metric != MetricKind::kMse) o.drop = metrics_.at(result_.metric)->drop_from(*other_metrics_.at(result_.metric));
    double sum = 0;
    int64_t equal = 0;
    for (const Disagreement& d : differences_) {
      o.largest_error = std::max(o.largest_error, d.largest_error);
      sum += d.largest_error;
      if (!result_.classifies) continue;
      equal += d.first == d.second;
      if (!data_.labelled()) continue;
      bool now = d.first == d.truth + result_.label_offset, before = d.second == d.truth + result_.label_offset;
      o.lost += before && !now;
      o.won += now && !before;
    }
    o.mean_error = sum / static_cast<double>(differences_.size());
    if (result_.classifies) {
      o.agreement = wilson(equal, result_.samples);
      o.different = result_.samples - equal;
      if (data_.labelled()) o.mcnemar = mcnemar(o.lost, o.won);
      std::erase_if(differences_, [](const Disagreement& d) { return d.first == d.second; });
    }
    std::stable_sort(differences_.begin(), differences_.end(), [](const Disagreement& a, const Disagreement& b) { return a.largest_error > b.largest_error; });
    if (!result_.classifies && differences_.size() > options_.worst) differences_.resize(options_.worst);
    o.differences = std::move(differences_);
    result_.other = std::move(o);
  }

  Runner& network_;
  Runner* other_;
  Dataset& data_;
  const AssessOptions& options_;
  Assessment result_;
  std::map<MetricKind, std::unique_ptr<Metric>> metrics_, other_metrics_;
  std::vector<int64_t> best_;
  std::vector<double> confidence_;
  std::vector<Disagreement> differences_;
  int64_t shift_ = 0;  // of the other network's classes to this one's
};

json interval(const Interval& i) { return {{"value", i.value}, {"low", i.low}, {"high", i.high}}; }
json scores_json(const std::map<MetricKind, Interval>& scores) {
  json j = json::object();
  for (const auto& [kind, value] : scores) j[std::string(name_of(kind))] = interval(value);
  return j;
}
json class_or_null(int64_t c) { return c < 0 ? json(nullptr) : json(c); }

}  // namespace

Assessment assess(Runner& network, Runner* other, Dataset& data, const AssessOptions& options) { return Assessor(network, other, data, options).run(); }

json to_json(const Assessment& a) {
  json confusion = json::array();
  for (const Confusion& c : a.confusion) confusion.push_back({{"truth", c.truth}, {"predicted", c.predicted}, {"count", c.count}});
  json j = {{"samples", a.samples}, {"metric", name_of(a.metric)}, {"against", a.against_labels ? "labels" : "the other network"}, {"value", interval(a.scores.at(a.metric))},
            {"scores", scores_json(a.scores)}, {"classifies", a.classifies}, {"label_offset", a.label_offset},
            {"calibration_error", a.calibration_error ? json(*a.calibration_error) : json(nullptr)},
            {"mean_confidence", a.calibration_error ? json(a.mean_confidence) : json(nullptr)}, {"confusion", confusion}, {"confused_pairs", a.confused_pairs}, {"other", nullptr}};
  if (!a.other) return j;
  const Assessment::Other& o = *a.other;
  json differences = json::array();
  for (const Disagreement& d : o.differences)
    differences.push_back({{"sample", d.sample}, {"truth", class_or_null(d.truth)}, {"this", class_or_null(d.first)}, {"other", class_or_null(d.second)},
                           {"largest_error", std::isfinite(d.largest_error) ? json(d.largest_error) : json(nullptr)}});
  j["other"] = {{"scores", scores_json(o.scores)}, {"drop", o.drop ? interval(*o.drop) : json(nullptr)}, {"lost", o.lost}, {"won", o.won},
                {"mcnemar_p", o.mcnemar ? json(*o.mcnemar) : json(nullptr)}, {"agreement", o.agreement ? interval(*o.agreement) : json(nullptr)},
                {"largest_error", std::isfinite(o.largest_error) ? json(o.largest_error) : json(nullptr)}, {"mean_error", std::isfinite(o.mean_error) ? json(o.mean_error) : json(nullptr)},
                {"different", o.different}, {"differences", differences}};
  return j;
}

}  // namespace lathe
