// DequantizeLinear of one scale changes each element by itself and keeps their order, so that moving elements and
// taking the largest give the same before and after it.
#include <algorithm>
#include <set>

#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

const std::set<std::string> kMoves = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Tile", "Split",
                                      "Gather", "DepthToSpace", "SpaceToDepth"};

class Sink {
 public:
  Sink(Graph& g, bool windows) : g_(g), windows_(windows) {}
  void run() {
    for (NodeId id : g_.order())
      if (!g_[id].dead) visit(id);
    remove_identities(g_);
    remove_dead(g_);
  }

 private:
  void visit(NodeId id) {
    const Node& n = g_[id];
    if (n.inputs.empty() || !n.captures.empty()) return;
    const std::string& op = n.op->name;
    if (n.op->domain == "ai.lathe") {
      if (op == "ChannelShuffle" || (op == "Pool" && n.get_string("kind") == "Max")) move(id);
      return;
    }
    if (!n.op->domain.empty()) return;
    if (op == "QuantizeLinear") return same(id);
    if (kMoves.contains(op)) return move(id);
    if (op == "Concat") return concat(id);
    if (!windows_) return;
    if (op == "Resize" && n.get_string("mode") == "nearest" && n.get_string("coordinate_transformation_mode") != "tf_crop_and_resize") return move(id);
    if (op == "MaxPool" && (n.outputs.size() < 2 || !n.outputs[1])) return move(id);
    if (op == "Pad") return pad(id);
  }

  // Codes that are rounded to themselves.
  void same(NodeId id) {
    auto codes = codes_of(g_, g_[id].inputs[0]);
    auto scale = tensor_scale(g_, g_[id]);
    if (!codes || !scale || codes->scale != *scale) return;
    g_[id].op = &find_op("Identity");
    g_[id].inputs = {codes->value};
    g_[id].attributes.clear();
  }

  // The node reads and makes codes; its outputs are dequantized as its input was.
  void move(NodeId id) {
    auto codes = codes_of(g_, g_[id].inputs[0]);
    if (!codes) return;
    NodeId dequantize = g_[g_[id].inputs[0]].producer;
    g_[id].inputs[0] = codes->value;
    dequantize_outputs(id, dequantize, codes->scale.type);
  }

  void dequantize_outputs(NodeId id, NodeId dequantize, DType type) {
    for (size_t i = 0; i < g_[id].outputs.size(); ++i) {
      ValueId real = g_[id].outputs[i];
      if (!real) continue;
      Value value;
      value.name = g_[real].name + "_codes";
      value.dtype = type;
      value.shape = g_[real].shape;
      value.producer = id;
      ValueId moved = g_.add_value(std::move(value));
      g_[id].outputs[i] = moved;
      Node n;
      n.op = g_[dequantize].op;
      n.name = g_[id].name + "_dequantize";
      n.scope = g_[id].scope;
      n.inputs = g_[dequantize].inputs;
      n.inputs[0] = moved;
      n.outputs = {real};
      g_[real].producer = {};
      g_.add_node(std::move(n));
    }
  }

  // Zeros around a picture are its zero point.
  void pad(NodeId id) {
    auto codes = codes_of(g_, g_[id].inputs[0]);
    if (!codes) return;
    if (g_[id].get_string("mode") == "constant") {
      if (has_input(g_[id], 2) && (!g_[g_[id].inputs[2]].is_constant() || g_[g_[id].inputs[2]].constant.get(0) != 0)) return;
      Tensor zero(codes->scale.type, {});
      zero.set_int(0, codes->scale.zero);
      ValueId filling = g_.add_constant(zero);
      if (g_[id].inputs.size() < 3) g_[id].inputs.resize(3);
      g_[id].inputs[2] = filling;
    }
    move(id);
  }

  void concat(NodeId id) {
    std::vector<ValueId> inputs;
    std::optional<TensorScale> scale;
    for (ValueId v : g_[id].inputs) {
      auto codes = codes_of(g_, v);
      if (!codes || (scale && *scale != codes->scale)) return;
      scale = codes->scale;
      inputs.push_back(codes->value);
    }
    NodeId dequantize = g_[g_[id].inputs[0]].producer;
    g_[id].inputs = inputs;
    dequantize_outputs(id, dequantize, scale->type);
  }

  Graph& g_;
  bool windows_;
};

}  // namespace

void sink_dequantize(Graph& graph, bool windows) { Sink(graph, windows).run(); }

}  // namespace lathe
