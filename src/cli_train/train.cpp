#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <stop_token>

#include "formats/onnx.h"
#include "models/models.h"
#include "options.h"
#include "train/head.h"
#include "train/trainer.h"
#include "train_options.h"
#include "transform/passes.h"

namespace lathe::cli {

namespace {

std::string time_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02} h", s / 3600, s / 60 % 60);
}

class Progress {
 public:
  void operator()(const TrainProgress& p) {
    if (!p.epoch_done && !terminal_) return;
    std::string line = fmt::format("epoch {}/{}  {:>5}/{}  loss {:.4f}  accuracy {:5.2f} %", p.epoch + 1, p.epochs, p.batch, p.batches, p.loss, 100 * p.accuracy);
    if (p.validation_accuracy >= 0) line += fmt::format("  validation {:5.2f} %", 100 * p.validation_accuracy);
    line += p.epoch_done ? fmt::format("  {}", time_text(p.seconds)) : fmt::format("  rate {:.2e}  {} left", p.learning_rate, time_text(p.seconds_left));
    fmt::print(stderr, "{}{}{}", terminal_ ? "\r\x1b[K" : "", line, p.epoch_done ? "\n" : "");
    std::fflush(stderr);
  }

 private:
  bool terminal_ = ::isatty(2);
};

std::vector<int64_t> numbers(std::string text, const char* option) {
  if (text.empty()) return {};
  const std::string given = text;
  std::replace(text.begin(), text.end(), ',', 'x');
  return parse_sizes(text, fmt::format("{} {}: expected numbers with commas between them", option, given));
}

// The network to be trained, and what it is called.
Graph network_of(const TrainCommand& c, const DataParts& data, std::string* name) {
  const auto classes = static_cast<int64_t>(data.train->classes().size());
  const bool file = c.network.ends_with(".onnx") || std::filesystem::exists(c.network);
  if (c.finetune || file) {
    Graph g = import_onnx(c.network).graph;
    open_batch(g);
    *name = std::filesystem::path(c.network).stem().string();
    if (c.finetune) {
      const std::string head = replace_head(g, classes, c.seed);
      fmt::print(stderr, "new last layer: {} of {} classes\n", head, classes);
    }
    return g;
  }
  const ModelEntry& m = find_model(c.network);
  *name = m.name;
  BuildOptions o{.classes = classes, .width = c.width, .depths = numbers(c.depths, "--depths"), .widths = numbers(c.widths, "--widths"), .seed = c.seed, .training = true};
  const Shape sample = data.train->sample(0).input.shape();
  if (!c.input.empty()) {
    o.input = parse_sizes(c.input, fmt::format("--input {}: expected sizes as 3x224x224", c.input));
  } else if (sample.size() == m.input.size()) {
    // Small samples have one size, as those of IDX, CIFAR and generated sets; photographs take the published one.
    o.input = sample.back() <= 128 ? sample : m.input;
    o.input[0] = sample[0];
  }
  for (const std::string& text : c.set) {
    const size_t equals = text.find('=');
    if (equals == text.npos) fail(ErrorKind::kUsage, "--set {}: expected KEY=VALUE", text);
    o.more[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return build_model(m, o);
}

TrainOptions options_of(const TrainCommand& c, const DataParts& data) {
  TrainOptions o;
  o.optimizer = {.name = c.optimizer, .momentum = c.momentum, .nesterov = !c.no_nesterov, .weight_decay = c.weight_decay >= 0 ? c.weight_decay : c.optimizer == "sgd" ? 5e-4 : 0.05};
  o.schedule = {.name = c.schedule, .rate = c.rate > 0 ? c.rate : c.optimizer == "sgd" ? 0.05 : c.optimizer == "lamb" ? 5e-3 : 1e-3, .warm_up = c.warm_up, .last = c.last_rate, .epochs = c.epochs};
  LoaderOptions& l = o.loader;
  l.batch = c.batch;
  l.augment = parse_augment(c.augment);
  l.mixup = c.mixup, l.cutmix = c.cutmix;
  l.threads = c.loader_threads;
  const auto floats = [](const std::vector<double>& list) { return std::vector<float>(list.begin(), list.end()); };
  if (c.mean.empty() || c.std.empty()) {
    const ChannelStatistics s = channel_statistics(*data.train);
    l.mean = s.mean, l.std = s.std;
  }
  if (!c.mean.empty()) l.mean = floats(c.mean);
  if (!c.std.empty()) l.std = floats(c.std);
  o.accumulate = c.accumulate, o.clip = c.clip, o.label_smoothing = c.smoothing, o.ema = c.ema, o.bf16 = c.bf16, o.recompute = c.recompute;
  o.conv_bn = conv_bn_mode(!c.conv_bn.empty() ? c.conv_bn : c.finetune ? "tune" : "train");
  o.freeze = c.freeze;
  o.distill = c.distill, o.temperature = c.temperature;
  o.threads = c.threads, o.seed = c.seed, o.resume = c.resume, o.checkpoint_seconds = c.checkpoint_seconds, o.most_steps = c.most_steps;
  return o;
}

}  // namespace

void train_command(const TrainCommand& c, std::stop_token stop) {
  const bool there = std::filesystem::exists(c.output + "/checkpoint.safetensors");
  if (there && !c.resume && !c.force) fail(ErrorKind::kUsage, "{} holds a training: go on with --resume, or begin anew with --force", c.output);
  if (!there && c.resume) fail(ErrorKind::kInput, "{} holds no checkpoint to resume from", c.output);
  TrainRequest r;
  r.data = open_dataset(c.data);
  fmt::print(stderr, "{}\n", r.data.description);
  r.network = network_of(c, r.data, &r.name);
  const ModelCounts counts = count_model(r.network);
  r.options = options_of(c, r.data);
  r.folder = c.output;
  if (!c.teacher.empty()) {
    Graph teacher = import_onnx(c.teacher).graph;
    open_batch(teacher);
    r.teacher = std::make_shared<Graph>(std::move(teacher));
    r.notes["teacher_file"] = c.teacher;
  }
  fmt::print(stderr, "{}: input {}, {} parameters, {} MACs; {} samples to learn from, {} to validate, {} to test; seed {}\n", r.name, to_string(*r.network[r.network.inputs[0]].shape), counts.parameters,
             counts.macs, r.data.train->size(), r.data.validation->size(), r.data.test->size(), c.seed);
  Progress progress;
  const TrainResult done = train(std::move(r), [&](const TrainProgress& p) { progress(p); }, std::move(stop));
  if (done.stopped) {
    fmt::print(stderr, "\nstopped; {}/checkpoint.safetensors holds the state: the same command with --resume goes on\n", c.output);
    if (c.json) fmt::print("{}\n", nlohmann::json{{"stopped", true}, {"output", c.output}}.dump());
    return;
  }
  const std::string model = c.output + "/model.onnx";
  if (c.json) {
    nlohmann::json j = {{"output", c.output}, {"model", model}, {"epochs", done.epochs.size()}, {"seconds", done.seconds}, {"waited_for_data", done.waited}, {"test_accuracy", nullptr}};
    if (done.test_accuracy >= 0) j["test_accuracy"] = done.test_accuracy, j["torch_test_accuracy"] = done.torch_accuracy;
    fmt::print("{}\n", j.dump());
    return;
  }
  if (done.test_accuracy >= 0) fmt::print("test accuracy {:.2f} % in lathe's engine, {:.2f} % in libtorch\n", 100 * done.test_accuracy, 100 * done.torch_accuracy);
  fmt::print("{} ({}, {:.0f} % of it waiting for data); log in {}/log.html\n", model, time_text(done.seconds), done.seconds > 0 ? 100 * done.waited / done.seconds : 0.0, c.output);
}

}  // namespace lathe::cli
