// Convolutions and pooling along one axis are those of pictures of height one: [N, C, L] becomes [N, C, 1, L], and what
// stands between follows, so that the layout pass and the kernels of two dimensions serve them.
#include <algorithm>
#include <map>
#include <set>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

const std::set<std::string> kElementwise = {"Abs", "Add", "Ceil", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
                                            "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu",
                                            "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh",
                                            "ThresholdedRelu"};

class LiftPass {
 public:
  explicit LiftPass(Graph& g) : g_(g) {}

  void run() {
    for (NodeId id : g_.order()) lift(id);
    remove_dead(g_);
    g_.compact();
  }

 private:
  bool is_sequence(ValueId v) const {
    return v && g_[v].dtype == DType::kF32 && g_[v].shape && g_[v].shape->size() == 3 && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0;
  }
  static Shape lifted(const Shape& s) { return {s[0], s[1], 1, s[2]}; }

  // The value as a picture of height one.
  ValueId picture(ValueId v) {
    auto [it, fresh] = pictures_.emplace(v.index, ValueId{});
    if (fresh) {
      const Shape shape = lifted(*g_[v].shape);
      it->second = g_[v].is_constant() ? g_.add_constant(g_[v].constant.reshaped(shape), g_[v].name + "_picture")
                                       : g_.add("Reshape", {v, g_.add_constant(Tensor::of_i64(shape))});
    }
    return it->second;
  }

  // The node becomes `op` on pictures; its output is a view of the new one's.
  void replace(NodeId id, std::vector<ValueId> inputs, Attributes attributes) {
    const Node old = g_[id];
    g_.remove(id);
    const ValueId made = g_.add(old.op->name, std::move(inputs), std::move(attributes), old.name);
    g_[g_[made].producer].scope = old.scope;
    pictures_[old.outputs[0].index] = made;
    Node view;
    view.op = &find_op("Reshape");
    view.name = g_[old.outputs[0]].name + "_sequence";
    view.inputs = {made, g_.add_constant(Tensor::of_i64(*g_[old.outputs[0]].shape))};
    view.outputs = {old.outputs[0]};
    g_.add_node(std::move(view));
  }

  void lift(NodeId id) {
    const Node& n = g_[id];
    if (!n.op->domain.empty() || n.inputs.empty() || n.outputs.size() != 1 || !is_sequence(n.outputs[0])) return;
    const std::string& op = n.op->name;
    if (op == "Conv" || op == "ConvTranspose") return convolution(id);
    if (op == "MaxPool" || op == "AveragePool") return window(id, {picture_of_input(id)});
    if (!std::any_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return v && pictures_.contains(v.index); })) return;
    if (op == "GlobalAveragePool" || op == "BatchNormalization") {
      std::vector<ValueId> inputs = n.inputs;
      inputs[0] = picture(inputs[0]);
      replace(id, inputs, Attributes(n.attributes));
    } else if (kElementwise.contains(op)) {
      elementwise(id);
    } else if (op == "Concat") {
      if (!std::all_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return is_sequence(v); })) return;
      std::vector<ValueId> inputs = n.inputs;
      for (ValueId& v : inputs) v = picture(v);
      const int64_t axis = normalize_axis(n.get_int("axis"), 3);
      replace(id, inputs, {{"axis", axis == 2 ? 3 : axis}});
    }
  }

  ValueId picture_of_input(NodeId id) { return is_sequence(g_[id].inputs[0]) ? picture(g_[id].inputs[0]) : ValueId{}; }

  void convolution(NodeId id) {
    std::vector<ValueId> inputs = g_[id].inputs;
    const Value& w = g_[inputs[1]];
    if (!is_sequence(inputs[0]) || !w.is_constant() || !is_sequence(inputs[1])) return;
    inputs[0] = picture(inputs[0]);
    inputs[1] = picture(inputs[1]);
    window(id, inputs);
  }

  // What is given for one axis, for two: a window of height one.
  void window(NodeId id, std::vector<ValueId> inputs) {
    if (!inputs[0]) return;
    Attributes a = g_[id].attributes;
    for (const auto& [name, first] : {std::pair{"kernel_shape", 1}, {"strides", 1}, {"dilations", 1}, {"output_padding", 0}}) {
      auto it = a.find(name);
      if (it == a.end()) continue;
      Ints& list = std::get<Ints>(it->second);
      if (list.size() == 1) list.insert(list.begin(), first);
    }
    if (auto it = a.find("pads"); it != a.end()) {
      Ints& pads = std::get<Ints>(it->second);
      if (pads.size() == 2) pads = {0, pads[0], 0, pads[1]};
    }
    if (auto it = a.find("output_shape"); it != a.end()) {
      Ints& sizes = std::get<Ints>(it->second);
      if (!sizes.empty()) sizes.insert(sizes.end() - 1, 1);
    }
    replace(id, std::move(inputs), std::move(a));
  }

  // Operands are sequences, or constants and single values that broadcast.
  void elementwise(NodeId id) {
    std::vector<ValueId> inputs = g_[id].inputs;
    for (ValueId v : inputs) {
      if (!v) continue;
      const auto& s = g_[v].shape;
      if (!s || !is_static(*s) || s->size() > 3 || (s->size() > 1 && !is_sequence(v) && !g_[v].is_constant())) return;
    }
    for (ValueId& v : inputs) {
      if (!v || g_[v].shape->size() < 2) continue;  // along L, as before
      if (g_[v].shape->size() == 3) {
        v = picture(v);
      } else {
        const Shape s = *g_[v].shape;
        v = g_.add_constant(g_[v].constant.reshaped({s[0], 1, s[1]}));
      }
    }
    replace(id, inputs, Attributes(g_[id].attributes));
  }

  Graph& g_;
  std::map<int32_t, ValueId> pictures_;  // of sequences, by value
};

}  // namespace

void lift_sequences(Graph& graph) { LiftPass(graph).run(); }

}  // namespace lathe
