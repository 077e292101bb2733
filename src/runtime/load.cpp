#include "runtime/load.h"

#include <limits>

#include "graph/op.h"

namespace lathe {
namespace {

bool choice(const Model& model, const std::string& key, std::string_view off, std::string_view on, bool otherwise) {
  auto it = model.metadata.find(key);
  if (it == model.metadata.end()) return otherwise;
  check_model(it->second == off || it->second == on, "metadata '{}' is '{}', expected {} or {}", key, it->second, off, on);
  return it->second == on;
}

}  // namespace

std::map<std::string, std::string> plan_metadata(const PlanOptions& options) {
  std::map<std::string, std::string> metadata;
  if (options.bf16) metadata["lathe.precision"] = options.bf16_marked ? "mixed" : "bf16";
  if (!options.fuse) metadata["lathe.fuse"] = "no";
  if (options.tune) metadata["lathe.tune"] = "yes";
  if (options.patches) metadata["lathe.patches"] = "yes";
  return metadata;
}

PlanOptions planned_options(const Model& model) {
  PlanOptions options;
  if (auto it = model.metadata.find("lathe.precision"); it != model.metadata.end() && it->second == "mixed") options.bf16 = options.bf16_marked = true;
  else options.bf16 = choice(model, "lathe.precision", "fp32", "bf16", false);
  options.fuse = choice(model, "lathe.fuse", "no", "yes", true);
  options.tune = choice(model, "lathe.tune", "no", "yes", false);
  options.patches = choice(model, "lathe.patches", "no", "yes", false);
  return options;
}

PlanOptions plan_options_for(const Model& model, const PlanOptions& asked, const PlanAdjustment& adjust) {
  PlanOptions said = planned_options(model), options = asked;
  if (!options.bf16) options.bf16_marked = said.bf16_marked;  // who asks for bf16 says himself how
  options.bf16 |= said.bf16;
  options.fuse &= said.fuse;
  options.tune |= said.tune;
  options.patches |= said.patches;
  if (adjust) adjust(options);
  return options;
}

std::map<std::string, Shape> default_input_shapes(const Graph& graph, int64_t batch, int64_t fallback) {
  std::map<std::string, Shape> shapes;
  for (ValueId v : graph.inputs) {
    if (!graph[v].shape) continue;
    Shape s = *graph[v].shape;
    for (size_t i = 0; i < s.size(); ++i)
      if (s[i] < 0) s[i] = i == 0 ? batch : fallback;
    shapes[graph[v].name] = s;
  }
  return shapes;
}

Tensor random_tensor(DType type, const Shape& shape, uint64_t seed) {
  // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a large input is made in the time of a copy, so that it does not count
  // among what it takes to start.
  Tensor t(type, shape);
  uint64_t state = seed * 0x9E3779B97F4A7C15u;
  for (int64_t i = 0; i < t.size(); ++i) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    float x = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
    if (type == DType::kF32) t.data<float>()[i] = x;
    else if (is_float(type)) t.set(i, x);
    else t.set_int(i, x >= 0.5f);
  }
  return t;
}

std::vector<Tensor> random_inputs(const Graph& graph, uint64_t seed) {
  std::vector<Tensor> inputs;
  for (ValueId v : graph.inputs) inputs.push_back(random_tensor(graph[v].dtype, graph[v].shape.value(), seed++));
  return inputs;
}

std::vector<Tensor> random_inputs(const Plan& plan, uint64_t seed) { return random_inputs(declaration_of(plan), seed); }

int64_t count_macs(const Graph& graph, const Node& node) {
  // Products of two such counts fit into 64 bits. Real tensors are smaller; a broken model's need not be.
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (!node.op->macs) return 0;
  for (const auto* list : {&node.inputs, &node.outputs})
    for (ValueId v : *list)
      if (v && (!graph[v].shape || !is_static(*graph[v].shape) || element_count(*graph[v].shape) > kLargest)) return 0;
  return node.op->macs(graph, node);
}

int64_t count_macs(const Graph& graph) {
  int64_t total = 0;
  for (NodeId id : graph.order())
    if (__builtin_add_overflow(total, count_macs(graph, graph[id]), &total)) return std::numeric_limits<int64_t>::max();
  return total;
}

namespace {

int64_t times_slices(const Plan& plan, int64_t macs) {
  return __builtin_mul_overflow(macs, plan.slices, &macs) ? std::numeric_limits<int64_t>::max() : macs;
}

}  // namespace

int64_t count_macs(const Plan& plan) { return times_slices(plan, count_macs(plan.graph)); }
int64_t count_macs(const Plan& plan, const Node& node) { return times_slices(plan, count_macs(plan.graph, node)); }

}  // namespace lathe
