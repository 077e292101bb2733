// Products in bf16: the weights of convolutions and matrix products are stored in 16 bits, and the planner runs these
// products and what moves their results in bf16, with sums in f32 (transform/precision.cpp). In the file the
// weights are bf16 initializers behind a Cast to f32, which every runtime of opset 13 and later understands. Layers that are
// set to f32 keep their weights: the planner sees by the weights which layers are meant (PlanOptions::bf16_marked).
#include <map>

#include "graph/op.h"
#include "optimize/technique.h"
#include "transform/passes.h"
#include "transform/round_weights.h"

namespace lathe::techniques {
namespace {

constexpr const char* kLayers = "layers";

// The weights that transform/precision.cpp would round (2-D convolutions but the depthwise, matrix products), and a node that
// reads each.
std::map<ValueId, NodeId> rounded_weights(const Graph& g) {
  std::map<ValueId, NodeId> weights;
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (!n.op->domain.empty() || n.inputs.size() < 2 || !n.inputs[1]) continue;
    const std::string& op = n.op->name;
    const Value& w = g[n.inputs[1]];
    if (!w.is_constant() || w.dtype != DType::kF32) continue;
    size_t rank = w.constant.shape().size();
    bool depthwise = op == "Conv" && rank == 4 && w.constant.dim(1) == 1 && n.get_int("group") > 1;
    if ((op == "Conv" && rank == 4 && !depthwise) || ((op == "MatMul" || op == "Gemm") && rank == 2)) weights.emplace(n.inputs[1], id);
  }
  return weights;
}

// In bf16, with errors that cancel over each sum. Every input counts the same: what a file holds does not depend on the shapes
// and the fusion that it will be run with.
Tensor rounded(const Tensor& w, const Node& reader) {
  if (reader.op->name == "Conv") return round_weights(w, false, reader.get_int("group"), {});
  if (reader.op->name == "Gemm" && reader.get_int("transB")) return round_weights(w, false, 1, {});
  return round_weights(w, true, 1, {});
}

std::vector<std::string> layers_of(const Candidate& c, const TechniqueContext&) {
  Graph cleaned = c.graph;
  clean_up(cleaned);
  std::map<ValueId, NodeId> weights = rounded_weights(cleaned);
  std::vector<std::string> names;
  for (NodeId id : cleaned.order())
    for (const auto& [w, reader] : weights)
      if (reader == id && !cleaned[id].name.empty()) names.push_back(cleaned[id].name);
  return names;
}

}  // namespace

Technique bf16() {
  Technique t;
  t.key = "bf16";
  t.summary = "weights and products in bfloat16, sums in f32";
  t.source = "Kalamkar et al. 2019, A study of BFLOAT16 for deep learning training";
  t.applies_to = "networks with 2-D convolutions or products with constant matrices";
  t.reproduction = "quantization-survey";
  t.stage = Technique::Stage::kPrecision;
  t.conflicts = {"unfused"};
  t.knobs = {Knob::per_layer(kLayers, "precision of each product", {"bf16", "f32"}, {{"bf16", 16}, {"f32", 32}}, layers_of)};
  t.obstacle = [](const Candidate& c, const TechniqueContext&) -> std::string {
    Graph cleaned = c.graph;
    clean_up(cleaned);
    return rounded_weights(cleaned).empty() ? "no 2-D convolution or matrix product with constant f32 weights" : "";
  };
  t.apply = [](Candidate& c, const Settings& settings, const TechniqueContext&) {
    clean_up(c.graph);  // batch norms must be in the weights before these are rounded
    const LayerChoices layers = settings.layers(kLayers);
    bool all = true;
    for (const auto& [w, reader] : rounded_weights(c.graph)) {
      if (auto it = layers.find(c.graph[reader].name); it != layers.end() && it->second == "f32") {
        all = false;
        continue;
      }
      ValueId half = c.graph.add_constant(rounded(c.graph[w].constant, c.graph[reader]), c.graph[w].name + "_bf16");
      ValueId wide = c.graph.add("Cast", {half}, {{"to", static_cast<int64_t>(DType::kF32)}});
      c.graph.replace_uses(w, wide);
    }
    c.graph.compact();
    c.options.bf16 = c.options.fuse = true;
    c.options.bf16_marked = !all;
  };
  return t;
}

}  // namespace lathe::techniques
