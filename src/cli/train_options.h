// `lathe train` and `lathe finetune`: their options, which `lathe` declares (for its help, completions and man page) and
// lathe-train, the program that links libtorch, works on.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lathe/train.h"

namespace lathe::cli {

struct TrainCommand {
  bool finetune = false;
  std::string network, data, output;
  std::string input, depths, widths;  // as they are typed
  std::vector<std::string> set;
  bool no_nesterov = false, json = false;
  TrainSettings settings;
};

using TrainAction = std::function<void(const TrainCommand&)>;
// Both commands, which call `action`.
void declare_train(CLI::App& app, const TrainAction& action);

}  // namespace lathe::cli
