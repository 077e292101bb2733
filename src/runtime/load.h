// From a file to something that runs: load a model, choose shapes for open dimensions, make inputs.
//
//   ModelFile file("net.onnx");               // or net.lathe, whose plan is then ready
//   Session session(file.plan({}).plan);
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/onnx.h"
#include "planner/packed.h"
#include "runtime/session.h"

namespace lathe {

// How an optimized model is to be planned is kept in its ONNX metadata ("lathe.precision": fp32, bf16, or
// mixed, which is PlanOptions::bf16_marked; "lathe.fuse", "lathe.tune", "lathe.patches": yes or no), which other runtimes ignore.
// Options at their defaults leave no entry.
std::map<std::string, std::string> plan_metadata(const PlanOptions& options);
// Throws kModel for values that are not of these.
PlanOptions planned_options(const Model& model);

// Has the last word on how a model is planned, after what the caller asked for and what the model itself says.
using PlanAdjustment = std::function<void(PlanOptions&)>;
// What is asked for, and where nothing is, what the model says.
PlanOptions plan_options_for(const Model& model, const PlanOptions& asked, const PlanAdjustment& adjust = nullptr);

// Open dimensions of inputs: the first (batch) becomes `batch`, others `fallback`. Fixed ones stay.
std::map<std::string, Shape> default_input_shapes(const Graph& graph, int64_t batch = 1, int64_t fallback = 1);
// Reproducible inputs: floats uniform in [0, 1), integers 0 or 1, by seed.
std::vector<Tensor> random_inputs(const Graph& graph, uint64_t seed);
std::vector<Tensor> random_inputs(const Plan& plan, uint64_t seed);  // of the whole batch
// The same, element by element, for one value.
Tensor random_tensor(DType type, const Shape& shape, uint64_t seed);
// Multiply–accumulates of the whole graph; unknown shapes, and tensors of more than 2³¹ elements, count as nothing.
int64_t count_macs(const Graph& graph);
int64_t count_macs(const Plan& plan);  // of the whole batch, as the next
int64_t count_macs(const Plan& plan, const Node& node);
int64_t count_macs(const Graph& graph, const Node& node);

struct LoadedPlan {
  Plan plan;
  PlanOptions options;  // that it was made with
  int64_t batch = 1;
};

// What a user names as MODEL: an ONNX file or a .lathe file.
class ModelFile {
 public:
  // Told when a .lathe file's own plan cannot be used and its model is planned anew: which file, and why.
  using Notice = std::function<void(const std::string&)>;
  // Throws as import_onnx and PackedFile do, and kUnsupported when a .lathe file's plan cannot be used and no
  // model is inside.
  explicit ModelFile(const std::string& path, Notice notice = nullptr);

  // The graph whose inputs and outputs a user knows: imported, or of the packed plan.
  const Graph& graph() const { return plan_ && plan_->slices == 1 ? plan_->graph : model_.graph; }
  const std::optional<PackedFile>& packed() const { return packed_; }
  // May be called once. `shapes` chooses the inputs' shapes for a graph with open sizes (default_input_shapes when
  // null). A packed plan is taken as it is unless another batch, other shapes or other options than the default
  // ones are asked for; then its model is planned anew.
  LoadedPlan plan(PlanOptions options, int64_t batch = 1,
                  const std::function<std::map<std::string, Shape>(const Graph&)>& shapes = nullptr);

 private:
  void import_source(const std::string& why);
  std::string misfit(const PlanOptions& options, int64_t batch, const std::map<std::string, Shape>& shapes) const;

  std::string path_;
  Notice notice_;
  std::optional<PackedFile> packed_;
  std::optional<Plan> plan_;
  Model model_;
};

// The network itself, from an ONNX file or from inside a .lathe file. Without one inside: the graph of its plan.
Model load_model(const std::string& path, const ImportOptions& options = {});

// Plans a model, writes the .lathe file, reads it back, and compares what both compute. Throws kInternal when they
// differ; then no file is left. With `keep_source` the model goes into the file too.
struct PackRequest {
  PlanOptions options;
  PlanAdjustment adjust;
  int64_t batch = 1;
  std::function<std::map<std::string, Shape>(const Graph&)> shapes;
  bool keep_source = true;
};
void pack_model(const std::string& model, const PackRequest& request, const std::string& output);

}  // namespace lathe
