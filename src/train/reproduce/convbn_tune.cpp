// You et al. 2024, Efficient ConvBN Blocks for Transfer Learning and Beyond: Tune has Eval's accuracy, and is stable where Deploy is not. In
// small: a ResNet of an eighth's width and four blocks learns Fashion-MNIST, and goes on with statistics that stay on other pictures of it; and
// networks that others trained on photographs learn Fashion-MNIST.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "formats/onnx.h"
#include "models/builder.h"
#include "train/experiment.h"
#include "train/head.h"
#include "transform/passes.h"

namespace lathe::experiments {
namespace {

constexpr const char* kData = "fashion-mnist";
constexpr double kTuningRate = 1e-3;  // at 0.01 the statistics of a trained mobilenet_v2, which stay, no longer fit its activations after two steps

Graph pretrained(const ReproduceContext& c, const std::string& network, std::map<std::string, std::string> set, double width, std::vector<int64_t> depths) {
  TrainSettings s{.epochs = c.quick ? 2.0 : 4.0, .batch = 64, .rate = 2e-3, .warm_up = 0.2};
  s.width = width;
  s.depths = std::move(depths);
  s.set = std::move(set);
  s.threads = 1;
  s.device = c.device;
  s.seed = c.seed;
  return train(training_request(network, open_dataset(fmt::format("{},limit={},limit-evaluation=100", kData, c.quick ? 4000 : 20000)), s), told(c, network + " learns")).network;
}

TrainRequest tuning(const ReproduceContext& c, const Graph& network, const DataParts& data, ConvBnMode mode, double rate, double epochs, uint64_t seed) {
  TrainRequest r;
  r.network = network;
  r.name = "tuned";
  r.data = data;
  r.options.optimizer = {.name = "sgd", .weight_decay = 5e-4};
  r.options.schedule = {.rate = rate, .last = 0, .epochs = epochs};
  r.options.loader.batch = 64;
  const ChannelStatistics statistics = channel_statistics(*data.train);
  r.options.loader.mean = statistics.mean, r.options.loader.std = statistics.std;
  r.options.conv_bn = mode;
  r.options.threads = 1;
  r.options.device = c.device;
  r.options.seed = seed;
  return r;
}

struct Network {
  const char* name;
  std::map<std::string, std::string> set;
  double width;
  std::vector<int64_t> depths;
};
const std::vector<Network>& networks() {
  static const std::vector<Network> all = {{"resnet18", {{"stem", "small"}}, 0.125, {1, 1, 1, 1}}, {"mobilenet_v2", {}, 0.25, {}}, {"mobilenet_v1", {}, 0.25, {}}};
  return all;
}

CheckResult tune_has_evals_accuracy(const ReproduceContext& c) {
  if (const std::string why = missing_data(kData); !why.empty()) return CheckResult::skipped(why);
  const DataParts data = open_dataset(fmt::format("{},limit={},limit-validation=500,seed=7", kData, c.quick ? 2000 : 10000));
  std::string measured;
  bool within = true;
  for (size_t i = 0; i < (c.quick ? 1 : networks().size()); ++i) {
    const Network& n = networks()[i];
    const Graph start = pretrained(c, n.name, n.set, n.width, n.depths);
    Scores eval, tune;
    const auto seeds = static_cast<size_t>(c.seeds > 0 ? c.seeds : c.quick ? 2 : 3);
    eval.values.resize(seeds), tune.values.resize(seeds);
    in_jobs(c, 2 * seeds, [&](size_t job) {
      const uint64_t seed = c.seed + job / 2;
      const ConvBnMode mode = job % 2 == 0 ? ConvBnMode::kEval : ConvBnMode::kTune;
      const auto progress = told(c, fmt::format("{}, {}, seed {}", n.name, name_of(mode), seed));
      (mode == ConvBnMode::kEval ? eval : tune).values[job / 2] = 100 * train(tuning(c, start, data, mode, kTuningRate, c.quick ? 2 : 4, seed), progress).test_score;
    });
    const Gap g = gap(tune, eval);
    within = within && std::abs(g.points) <= std::max(2 * g.error, 0.1);
    measured += fmt::format("{}{}: tune {} %, eval {} % ({})", measured.empty() ? "" : "; ", n.name, tune.text(), eval.text(), g.text());
  }
  return CheckResult::of(within, measured);
}

// Whether an epoch at this rate ends with a loss below the one it began with.
bool learns(const ReproduceContext& c, const Graph& start, const DataParts& data, ConvBnMode mode, double rate) {
  try {
    TrainRequest r = tuning(c, start, data, mode, rate, 1, c.seed);
    r.options.schedule.name = "constant";
    const TrainResult done = train(std::move(r));
    return std::isfinite(done.epochs.back().loss) && done.test_score > 0.5;
  } catch (const Error&) {
    return false;
  }
}

// The largest rates, doubled from 1e-4 on, at which an epoch of fine-tuning learns, and what makes them differ.
struct Stability {
  double tune = 0, deploy = 0;
  double least = 1e300, most = 0;  // of channels' 1/c² = (σ² + ε) / γ²: how many times as large as Eval's Deploy's steps are
};

Stability stability(const ReproduceContext& c, const std::string& name, const Graph& start, const DataParts& data) {
  Stability s;
  for (const ConvBnMode mode : {ConvBnMode::kTune, ConvBnMode::kDeploy})
    for (double rate = 1e-4; rate < 20; rate *= 2) {
      c.tell(fmt::format("{}, {} at a rate of {:.2g}", name, name_of(mode), rate));
      if (!learns(c, start, data, mode, rate)) break;
      (mode == ConvBnMode::kTune ? s.tune : s.deploy) = rate;
    }
  for (const ConvBn& pair : find_conv_bn(start)) {
    const Node& norm = start[pair.batch_norm];
    const Tensor &gamma = start[norm.inputs[1]].constant, &variance = start[norm.inputs[4]].constant;
    for (int64_t i = 0; i < gamma.size(); ++i) {
      const double factor = (variance.get(i) + norm.get_float("epsilon")) / (gamma.get(i) * gamma.get(i));
      s.least = std::min(s.least, factor), s.most = std::max(s.most, factor);
    }
  }
  return s;
}

// A larger stable rate of Tune's in most of the networks.
CheckResult compared(const ReproduceContext& c, const std::vector<std::string>& names, const std::function<Stability(size_t)>& of) {
  std::vector<Stability> found(names.size());
  in_jobs(c, names.size(), [&](size_t i) { found[i] = of(i); });
  std::string measured;
  size_t shown = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    const Stability& s = found[i];
    shown += s.deploy < s.tune ? 1 : 0;
    measured += fmt::format("{}{}: largest stable rate {:.2g} of tune, {:.2g} of deploy (ratio {:.2g}); 1/c² of channels from {:.2g} to {:.2g}", i > 0 ? "; " : "", names[i], s.tune, s.deploy,
                            s.tune / std::max(s.deploy, 1e-12), s.least, s.most);
  }
  return CheckResult::of(2 * shown > names.size(), measured);
}

CheckResult deploy_diverges(const ReproduceContext& c) {
  if (const std::string why = missing_data(kData); !why.empty()) return CheckResult::skipped(why);
  const DataParts data = open_dataset(fmt::format("{},limit=1000,limit-evaluation=1000,seed=7", kData));
  std::vector<std::string> names;
  for (const Network& n : networks())
    if (!c.quick || names.empty()) names.emplace_back(n.name);
  return compared(c, names, [&](size_t i) {
    const Network& n = networks()[i];
    return stability(c, n.name, pretrained(c, n.name, n.set, n.width, n.depths), data);
  });
}

// A network from a file; the weights of its new last layer, and nothing else of it, have learnt the data.
Graph with_new_head(const ReproduceContext& c, const std::string& file, const DataParts& data) {
  Graph g = import_onnx(file).graph;
  open_batch(g);
  const std::string head = replace_head(g, static_cast<int64_t>(data.train->classes().size()), c.seed);
  std::vector<std::string> rest;
  for (const ValueId id : parameters_of(g).trained)
    if (g[id].name != head) rest.push_back(g[id].name);
  TrainRequest r = tuning(c, g, data, ConvBnMode::kEval, 0.02, 4, c.seed);
  r.options.freeze = rest;
  return train(std::move(r)).network;
}

CheckResult deploy_diverges_on_published(const ReproduceContext& c) {
  if (const std::string why = missing_data(kData); !why.empty()) return CheckResult::skipped(why);
  std::vector<std::string> names, files;
  for (const char* name : {"resnet20_cifar10", "resnet56_cifar10", "mobilenet_v1_025_224"}) {
    const std::filesystem::path file = std::filesystem::path(c.assets) / "models" / (std::string(name) + ".onnx");
    if (c.assets.empty() || !std::filesystem::exists(file) || (c.quick && !names.empty())) continue;
    names.emplace_back(name), files.push_back(file.string());
  }
  if (names.empty()) return CheckResult::skipped("no folder with models/ was given (--assets)");
  const DataParts data = open_dataset(fmt::format("{},limit=1000,limit-evaluation=1000,seed=7,colors=RGB", kData));
  return compared(c, names, [&](size_t i) {
    c.tell(fmt::format("{}: a new last layer learns", names[i]));
    return stability(c, names[i], with_new_head(c, files[i], data), data);
  });
}

}  // namespace

Reproduction convbn_tune() {
  return {"convbn-tune", "Convolutions with batch norms in four modes", "You et al. 2024, arXiv 2305.11624",
          {{"tune has eval's accuracy", "performance kept (abstract)", "within two standard errors, or 0.1 points", true, tune_has_evals_accuracy},
           {"tune is stable where deploy is not", "deploy: training instability (section 3.2)", "a larger rate at which an epoch learns, on most of three networks (--quick: on one)", true, deploy_diverges},
           {"and in published networks", "deploy: training instability (section 3.2)", "the same for networks trained on CIFAR-10 and ImageNet (--assets), which learn Fashion-MNIST", true, deploy_diverges_on_published}}};
}

}  // namespace lathe::experiments
