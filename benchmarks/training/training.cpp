// What a training step through the Graph costs beside the same network written by hand on libtorch: ResNet-18, SGD, alternating
// steps in one process; and what memory and time convolutions with batch norms take in their modes.
//
//   bench_training resnet18 [--batch 32 --side 224 --threads 2 --turns 5]
//   bench_training convbn NETWORK [--batch 32 --side 96 --threads 1 --turns 7]
#include <fmt/format.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "core/parallel.h"
#include "models/models.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/torch_network.h"

namespace lathe {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string network = "resnet18";
  int64_t batch = 32, side = 224;
  int threads = 2, turns = 5;
};

// ---- by hand

struct BlockImpl : torch::nn::Module {
  BlockImpl(int64_t in, int64_t out, int64_t stride) {
    conv1 = register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false)));
    bn1 = register_module("bn1", torch::nn::BatchNorm2d(out));
    conv2 = register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(out, out, 3).padding(1).bias(false)));
    bn2 = register_module("bn2", torch::nn::BatchNorm2d(out));
    if (stride != 1 || in != out)
      shortcut = register_module("shortcut", torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 1).stride(stride).bias(false)), torch::nn::BatchNorm2d(out)));
  }
  at::Tensor forward(at::Tensor x) {
    at::Tensor y = torch::relu(bn1(conv1(x)));
    y = bn2(conv2(y));
    return torch::relu(y + (shortcut.is_empty() ? x : shortcut->forward(x)));
  }
  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::BatchNorm2d bn1{nullptr}, bn2{nullptr};
  torch::nn::Sequential shortcut{nullptr};
};
TORCH_MODULE(Block);

struct ByHandImpl : torch::nn::Module {
  ByHandImpl() {
    layers = torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 64, 7).stride(2).padding(3).bias(false)), torch::nn::BatchNorm2d(64), torch::nn::ReLU(),
                                   torch::nn::MaxPool2d(torch::nn::MaxPool2dOptions(3).stride(2).padding(1)));
    int64_t in = 64;
    for (int64_t stage = 0; stage < 4; ++stage)
      for (int64_t i = 0; i < 2; ++i) {
        const int64_t out = int64_t{64} << stage;
        layers->push_back(Block(in, out, stage > 0 && i == 0 ? 2 : 1));
        in = out;
      }
    register_module("layers", layers);
    head = register_module("head", torch::nn::Linear(512, 1000));
  }
  at::Tensor forward(at::Tensor x) { return head(layers->forward(x).mean({2, 3})); }
  torch::nn::Sequential layers{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(ByHand);

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

template <class Step>
double seconds(Step&& step) {
  const Clock::time_point start = Clock::now();
  step();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void against_hand(const Options& o) {
  const at::Tensor x = at::randn({o.batch, 3, o.side, o.side}), labels = at::randint(0, 1000, {o.batch}, at::kLong);
  TorchNetwork ours(build_model("resnet18", {.seed = 1, .training = true}));
  auto optimizer = Optimizer::make({.name = "sgd", .nesterov = false, .weight_decay = 1e-4}, ours.parameters());
  const auto step = [&] {
    cross_entropy(ours.forward({x}, {.training = true, .batch_statistics = true, .generator = {}})[0], labels, 0).backward();
    optimizer->step(0.01);
  };
  const auto by_hand = [&](const at::Tensor& input) {
    ByHand net;
    auto sgd = std::make_shared<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9).weight_decay(1e-4));
    return [net, sgd, input, labels]() mutable {
      sgd->zero_grad();
      torch::nn::functional::cross_entropy(net->forward(input), labels).backward();
      sgd->step();
    };
  };
  auto hand = by_hand(x), hand_last = by_hand(x.contiguous(at::MemoryFormat::ChannelsLast));
  step(), hand(), hand_last();
  std::vector<double> a, b, c;
  for (int i = 0; i < o.turns; ++i) {
    a.push_back(seconds(step));
    b.push_back(seconds(hand));
    c.push_back(seconds(hand_last));
    fmt::print(stderr, "turn {} of {}\n", i + 1, o.turns);
  }
  fmt::print("resnet18, batch {}, {}×{}, {} threads, medians of {} alternating steps\n", o.batch, o.side, o.side, o.threads, o.turns);
  fmt::print("  through the Graph          {:8.1f} ms\n  by hand                    {:8.1f} ms   ratio {:.3f}\n  by hand, channels last     {:8.1f} ms   ratio {:.3f}\n", median(a) * 1e3, median(b) * 1e3,
             median(a) / median(b), median(c) * 1e3, median(a) / median(c));
}

// Most memory that a process of its own needs for training steps, beyond what it has before the first, and the median time of a step.
struct Cost {
  double megabytes = 0, milliseconds = 0;
};

int64_t peak_kilobytes() {
  int64_t peak = 0;
  if (std::FILE* f = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, f)) std::sscanf(line, "VmHWM: %ld kB", &peak);
    std::fclose(f);
  }
  return peak;
}

Cost cost_of(const Options& o, ConvBnMode mode) {
  int ends[2];
  if (::pipe(ends) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    Graph g = build_model(o.network, {.classes = 10, .input = {3, o.side, o.side}, .seed = 1, .training = true});
    at::set_num_threads(o.threads);
    Cost cost;
    {
      const at::Tensor x = at::randn({o.batch, 3, o.side, o.side}), labels = at::randint(0, 10, {o.batch}, at::kLong);
      TorchNetwork net(std::move(g), {.conv_bn = mode});
      const PassState state{.training = true, .batch_statistics = true, .generator = at::detail::createCPUGenerator(1)};
      const auto step = [&] {
        const at::Tensor y = net.forward({x}, state)[0];
        (y.dim() == 2 ? cross_entropy(y, labels, 0) : y.square().mean()).backward();
        const torch::NoGradGuard guard;
        for (at::Tensor& p : net.trained()) {
          p.sub_(p.grad(), 1e-3);
          p.mutable_grad() = at::Tensor();
        }
      };
      const int64_t before = peak_kilobytes();
      std::vector<double> times;
      for (int i = 0; i <= o.turns; ++i) {
        const double t = seconds(step);
        if (i > 0) times.push_back(t);
      }
      cost = {static_cast<double>(peak_kilobytes() - before) / 1024, median(times) * 1e3};
    }
    const bool written = ::write(ends[1], &cost, sizeof cost) == sizeof cost;
    ::_exit(written ? 0 : 1);
  }
  ::close(ends[1]);
  Cost cost;
  if (::read(ends[0], &cost, sizeof cost) != sizeof cost) cost = {};
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return cost;
}

void conv_bn(const Options& o) {
  fmt::print("{}, batch {}, {}×{}, {} threads, medians of {} steps, a process each, in turns\n", o.network, o.batch, o.side, o.side, o.threads, o.turns);
  std::map<ConvBnMode, std::vector<Cost>> all;
  const std::vector<ConvBnMode> modes = {ConvBnMode::kTrain, ConvBnMode::kEval, ConvBnMode::kTune};
  for (int i = 0; i < 3; ++i)
    for (ConvBnMode m : modes) all[m].push_back(cost_of(o, m));
  const auto middle = [&](ConvBnMode m, double Cost::*what) {
    std::vector<double> v;
    for (const Cost& c : all[m]) v.push_back(c.*what);
    return median(v);
  };
  for (ConvBnMode m : modes)
    fmt::print("  {:6} memory of a step {:8.1f} MiB ({:.2f} of eval)   time {:8.1f} ms ({:.2f} of eval)\n", name_of(m), middle(m, &Cost::megabytes),
               middle(m, &Cost::megabytes) / middle(ConvBnMode::kEval, &Cost::megabytes), middle(m, &Cost::milliseconds), middle(m, &Cost::milliseconds) / middle(ConvBnMode::kEval, &Cost::milliseconds));
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) {
  using namespace lathe;
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
  CLI::App app{"Costs of training steps."};
  app.require_subcommand(1);
  Options o;
  auto* hand = app.add_subcommand("resnet18", "Through the Graph, and by hand on libtorch");
  auto* modes = app.add_subcommand("convbn", "Convolutions with batch norms in their modes");
  modes->add_option("NETWORK", o.network)->required();
  for (auto* c : {hand, modes}) {
    c->add_option("--batch", o.batch)->capture_default_str();
    c->add_option("--side", o.side)->capture_default_str();
    c->add_option("--threads", o.threads)->capture_default_str();
    c->add_option("--turns", o.turns)->capture_default_str();
  }
  CLI11_PARSE(app, argc, argv);
  const ThreadScope threads(o.threads);
  try {
    if (*hand) {
      at::set_num_threads(o.threads);
      against_hand(o);
    } else {
      conv_bn(o);
    }
  } catch (const Error& e) {
    fmt::print(stderr, "bench_training: {}\n", e.what());
    return 1;
  }
  return 0;
}
