#include "train/experiment.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

namespace lathe {

double Scores::mean() const { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(std::max<size_t>(values.size(), 1)); }
double Scores::deviation() const {
  if (values.size() < 2) return 0;
  double sum = 0;
  for (double v : values) sum += (v - mean()) * (v - mean());
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}
double Scores::error() const { return deviation() / std::sqrt(static_cast<double>(std::max<size_t>(values.size(), 1))); }
std::string Scores::text() const { return fmt::format("{:.2f} ± {:.2f}", mean(), deviation()); }

std::string Gap::text() const { return fmt::format("{:+.2f} ± {:.2f}", points, error); }
Gap gap(const Scores& a, const Scores& b) { return {a.mean() - b.mean(), std::hypot(a.error(), b.error())}; }

Scores scores_of(const ReproduceContext& context, const std::string& name, const Experiment& e, int seeds) {
  Scores scores;
  const DataParts data = open_dataset(e.data);
  for (int i = 0; i < seeds; ++i) {
    TrainSettings s = e.settings;
    s.seed = context.seed + static_cast<uint64_t>(i);
    const auto progress = [&](const TrainProgress& p) {
      context.tell(fmt::format("{}, seed {}: epoch {} of {}, {:.0f} %, {} {:.1f} %", name, s.seed, p.epoch + 1, p.epochs, 100.0 * static_cast<double>(p.batch) / static_cast<double>(p.batches), p.measure, 100 * p.score));
    };
    scores.values.push_back(100 * train(training_request(e.network, data, s), progress).test_score);
  }
  return scores;
}

std::string missing_data(const std::string& data) {
  try {
    open_dataset(data);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace lathe
