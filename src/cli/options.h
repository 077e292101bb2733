// Options that several commands share.
#pragma once

#include <malloc.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>

#include "kernels/isa.h"
#include "runtime/model.h"
#include "tasks/input.h"

namespace lathe::cli {

// "1x3x224x224"; throws kUsage with `error` for anything else.
inline Shape parse_sizes(const std::string& text, const std::string& error) {
  Shape shape;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find('x', at), text.size());
    std::string number = text.substr(at, end - at);
    if (number.empty() || number.size() > 12 || number.find_first_not_of("0123456789") != number.npos) fail(ErrorKind::kUsage, "{}", error);
    shape.push_back(std::stoll(number));
    at = end + 1;
  }
  return shape;
}

// "3x2": rows and columns, one and more; throws kUsage with `error` for anything else.
inline std::pair<int64_t, int64_t> parse_grid(const std::string& text, const std::string& error) {
  const Shape sides = parse_sizes(text, error);
  if (sides.size() != 2 || sides[0] < 1 || sides[1] < 1) fail(ErrorKind::kUsage, "{}", error);
  return {sides[0], sides[1]};
}

// "1,2,3"; "" is none.
inline std::vector<int64_t> parse_numbers(std::string text, const char* option) {
  if (text.empty()) return {};
  const std::string error = fmt::format("{} {}: expected numbers with commas between them", option, text);
  std::replace(text.begin(), text.end(), ',', 'x');
  return parse_sizes(text, error);
}

// Each "KEY=VALUE".
inline std::map<std::string, std::string> parse_settings(const std::vector<std::string>& texts, const char* option) {
  std::map<std::string, std::string> settings;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == text.npos) fail(ErrorKind::kUsage, "{} {}: expected KEY=VALUE", option, text);
    settings[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return settings;
}

struct ModelOptions {
  std::string model;
  std::vector<std::string> shapes;  // NAME=1x3x224x224
  int64_t batch = 1;
  int threads = 1;
  std::string precision;  // "": as the model says
  std::string isa;

  void add_to(CLI::App& command) {
    command.add_option("MODEL", model, "An ONNX file, or a .lathe file (lathe pack)")->required()->type_name("FILE");
    command.add_option("--shape", shapes, "Shape of an input whose sizes are open, for instance x=1x3x224x224 (repeat for several)")
        ->type_name("NAME=SHAPE")->allow_extra_args(false);  // one each time: a MODEL may follow
    command.add_option("--batch", batch, "Batch size")->check(CLI::Range(int64_t{1}, int64_t{65536}))->capture_default_str();
    command.add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
    command.add_option("--isa", isa, "No better instruction set than this, as on a smaller machine: avx3, avx2, sse4 ($LATHE_ISA, else the best)");
  }

  void add_precision(CLI::App& command) {
    command.add_option("--precision", precision, "fp32 or bf16 (as the model says, else fp32)")->check(CLI::IsMember({"fp32", "bf16"}));
  }

  // `lathe optimize` leaves in a model how it is to be planned; an option on the command line goes before.
  PlanAdjustment adjustment() const {
    return [precision = precision](PlanOptions& plan) {
      if (!precision.empty()) plan.bf16 = precision == "bf16", plan.bf16_marked = false;
      if (plan.reference || !plan.fuse) plan.bf16 = false;
    };
  }

  std::map<std::string, Shape> given_shapes() const {
    std::map<std::string, Shape> result;
    for (const std::string& text : shapes) {
      size_t equals = text.rfind('=');
      if (equals == text.npos) fail(ErrorKind::kUsage, "--shape {}: expected NAME=1x3x224x224", text);
      Shape shape = parse_sizes(text.substr(equals + 1), fmt::format("--shape {}: expected NAME=1x3x224x224", text));
      if (!result.emplace(text.substr(0, equals), shape).second)
        fail(ErrorKind::kUsage, "--shape {}: given twice", text);
    }
    return result;
  }

  // For `graph`: what --shape says, else what the model does, with the batch and 1 where it leaves sizes open.
  std::map<std::string, Shape> input_shapes(const Graph& graph) const {
    auto result = default_input_shapes(graph, batch);
    for (auto& [name, shape] : given_shapes()) {
      if (!result.contains(name)) fail(ErrorKind::kUsage, "--shape {}: the model has no such input", name);
      result[name] = shape;
    }
    return result;
  }

  // With `now`, sizes that nobody gave become 1 (the batch: --batch) and the model is planned at once; without,
  // the inputs of the first run decide.
  CompiledModel open(PlanOptions plan = {}, bool now = true) const {
    omp_set_num_threads(threads);
    if (isa.empty()) force_isa_from_environment();
    else force_isa(isa);
    plan.input_shapes = given_shapes();
    CompiledModel::Options options{.plan = std::move(plan), .threads = threads, .default_shapes = now};
    if (now || batch > 1) options.batch = batch;
    options.adjust = adjustment();
    options.notice = [](const std::string& why) { fmt::print(stderr, "lathe: note: {}\n", why); };
    CompiledModel opened = CompiledModel::open(model, std::move(options));
    ::malloc_trim(0);  // what only planning needed goes back to the system
    return opened;
  }
};

// Kernel choice by measurement.
struct TuneOptions {
  bool tune = false;
  std::string cache;

  void add_to(CLI::App& command) {
    auto* flag = command.add_flag("--tune", tune, "Time every kernel that fits and keep the fastest");
    command.add_option("--cache", cache, "Where the times are kept ($LATHE_CACHE, else kernels.db in the user's cache folder)")->type_name("FILE")->needs(flag);
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
    command.add_option("--preprocess", choices.file, "JSON file with the preprocessing, instead of MODEL.preprocess.json")->type_name("FILE");
    command.add_option("--size", choices.size, "Side of the network's picture, where the model leaves it open")->check(CLI::Range(1, 16384));
    command.add_option("--resize", choices.resize, "Shorter side before the crop (256/224 of the crop by default)")->check(CLI::Range(1, 16384));
    command.add_flag("--stretch", choices.stretch, "Stretch to the size instead of cropping; values 0 to 1");
    command.add_option("--mean", choices.mean, "Mean per colour (R G B), or one for all (0.485 0.456 0.406 by default)")->expected(1, 3);
    command.add_option("--std", choices.std, "Standard deviation per colour, or one for all (0.229 0.224 0.225 by default)")->expected(1, 3);
    command.add_option("--scale", choices.scale, "Factor before mean and deviation (1/255 by default)");
    command.add_option("--colors", choices.colors, "Order of colours (RGB by default)")->check(CLI::IsMember({"RGB", "BGR"}));
    command.add_option("--layout", choices.layout, "Order of axes (as the model's input looks)")->check(CLI::IsMember({"NCHW", "NHWC"}));
  }
};

}  // namespace lathe::cli
