// bf16 where it pays: products with constant weights, and what only moves their results. As in layout.cpp a
// value has a twin, here of the other precision, and a cast is made only where a value is wanted in the
// precision that nobody makes. Accumulation stays in f32 inside the kernels; graph inputs and outputs keep
// their type.
#include <algorithm>
#include <set>

#include "graph/op.h"
#include "kernels/kernel.h"
#include "transform/passes.h"

namespace lathe {
namespace {

const std::set<std::string> kMoves = {"Reshape", "Flatten", "Transpose", "Concat", "Slice", "Squeeze", "Unsqueeze"};

class HalfPass {
 public:
  explicit HalfPass(Graph& g) : g_(g) {}

  void run() {
    for (NodeId id : g_.order()) {
      const Node& n = g_[id];
      const std::string& op = n.op->name;
      bool fused = n.op->domain == "ai.lathe";
      if (fused && (op == "Conv" || op == "MatMul")) product(id);
      else if (fused && op == "ExpandDepthwise") expansion(id);
      else if ((fused && (op == "Pool" || op == "Affine")) || (op == "ReduceMean" && n.op->domain.empty())) half_kernel(id);
      else if ((fused && op == "ChannelShuffle") || (n.op->domain.empty() && kMoves.contains(op))) move(id);
    }
    for (auto& [wide, half] : twin_) {
      if (!orphans_.contains(wide)) continue;
      Node n;
      n.op = &find_op("Cast");
      n.name = g_[ValueId{wide}].name + "_f32";
      n.inputs = {half};
      n.attributes["to"] = static_cast<int64_t>(DType::kF32);
      n.outputs = {{wide}};
      g_.add_node(std::move(n));
    }
    remove_dead(g_);
    g_.compact();
  }

 private:
  ValueId half(ValueId v) {
    if (auto it = twin_.find(v.index); it != twin_.end()) return it->second;
    ValueId t = g_[v].is_constant() ? g_.add_constant(cast(g_[v].constant, DType::kBF16), g_[v].name + "_bf16")
                                    : g_.add("Cast", {v}, {{"to", static_cast<int64_t>(DType::kBF16)}});
    twin_[v.index] = t;
    return t;
  }

  NodeId replace(NodeId id, std::vector<ValueId> inputs) {
    Node n = g_[id];
    ValueId old = n.outputs[0];
    g_.remove(id);
    Value made;
    made.name = g_[old].name + "_bf16";
    made.dtype = DType::kBF16;
    made.shape = g_[old].shape;
    n.inputs = std::move(inputs);
    n.outputs = {g_.add_value(std::move(made))};
    twin_[old.index] = n.outputs[0];
    orphans_.insert(old.index);
    return g_.add_node(std::move(n));
  }

  void product(NodeId id) {
    const Node& n = g_[id];
    if (g_[n.inputs[0]].dtype != DType::kF32) return;
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = half(inputs[0]);
    for (size_t i = 3; i < inputs.size(); ++i)
      if (inputs[i]) inputs[i] = half(inputs[i]);
    NodeId made = replace(id, inputs);
    // Kernels that compute in f32 whatever the pictures are (depthwise, Winograd) keep exact weights.
    const Node& half_node = g_[made];
    if (half_node.op->name == "Conv" && !kernels_for({g_, half_node}).empty()) return;
    ValueId weights = half(half_node.inputs[1]);
    g_[made].inputs[1] = weights;
  }

  // The depthwise weights are few: they stay exact.
  void expansion(NodeId id) {
    const Node& n = g_[id];
    if (g_[n.inputs[0]].dtype != DType::kF32) return;
    if (!has_bf16_instructions() || g_[n.inputs[0]].shape->back() % 2 != 0) return;
    std::vector<ValueId> inputs = n.inputs;
    for (size_t i : {0, 1}) inputs[i] = half(inputs[i]);
    replace(id, inputs);
  }

  // What reads a picture that is made in bf16 stays there, where a kernel computes on it in f32 inside.
  void half_kernel(NodeId id) {
    const Node& n = g_[id];
    if (!twin_.contains(n.inputs[0].index) || g_[n.inputs[0]].is_constant() || n.outputs.size() != 1 || !g_[n.outputs[0]].shape) return;
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = half(inputs[0]);
    Node trial = n;
    trial.inputs = inputs;
    ValueId old = n.outputs[0];
    const DType before = g_[old].dtype;
    g_[old].dtype = DType::kBF16;  // as the result would be
    const bool fits = !kernels_for({g_, trial}).empty();
    g_[old].dtype = before;
    if (fits) replace(id, inputs);
  }

  void move(NodeId id) {
    const Node& n = g_[id];
    bool concat = n.op->name == "Concat";
    std::vector<ValueId> inputs = n.inputs;
    size_t data = concat ? inputs.size() : 1;
    for (size_t i = 0; i < data; ++i)
      if (!twin_.contains(inputs[i].index)) return;
    if (n.outputs.size() != 1 || !g_[n.outputs[0]].shape) return;
    for (size_t i = 0; i < data; ++i) inputs[i] = half(inputs[i]);
    replace(id, inputs);
  }

  Graph& g_;
  std::map<int32_t, ValueId> twin_;
  std::set<int32_t> orphans_;  // f32 values whose producer now makes the bf16 twin
};

}  // namespace

void to_bf16(Graph& graph) { HalfPass(graph).run(); }

}  // namespace lathe
