#include "train/experiment.h"

#include <fmt/format.h>

#include <atomic>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <numeric>
#include <stop_token>
#include <thread>

#include "quantize/quantize.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Letters and digits of it, with - between.
std::string file_name(const std::string& name) {
  std::string text;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c))) text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (!text.empty() && text.back() != '-') text += '-';
  }
  return text;
}

}  // namespace

double Scores::mean() const { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(std::max<size_t>(values.size(), 1)); }
double Scores::deviation() const {
  if (values.size() < 2) return 0;
  double sum = 0;
  for (double v : values) sum += (v - mean()) * (v - mean());
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}
double Scores::error() const { return deviation() / std::sqrt(static_cast<double>(std::max<size_t>(values.size(), 1))); }
std::string Scores::text() const { return values.size() > 1 ? fmt::format("{:.2f} ± {:.2f}", mean(), deviation()) : fmt::format("{:.2f}", mean()); }

Experiment on_fashion(const ReproduceContext& context, std::string name, std::string network, double epochs, double quick_epochs, int quick_limit) {
  const bool quick = context.quick;
  TrainSettings s{.epochs = quick ? quick_epochs : epochs, .batch = quick ? 64 : 128, .rate = 2e-3, .warm_up = quick ? 0.5 : 1.0, .augment = "flip,crop=2"};
  return {std::move(name), std::move(network), quick ? fmt::format("fashion-mnist,limit={},limit-validation=500", quick_limit) : "fashion-mnist", std::move(s)};
}

void learn_longer(TrainSettings& s, double epochs) {
  s.epochs = epochs;
  s.batch = 128, s.rate = 2e-3;
  s.augment = "flip,crop=2,erase=0.25";
  s.ema = 0.999;
  s.smoothing = 0.1;
}

std::string Gap::text() const { return fmt::format("{:+.2f} ± {:.2f}", points, error); }
Gap gap(const Scores& a, const Scores& b) { return {a.mean() - b.mean(), std::hypot(a.error(), b.error())}; }

void in_jobs(const ReproduceContext& context, size_t count, const std::function<void(size_t)>& one) {
  size_t jobs = static_cast<size_t>(context.jobs);
  if (jobs == 0) jobs = context.device == "cpu" ? std::max(1U, std::thread::hardware_concurrency()) : 1;
  std::atomic<size_t> next = 0;
  std::vector<std::future<void>> workers;
  for (size_t w = 0; w < std::min(count, jobs); ++w)
    workers.push_back(std::async(std::launch::async, [&] {
      for (size_t i = next++; i < count; i = next++) one(i);
    }));
  for (std::future<void>& w : workers) w.wait();
  for (std::future<void>& w : workers) w.get();
}

namespace {

std::string where(const std::string& name, const TrainProgress& p) {
  return fmt::format("{}: epoch {} of {}, {:.0f} %, {} {:.1f} %", name, p.epoch + 1, p.epochs, 100.0 * static_cast<double>(p.batch) / static_cast<double>(p.batches), p.measure, 100 * p.score);
}

TrainResult trained(const ReproduceContext& context, const Experiment& e, const DataParts& data, uint64_t seed) {
  TrainSettings s = e.settings;
  s.seed = seed;
  s.threads = 1;
  s.device = context.device;
  std::stop_source stop;  // with a checkpoint
  const std::string name = fmt::format("{}, seed {}", e.name, seed);
  const auto progress = [&](const TrainProgress& p) {
    if (context.stopping()) stop.request_stop();
    else if (context.progress) context.progress(where(name, p));
  };
  TrainRequest r = training_request(e.network, data, s);
  if (e.teacher) r.teacher = std::make_shared<Graph>(trained(context, *e.teacher, data, seed).network);
  if (!context.keep.empty()) r.folder = fmt::format("{}/{}-{}", context.keep, file_name(e.name), s.seed);
  r.options.resume = context.resume && std::filesystem::exists(r.folder + "/checkpoint.safetensors");
  TrainResult result = train(std::move(r), progress, stop.get_token());
  if (result.stopped && stop.stop_requested()) throw Stopped();
  return result;
}

}  // namespace

std::function<void(const TrainProgress&)> told(const ReproduceContext& context, std::string name) {
  return [&context, name = std::move(name)](const TrainProgress& p) { context.tell(where(name, p)); };
}

std::vector<TrainResult> trained(const ReproduceContext& context, const std::vector<Experiment>& experiments, int seeds) {
  std::map<std::string, DataParts> data;
  for (const Experiment& e : experiments)
    if (!data.contains(e.data)) data[e.data] = open_dataset(e.data);
  const auto each = static_cast<size_t>(context.seeds > 0 ? context.seeds : seeds);
  std::vector<TrainResult> results(experiments.size() * each);
  in_jobs(context, results.size(), [&](size_t i) {
    const Experiment& e = experiments[i / each];
    results[i] = trained(context, e, data.at(e.data), context.seed + i % each);
  });
  return results;
}

Scores scores(std::span<const TrainResult> results) {
  Scores s;
  for (const TrainResult& r : results) {
    s.values.push_back(100 * r.test_score);
    s.disagreement = std::max(s.disagreement, 100 * std::abs(r.test_score - r.torch_score));
    s.seconds += r.seconds;
  }
  return s;
}

std::vector<Scores> scores_of(const ReproduceContext& context, const std::vector<Experiment>& experiments, int seeds) {
  const std::vector<TrainResult> results = trained(context, experiments, seeds);
  const size_t each = results.size() / std::max<size_t>(experiments.size(), 1);
  std::vector<Scores> all;
  for (size_t i = 0; i < experiments.size(); ++i) all.push_back(scores(std::span(results).subspan(i * each, each)));
  return all;
}

double quantized_score(const Experiment& e, const Graph& network, std::string_view scheme) {
  const DataParts data = open_dataset(e.data);
  const LoaderOptions options = training_request(e.network, data, e.settings).options.loader;
  LoaderOptions one = once(options);
  one.batch = 1;
  Loader loader(data.train, one);
  std::vector<Tensor> seen;
  for (int64_t i = 0; i < std::min<int64_t>(64, loader.batches()); ++i) seen.push_back(loader.next().inputs);
  Graph g = network;
  clean_up(g);
  return 100 * engine_score(quantize_network(g, parse_scheme(scheme), {seen.size(), [&](size_t i) { return std::vector<Tensor>{seen[i]}; }}).graph, data.test, options, 1);
}

CheckResult reaches(const ReproduceContext& context, const Experiment& e, double percent, int seeds) {
  if (const std::string why = missing_data(e.data); !why.empty()) return CheckResult::skipped(why);
  const Scores s = scores_of(context, {e}, seeds)[0];
  return CheckResult::of(s.mean() >= percent && s.disagreement <= 0.1,
                         fmt::format("{} %{}, engine and libtorch {:.2f} points apart, {:.0f} s each", s.text(), s.values.size() > 1 ? fmt::format(" ({} seeds)", s.values.size()) : "", s.disagreement,
                                     s.seconds / static_cast<double>(s.values.size())));
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
