// CompiledModel: a model file ready to run with any shapes that it allows. A Plan is made for concrete
// shapes; this keeps the last few, so that inputs of changing size find theirs.
//
//   CompiledModel model = CompiledModel::open("net.onnx", {.threads = 2});
//   const std::vector<Tensor>& y = model.run({{"x", x}});   // valid until the next run
#pragma once

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "formats/onnx.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {

class CompiledModel {
 public:
  struct Options {
    PlanOptions plan = {};       // input_shapes: of inputs whose sizes are open, as far as they are known now
    int threads = 1;
    int64_t batch = 0;           // > 0: the first size of every input where it is open or 1
    bool default_shapes = false; // sizes still open become 1
    size_t cached_plans = 4;
    std::optional<Device> device = {};  // whose limits every plan must keep (kBudget), or none
    PlanAdjustment adjust = {};         // over what the model says of its own planning (runtime/load.h)
    ModelFile::Notice notice = {};      // told when a .lathe file's own plan does not do and its model is planned
  };

  // Plans at once when all input shapes are known, and then lets the Graph go: a model without open sizes
  // is in memory once. Otherwise plans at the first run with new shapes.
  CompiledModel(Graph graph, Options options);
  // A .lathe file's plan is taken as it is where it is what is asked for; other shapes and options are planned
  // from the model inside (runtime/load.h tells the kinds of files apart).
  static CompiledModel open(const std::string& path, Options options);

  // As the model declares them (with the batch opened or set), in its order.
  const std::vector<Value>& inputs() const { return inputs_; }
  const std::vector<Value>& outputs() const { return outputs_; }
  size_t input_index(std::string_view name) const;   // throws kUsage, naming those there are
  size_t output_index(std::string_view name) const;

  // Output `index` is written to `memory` at every run from now on; an undefined Tensor undoes it.
  // Type and shape are checked at the run, whose shapes decide them.
  void bind_output(size_t index, Tensor memory);
  const std::vector<Tensor>& run(const std::vector<Tensor>& inputs);
  const std::vector<Tensor>& run(const std::map<std::string, Tensor>& inputs);

  // The Session for inputs of these shapes: a kept one or a new one, which takes the place of the one that
  // was used longest ago.
  Session& session_for(const std::vector<Shape>& shapes);
  // The last one used. Throws kUsage when the shapes were open and nothing has run yet.
  Session& session();
  size_t cached_plans() const { return sessions_.size(); }
  int threads() const { return options_.threads; }
  // What plans are made with: as asked for, or as a .lathe file was packed.
  const PlanOptions& plan_options() const { return options_.plan; }
  int64_t batch() const { return std::max<int64_t>(options_.batch, 1); }
  void set_profiling(bool on);

 private:
  struct Entry {
    std::vector<Shape> shapes;
    std::unique_ptr<Session> session;
  };
  CompiledModel(LoadedPlan loaded, std::optional<PackedFile> packed, Options options);
  void declare(const Graph& graph);
  Session& keep(const std::vector<Shape>& shapes, Plan plan);
  Session& plan(const std::vector<Shape>& shapes, Graph graph);

  Options options_;
  std::optional<Graph> graph_;  // none: planned once for the only shapes there are
  std::optional<PackedFile> packed_;  // whose source becomes graph_ when other shapes are wanted
  std::vector<Value> inputs_, outputs_;
  std::list<Entry> sessions_;  // the last used first
  std::vector<Tensor> bound_;  // by output
  bool profiling_ = false;
};

// Bytes of the constants that a plan's steps read or that are outputs.
int64_t constant_bytes(const Plan& plan);
// Throws kBudget, with the numbers, when a device's memory or flash is too small for the plan.
void check_fits(const Plan& plan, const Device& device);

}  // namespace lathe
