#include "optimize/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lathe {
namespace {

constexpr int64_t kKeptBytes = int64_t{1} << 29;  // of the original's answers

std::vector<Tensor> copy_of(const std::vector<Tensor>& borrowed) {
  std::vector<Tensor> own;
  own.reserve(borrowed.size());
  for (const Tensor& t : borrowed) own.push_back(t.clone());
  return own;
}

int64_t bytes_of(const std::vector<Tensor>& tensors) {
  int64_t bytes = 0;
  for (const Tensor& t : tensors) bytes += static_cast<int64_t>(t.bytes());
  return bytes;
}

bool holds_nan(const Tensor& t) {
  if (!is_float(t.dtype())) return false;
  if (t.dtype() == DType::kF32) return std::any_of(t.data<float>(), t.data<float>() + t.size(), [](float x) { return std::isnan(x); });
  for (int64_t i = 0; i < t.size(); ++i)
    if (std::isnan(t.get(i))) return true;
  return false;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void take(const Tensor& t) {
    for (int64_t i = 0; i < t.size(); ++i)
      if (double x = t.get(i); std::isfinite(x)) low = std::min(low, x), high = std::max(high, x);
  }
  // An output that never changes is measured by its own size.
  double width() const {
    if (high < low) return 1;
    return std::max({high - low, 1e-6 * std::max(std::fabs(low), std::fabs(high)), 1e-30});
  }
};

}  // namespace

double largest_relative_error(const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) {
  double worst = 0;
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  for (size_t o = 0; o < expected.size(); ++o) {
    if (actual[o].shape() != expected[o].shape()) return std::numeric_limits<double>::infinity();
    Range range;
    range.take(expected[o]);
    for (int64_t i = 0; i < expected[o].size(); ++i) {
      double a = actual[o].get(i), e = expected[o].get(i);
      if (std::isnan(a) && std::isnan(e)) continue;
      double error = a == e ? 0 : std::fabs(a - e) / range.width();
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
  }
  return worst;
}

Evaluation::Evaluation(Runner& original, Dataset& data, const Progress& progress, std::optional<MetricKind> metric, std::vector<MetricKind> others)
    : original_(original), data_(data), others_(std::move(others)) {
  std::vector<Range> ranges;
  int64_t kept = 0, classes = 0, right[2] = {0, 0};
  for (size_t i = 0; i < data.size(); ++i) {
    const std::vector<Tensor>& out = original.run(data.inputs(i));
    ranges.resize(out.size());
    for (size_t o = 0; o < out.size(); ++o) {
      ranges[o].take(out[o]);
      if (holds_nan(out[o]))
        fail(ErrorKind::kModel, "the model's answer to {} holds NaN (output {}): there is nothing that others could be compared with", data.name(i), o);
    }
    if (i == 0) {
      classifies_ = (data.pictures() || data.labelled()) && is_class_scores(out);
      classes = classifies_ ? out[0].size() : 0;
    }
    if (classifies_) {
      best_.push_back(best_class(out[0]));
      for (int64_t offset : {0, 1}) right[offset] += data.label(i) >= 0 && data.label(i) + offset == best_.back();
    }
    if (i == 0 || (kept_.size() == i && kept + bytes_of(out) <= kKeptBytes)) {
      kept += bytes_of(out);
      kept_.push_back(copy_of(out));
    }
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(data.size()));
  }
  for (const Range& r : ranges) range_.push_back(r.width());
  metric_ = metric ? *metric : default_metric(data, example());
  std::erase(others_, metric_);
  if (classifies_ && data.labelled()) {
    // TensorFlow's ImageNet networks put "background" before the labels' class 0. With the wrong offset next
    // to nothing is right, so that the data tell which it is.
    label_offset_ = right[1] > right[0] ? 1 : 0;
    for (size_t i = 0; i < data.size(); ++i)
      if (data.label(i) + label_offset_ >= classes)
        fail(ErrorKind::kInput, "{} has class {}, but the network tells only {} classes apart", data.name(i), data.label(i), classes);
  }
  // What does not suit is told before anything is measured.
  for (MetricKind kind : others_) make_metric(kind, data_, {label_offset_}, example());
  make_metric(metric_, data_, {label_offset_}, example());
}

std::vector<Tensor> Evaluation::answers(size_t sample) {
  return sample < kept_.size() ? kept_[sample] : copy_of(original_.run(data_.inputs(sample)));
}

std::optional<Interval> Evaluation::accuracy() const {
  if (!classifies_ || !data_.labelled()) return std::nullopt;
  int64_t right = 0;
  for (size_t i = 0; i < best_.size(); ++i) right += best_[i] == data_.label(i) + label_offset_;
  return wilson(right, static_cast<int64_t>(best_.size()));
}

Quality Evaluation::compare(Runner& candidate, const Progress& progress, size_t samples) {
  Quality q;
  double error_sum = 0, signal = 0, noise = 0;
  int64_t elements = 0, equal = 0, compared = 0, right = 0;
  const ClassRules rules{label_offset_};
  std::unique_ptr<Metric> before = make_metric(metric_, data_, rules, example());
  std::map<MetricKind, std::unique_ptr<Metric>> metrics;
  for (MetricKind kind : others_) metrics[kind] = make_metric(kind, data_, rules, example());
  metrics[metric_] = make_metric(metric_, data_, rules, example());
  const size_t count = samples == 0 ? data_.size() : std::min(samples, data_.size());
  for (size_t step = 0; step < count; ++step) {
    const size_t i = step * data_.size() / count;
    std::vector<Tensor> expected = answers(i);  // before the run: both may be the same session
    const std::vector<Tensor>& actual = candidate.run(data_.inputs(i));
    if (actual.size() != expected.size()) fail(ErrorKind::kModel, "there are {} outputs where the original has {}", actual.size(), expected.size());
    for (size_t o = 0; o < expected.size(); ++o) {
      const Tensor &e = expected[o], &a = actual[o];
      bool whole = !is_float(e.dtype());
      if (a.shape() != e.shape())
        fail(ErrorKind::kModel, "output {} has shape {} where the original gives {}", o, to_string(a.shape()), to_string(e.shape()));
      for (int64_t k = 0; k < e.size(); ++k) {
        double x = a.get(k), y = e.get(k);
        if (whole) {
          equal += x == y;
          ++compared;
          continue;
        }
        if (!std::isfinite(y)) continue;
        if (!std::isfinite(x)) {
          q.finite = false;
          continue;
        }
        double difference = std::fabs(x - y) / range_[o];
        q.largest_error = std::max(q.largest_error, difference);
        error_sum += difference;
        ++elements;
        signal += y * y;
        noise += (x - y) * (x - y);
      }
    }
    if (classifies_) {
      int64_t best = best_class(actual[0]);
      equal += best == best_[i];
      ++compared;
      if (data_.labelled()) right += best == data_.label(i) + label_offset_;
    }
    if (q.finite) {  // else there is no metric
      for (auto& [kind, metric] : metrics) metric->add(i, actual, expected);
      before->add(i, expected, expected);
    }
    if (progress) progress(static_cast<double>(step + 1) / static_cast<double>(count));
  }
  q.samples = static_cast<int64_t>(count);
  q.mean_error = elements ? error_sum / static_cast<double>(elements) : 0;
  if (noise > 0 && signal > 0) q.signal_to_noise = 10 * std::log10(signal / noise);
  if (compared) q.agreement = wilson(equal, compared);
  if (classifies_ && data_.labelled()) q.accuracy = wilson(right, q.samples);
  if (!q.finite) return q;
  for (const auto& [kind, metric] : metrics) q.scores[kind] = metric->value();
  // The same outputs to the bit are the same network: then there is nothing uncertain about the drop.
  bool same = noise == 0 && (compared == 0 || equal == compared);
  if (metric_ != MetricKind::kMse) q.drop = same ? Interval{} : metrics[metric_]->drop_from(*before);
  return q;
}

}  // namespace lathe
