#include "train/train_model.h"

#include <filesystem>

#include "formats/onnx.h"
#include "models/models.h"
#include "train/head.h"
#include "train/trainer.h"
#include "transform/passes.h"

namespace lathe {

namespace {

// The network to be trained, and what it is called.
Graph network_of(const std::string& network, const TrainSettings& s, const DataParts& data, std::string* name, const std::function<void(const std::string&)>& notice) {
  const auto classes = static_cast<int64_t>(data.train->classes().size());
  if (s.new_head || network.ends_with(".onnx") || std::filesystem::exists(network)) {
    Graph g = import_onnx(network).graph;
    open_batch(g);
    *name = std::filesystem::path(network).stem().string();
    if (s.new_head) notice(fmt::format("new last layer: {} of {} classes", replace_head(g, classes, s.seed), classes));
    return g;
  }
  const ModelEntry& m = find_model(network);
  *name = m.name;
  BuildOptions o{.classes = classes, .input = s.input, .width = s.width, .depths = s.depths, .widths = s.widths, .more = s.set, .seed = s.seed, .training = true};
  const Shape sample = data.train->sample(0).input.shape();
  if (o.input.empty() && sample.size() == m.input.size()) {
    // Small samples have one size, as those of IDX, CIFAR and generated sets; photographs take the published one.
    o.input = sample.back() <= 128 ? sample : m.input;
    o.input[0] = sample[0];
  }
  return build_model(m, o);
}

TrainOptions options_of(const TrainSettings& s, const DataParts& data) {
  TrainOptions o;
  const bool sgd = s.optimizer == "sgd";
  o.optimizer = {.name = s.optimizer, .momentum = s.momentum, .nesterov = s.nesterov, .weight_decay = s.weight_decay >= 0 ? s.weight_decay : sgd ? 5e-4 : 0.05};
  o.schedule = {.name = s.schedule, .rate = s.rate > 0 ? s.rate : sgd ? 0.05 : s.optimizer == "lamb" ? 5e-3 : 1e-3, .warm_up = s.warm_up, .last = s.last_rate, .epochs = s.epochs};
  LoaderOptions& l = o.loader;
  l.batch = s.batch;
  l.augment = parse_augment(s.augment);
  l.mixup = s.mixup, l.cutmix = s.cutmix;
  l.threads = s.loader_threads;
  if (s.mean.empty() || s.std.empty()) {
    const ChannelStatistics found = channel_statistics(*data.train);
    l.mean = found.mean, l.std = found.std;
  }
  if (!s.mean.empty()) l.mean.assign(s.mean.begin(), s.mean.end());
  if (!s.std.empty()) l.std.assign(s.std.begin(), s.std.end());
  o.accumulate = s.accumulate, o.clip = s.clip, o.label_smoothing = s.smoothing, o.ema = s.ema, o.bf16 = s.bf16, o.recompute = s.recompute;
  o.conv_bn = conv_bn_mode(!s.conv_bn.empty() ? s.conv_bn : s.new_head ? "tune" : "train");
  o.freeze = s.freeze;
  o.quantize = s.quantize;
  o.distill = s.distill, o.temperature = s.temperature;
  o.device = s.device, o.threads = s.threads, o.seed = s.seed, o.resume = s.resume, o.checkpoint_seconds = s.checkpoint_seconds, o.most_steps = s.most_steps;
  return o;
}

}  // namespace

TrainRequest training_request(const std::string& network, const DataParts& data, const TrainSettings& s) {
  const auto notice = [&](const std::string& line) {
    if (s.notice) s.notice(line);
  };
  TrainRequest r;
  r.data = data;
  r.network = network_of(network, s, r.data, &r.name, notice);
  r.options = options_of(s, r.data);
  if (!s.teacher.empty()) {
    Graph teacher = import_onnx(s.teacher).graph;
    open_batch(teacher);
    r.teacher = std::make_shared<Graph>(std::move(teacher));
    r.notes["teacher_file"] = s.teacher;
  }
  return r;
}

TrainReport run_training(const std::string& network, const std::string& data, const std::string& output, const TrainSettings& s) {
  const auto notice = [&](const std::string& line) {
    if (s.notice) s.notice(line);
  };
  const bool there = std::filesystem::exists(output + "/checkpoint.safetensors");
  if (there && !s.resume && !s.force) fail(ErrorKind::kUsage, "{} holds a training: go on with --resume, or begin anew with --force", output);
  if (!there && s.resume) fail(ErrorKind::kInput, "{} holds no checkpoint to resume from", output);
  const DataParts parts = open_dataset(data);
  notice(parts.description);
  TrainRequest r = training_request(network, parts, s);
  r.folder = output;
  const ModelCounts counts = count_model(r.network);
  notice(fmt::format("{}: input {}, {} parameters, {} MACs; {} samples to learn from, {} to validate, {} to test; seed {}", r.name, to_string(*r.network[r.network.inputs[0]].shape), counts.parameters,
                     counts.macs, r.data.train->size(), r.data.validation->size(), r.data.test->size(), s.seed));
  std::stop_source stop;
  const auto progress = [&](const TrainProgress& p) {
    if (s.progress && !s.progress({p.epoch, p.epochs, p.batch, p.batches, p.loss, p.measure, p.score, p.learning_rate, p.seconds, p.seconds_left, p.epoch_done, p.validation_score})) stop.request_stop();
  };
  const TrainResult done = train(std::move(r), progress, stop.get_token());
  for (const std::string& line : done.notices) notice(line);
  return {.model = done.stopped ? "" : output + "/model.onnx", .epochs = static_cast<int64_t>(done.epochs.size()), .measure = done.measure, .test_score = done.test_score, .torch_score = done.torch_score,
          .seconds = done.seconds, .waited_for_data = done.waited, .stopped = done.stopped};
}

}  // namespace lathe
