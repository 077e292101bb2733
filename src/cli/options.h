// Options that several commands share.
#pragma once

#include <omp.h>

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "runtime/load.h"

namespace lathe::cli {

struct ModelOptions {
  std::string model;
  std::vector<std::string> shapes;  // NAME=1x3x224x224
  int64_t batch = 1;
  int threads = 1;

  void add_to(CLI::App& command) {
    command.add_option("MODEL", model, "An ONNX file, or a .lathe file (lathe pack)")->required();
    command.add_option("--shape", shapes, "Shape of an input whose sizes are open: NAME=1x3x224x224 (repeat for several)");
    command.add_option("--batch", batch, "Batch size")->check(CLI::Range(int64_t{1}, int64_t{65536}))->capture_default_str();
    command.add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
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

  ModelFile open() const {
    omp_set_num_threads(threads);
    return ModelFile(model, [](const std::string& why) { fmt::print(stderr, "lathe: note: {}\n", why); });
  }

  LoadedPlan load(PlanOptions options = {}) const {
    return open().plan(options, batch, [this](const Graph& g) { return input_shapes(g); });
  }
};

}  // namespace lathe::cli
