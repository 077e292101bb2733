// Options that several commands share.
#pragma once

#include <omp.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>

#include "runtime/load.h"
#include "tasks/input.h"

namespace lathe::cli {

struct ModelOptions {
  std::string model;
  std::vector<std::string> shapes;  // NAME=1x3x224x224
  int64_t batch = 1;
  int threads = 1;
  std::string precision;  // "": as the model says

  void add_to(CLI::App& command) {
    command.add_option("MODEL", model, "An ONNX file")->required();
    command.add_option("--shape", shapes, "Shape of an input whose sizes are open: NAME=1x3x224x224 (repeat for several)");
    command.add_option("--batch", batch, "Batch size")->check(CLI::Range(int64_t{1}, int64_t{65536}))->capture_default_str();
    command.add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  }

  void add_precision(CLI::App& command) {
    command.add_option("--precision", precision, "fp32 or bf16 (as the model says, else fp32)")->check(CLI::IsMember({"fp32", "bf16"}));
  }

  // `lathe optimize` leaves in a model how it is to be planned; an option on the command line goes before.
  PlanOptions plan_options(const Model& imported) const {
    PlanOptions options = planned_options(imported);
    if (!precision.empty()) options.bf16 = precision == "bf16";
    if (options.bf16) options.fuse = true;
    return options;
  }

  std::map<std::string, Shape> input_shapes(const Graph& graph) const {
    auto result = default_input_shapes(graph, batch);
    for (const std::string& text : shapes) {
      size_t equals = text.rfind('=');
      std::string name = equals == text.npos ? "" : text.substr(0, equals);
      if (!result.contains(name) && equals != text.npos)
        fail(ErrorKind::kUsage, "--shape {}: the model has no input '{}'", text, name);
      Shape shape;
      size_t at = equals + 1;
      while (equals != text.npos && at <= text.size()) {
        size_t end = std::min(text.find('x', at), text.size());
        std::string number = text.substr(at, end - at);
        if (number.empty() || number.size() > 12 || number.find_first_not_of("0123456789") != number.npos)
          fail(ErrorKind::kUsage, "--shape {}: expected NAME=1x3x224x224", text);
        shape.push_back(std::stoll(number));
        at = end + 1;
      }
      if (shape.empty()) fail(ErrorKind::kUsage, "--shape {}: expected NAME=1x3x224x224", text);
      result[name] = shape;
    }
    return result;
  }

  // `change`, when given, has the last word on the options.
  Plan load(const std::function<void(PlanOptions&)>& change = nullptr) const {
    omp_set_num_threads(threads);
    Model imported = import_onnx(model);
    if (batch != 1) open_batch(imported.graph);
    PlanOptions options = plan_options(imported);
    options.input_shapes = input_shapes(imported.graph);
    if (change) change(options);
    Plan plan = make_plan(std::move(imported.graph), options);
    for (const std::string& notice : plan.notices) fmt::print(stderr, "lathe: note: {}\n", notice);
    return plan;
  }
};

// Kernel choice by measurement.
struct TuneOptions {
  bool tune = false;
  std::string cache;

  void add_to(CLI::App& command) {
    auto* flag = command.add_flag("--tune", tune, "Time every kernel that fits and keep the fastest");
    command.add_option("--cache", cache, "Where the times are kept ($LATHE_CACHE, else kernels.db in the user's cache folder)")->needs(flag);
  }
  void apply(PlanOptions& options) const {
    options.tune |= tune;
    if (!cache.empty()) options.kernel_times = cache;
  }
};

// How pictures become inputs.
struct PictureOptions {
  PreprocessChoices choices;

  void add_to(CLI::App& command) {
    command.add_option("--preprocess", choices.file, "JSON file with the preprocessing");
    command.add_option("--size", choices.size, "Side of the network's picture, where the model leaves it open")->check(CLI::Range(1, 16384));
    command.add_option("--resize", choices.resize, "Shorter side before the crop")->check(CLI::Range(1, 16384));
    command.add_flag("--stretch", choices.stretch, "Stretch to the size instead of cropping; values 0 to 1");
    command.add_option("--mean", choices.mean, "Mean per colour (R G B), or one for all")->expected(1, 3);
    command.add_option("--std", choices.std, "Standard deviation per colour")->expected(1, 3);
    command.add_option("--scale", choices.scale, "Factor before mean and deviation (1/255 by default)");
    command.add_option("--colors", choices.colors, "Order of colours")->check(CLI::IsMember({"RGB", "BGR"}));
    command.add_option("--layout", choices.layout, "Order of axes")->check(CLI::IsMember({"NCHW", "NHWC"}));
  }
};

}  // namespace lathe::cli
