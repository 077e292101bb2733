// Options that several commands share.
#pragma once

#include <omp.h>

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "runtime/model.h"

namespace lathe::cli {

struct ModelOptions {
  std::string model;
  std::vector<std::string> shapes;  // NAME=1x3x224x224
  int64_t batch = 1;
  int threads = 1;

  void add_to(CLI::App& command) {
    command.add_option("MODEL", model, "An ONNX file, or a .lathe file (lathe pack)")->required()->type_name("FILE");
    command.add_option("--shape", shapes, "Shape of an input whose sizes are open, for instance x=1x3x224x224 (repeat for several)")
        ->type_name("NAME=SHAPE")->allow_extra_args(false);  // one each time: a MODEL may follow
    command.add_option("--batch", batch, "Batch size")->check(CLI::Range(int64_t{1}, int64_t{65536}))->capture_default_str();
    command.add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  }

  std::map<std::string, Shape> given_shapes() const {
    std::map<std::string, Shape> result;
    for (const std::string& text : shapes) {
      size_t equals = text.rfind('=');
      if (equals == text.npos) fail(ErrorKind::kUsage, "--shape {}: expected NAME=1x3x224x224", text);
      Shape shape;
      for (size_t at = equals + 1; at <= text.size();) {
        size_t end = std::min(text.find('x', at), text.size());
        std::string number = text.substr(at, end - at);
        if (number.empty() || number.size() > 12 || number.find_first_not_of("0123456789") != number.npos)
          fail(ErrorKind::kUsage, "--shape {}: expected NAME=1x3x224x224", text);
        shape.push_back(std::stoll(number));
        at = end + 1;
      }
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
    plan.input_shapes = given_shapes();
    CompiledModel::Options options{.plan = std::move(plan), .threads = threads, .default_shapes = now};
    if (now || batch > 1) options.batch = batch;
    options.notice = [](const std::string& why) { fmt::print(stderr, "lathe: note: {}\n", why); };
    return CompiledModel::open(model, std::move(options));
  }
};

}  // namespace lathe::cli
