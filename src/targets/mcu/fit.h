// Whatever is needed to make a network fit a microcontroller, at the least loss: from a model in float to firmware.
//
//   Fit fit = fit_network("net.onnx", read_device("devices/stm32f746.json"), {.data = "pictures", .output = "firmware"});
//   for (const FitStep& s : fit.steps) …
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/device.h"
#include "optimize/statistics.h"
#include "targets/mcu/emulate.h"

namespace lathe::mcu {

struct FitOptions {
  std::string data = {};    // samples: for quantizing, and with labels for accuracy; a network of codes needs none
  std::string output = {};  // folder for the firmware and the network that it was made from (model.onnx)
  std::string scheme = {};  // of lathe quantize; "": its default, everywhere
  std::string name = "network";
  int64_t samples = 64;     // for quantizing
  int64_t evaluated = 500;  // for accuracy, at most
  uint64_t seed = 1;
  double least_side = 0.5;  // of the input's sides, how small they may become
  double least_rank = 0.5;  // of products, where weights are too many: as a part of the full rank
  double most_overhead = 0.5;  // multiply-accumulates that tiles may do twice, as a part of the network's
  std::function<void(const std::string&)> progress = nullptr;
};

// One thing that was done, and what the network then needs.
struct FitStep {
  std::string what;
  int64_t arena_bytes = 0, weight_bytes = 0, macs = 0;
  bool fits = false;
};

struct Fit {
  std::vector<FitStep> steps;
  Shape input;                            // of the network that fits
  std::optional<MemoryUse> use;           // the linker's; nothing where the compiler is missing
  std::optional<Interval> before, after;  // share of right answers of the model and of the firmware's network, with labelled data
};

// Throws kBudget with the nearest miss when nothing helps, kUsage when a network in float comes without data, and as make_program() does.
Fit fit_network(const std::string& model, const Device& device, const FitOptions& options);

}  // namespace lathe::mcu
