// `lathe train` and `lathe finetune`: their options, which `lathe` declares (for its help, completions and man page) and
// lathe-train, the program that links libtorch, works on.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lathe::cli {

struct TrainCommand {
  bool finetune = false;
  std::string network, data, output;
  // The network, where it is a family's.
  int64_t classes = 0;
  double width = 1;
  std::string input, depths, widths;
  std::vector<std::string> set;
  // The training.
  double epochs = 10, rate = 0, warm_up = 0, last_rate = 1e-5;
  int64_t batch = 128, accumulate = 1;
  std::string optimizer = "adamw", schedule = "cosine", augment = "none", conv_bn, teacher, quantize;
  double momentum = 0.9, weight_decay = -1, clip = 0, smoothing = 0, mixup = 0, cutmix = 0, ema = 0, distill = 0.5, temperature = 4;
  std::vector<double> mean, std;
  std::vector<std::string> freeze;
  bool no_nesterov = false, bf16 = false, recompute = false, resume = false, json = false, force = false;
  int threads = 2, loader_threads = 1;
  uint64_t seed = 1;
  double checkpoint_seconds = 60;
  int64_t most_steps = 0;
};

using TrainAction = std::function<void(const TrainCommand&)>;
// Both commands, which call `action`.
void declare_train(CLI::App& app, const TrainAction& action);

}  // namespace lathe::cli
