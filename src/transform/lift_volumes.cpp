// Convolutions and maxima over volumes are those of pictures. A window of depth D over [N, C, T, H, W] sees D pictures:
// with their channels side by side, [N · T', H, W, D · C], its convolution is one of pictures, and the kernels of two
// dimensions serve it. Pictures are copied D times for that, which is little beside products of D · C · H · W elements.
// Volumes stand channels-last between two of these, so that nothing else moves.
#include <algorithm>
#include <limits>
#include <set>

#include "graph/op.h"
#include "graph/ops/window.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
const Ints kVolumeToLast{0, 2, 3, 4, 1}, kVolumeToFirst{0, 4, 1, 2, 3}, kToLast{0, 2, 3, 1}, kToFirst{0, 3, 1, 2};
const std::set<std::string> kActivations = {"Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Swish", "Mish", "Gelu", "Clip"};

class VolumePass {
 public:
  explicit VolumePass(Graph& g) : g_(g), consumers_(g.consumers()) {
    for (ValueId v : g.outputs) public_.insert(v.index);
  }

  void run() {
    for (NodeId id : g_.order()) {
      const Node& n = g_[id];
      if (n.dead || !n.op->domain.empty() || n.outputs.size() != 1 || n.inputs.empty() || !is_volume(n.outputs[0]) || !is_volume(n.inputs[0])) continue;
      if (n.op->name == "Conv") convolution(id);
      else if (n.op->name == "MaxPool") maximum(id);
    }
    remove_identities(g_);
    remove_dead(g_);
    g_.compact();
  }

 private:
  bool is_volume(ValueId v) const {
    return v && g_[v].dtype == DType::kF32 && g_[v].shape && g_[v].shape->size() == 5 && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0;
  }
  ValueId ints(const Ints& values) { return g_.add_constant(Tensor::of_i64(values)); }
  ValueId reshaped(ValueId v, const Shape& shape) { return g_.add("Reshape", {v, ints(shape)}); }
  ValueId moved(ValueId v, const Ints& perm) { return g_.add("Transpose", {v}, {{"perm", perm}}); }

  // [N, T + begin + end, H, W, C], `fill` before the first picture and behind the last.
  ValueId in_time(ValueId x, int64_t begin, int64_t end, float fill) {
    const NodeId from = g_[x].producer;
    const bool came_back = from && g_[from].op->domain.empty() && g_[from].op->name == "Transpose" && g_[from].get_ints("perm") == kVolumeToFirst;
    const ValueId t = came_back ? g_[from].inputs[0] : moved(x, kVolumeToLast);
    if (begin == 0 && end == 0) return t;
    return g_.add("Pad", {t, ints({0, begin, 0, 0, 0, 0, end, 0, 0, 0}), g_.add_constant(Tensor::scalar(fill))});
  }

  // What each position of the window sees: [N, T', H, W, C].
  std::vector<ValueId> views(ValueId padded, const ops::Window& w) {
    std::vector<ValueId> list;
    for (int64_t k = 0; k < w.kernel[0]; ++k) {
      const int64_t first = k * w.dilations[0], last = first + (w.outputs[0] - 1) * w.strides[0] + 1;
      list.push_back(g_.add("Slice", {padded, ints({first}), ints({last}), ints({1}), ints({w.strides[0]})}));
    }
    return list;
  }

  // [N, T', H', W', O] takes the place of the node's output.
  void finish(NodeId id, ValueId volume) {
    const Node old = g_[id];
    Node back;
    back.op = &find_op("Transpose");
    back.name = old.name;
    back.scope = old.scope;
    back.inputs = {volume};
    back.attributes["perm"] = kVolumeToFirst;
    back.outputs = old.outputs;
    g_.remove(id);
    g_.add_node(std::move(back));
  }

  // An activation that alone reads the output of `id` joins the pictures; returns the node whose output is made then.
  NodeId take_activation(NodeId id, ValueId* pictures) {
    const ValueId y = g_[id].outputs[0];
    if (public_.contains(y.index) || consumers_[y.index].size() != 1) return id;
    const NodeId next = consumers_[y.index][0];
    const Node n = g_[next];
    if (n.dead || !n.op->domain.empty() || !kActivations.contains(n.op->name) || n.inputs[0] != y || n.outputs.size() != 1) return id;
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (n.inputs[i] && !g_[n.inputs[i]].is_constant()) return id;
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = *pictures;
    *pictures = g_.add(n.op->name, std::move(inputs), Attributes(n.attributes), n.name);
    g_.remove(id);
    return next;
  }

  static Attributes of_pictures(const ops::Window& w) {
    return {{"kernel_shape", Ints{w.kernel[1], w.kernel[2]}}, {"strides", Ints{w.strides[1], w.strides[2]}}, {"dilations", Ints{w.dilations[1], w.dilations[2]}},
            {"pads", Ints{w.begin[1], w.begin[2], w.end[1], w.end[2]}}};
  }
  static bool padded_inwards(const ops::Window& w) {
    return std::any_of(w.begin.begin(), w.begin.end(), [](int64_t p) { return p < 0; }) || std::any_of(w.end.begin(), w.end.end(), [](int64_t p) { return p < 0; });
  }

  void convolution(NodeId id) {
    const Node n = g_[id];
    const Value& weights = g_[n.inputs[1]];
    if (!weights.is_constant() || weights.dtype != DType::kF32 || weights.shape->size() != 5 || n.get_int("group") != 1) return;
    if (n.inputs.size() > 2 && n.inputs[2] && !g_[n.inputs[2]].is_constant()) return;
    const Shape x = *g_[n.inputs[0]].shape, s = *weights.shape, y = *g_[n.outputs[0]].shape;
    const ops::Window w = ops::resolve_window(ops::spatial_of(x), ops::window_attributes(n, {s[2], s[3], s[4]}));
    if (padded_inwards(w)) return;
    const std::vector<ValueId> seen = views(in_time(n.inputs[0], w.begin[0], w.end[0], 0), w);
    const ValueId together = seen.size() == 1 ? seen[0] : g_.add("Concat", seen, {{"axis", int64_t{4}}});
    const ValueId pictures = moved(reshaped(together, {x[0] * y[2], x[3], x[4], s[2] * x[1]}), kToFirst);
    // Channels of a position of the window stand together.
    const Tensor flat = transpose(g_[n.inputs[1]].constant, {0, 2, 1, 3, 4}).reshaped({s[0], s[2] * s[1], s[3], s[4]});
    std::vector<ValueId> inputs{pictures, g_.add_constant(flat, g_[n.inputs[1]].name + "_pictures")};
    if (n.inputs.size() > 2 && n.inputs[2]) inputs.push_back(n.inputs[2]);
    ValueId made = g_.add("Conv", std::move(inputs), of_pictures(w), n.name);
    id = take_activation(id, &made);
    finish(id, reshaped(moved(made, kToLast), {x[0], y[2], y[3], y[4], s[0]}));
  }

  void maximum(NodeId id) {
    const Node n = g_[id];
    const Shape x = *g_[n.inputs[0]].shape, y = *g_[n.outputs[0]].shape;
    if (n.get_int("ceil_mode") || n.get_int("storage_order")) return;
    const ops::Window w = ops::resolve_window(ops::spatial_of(x), ops::window_attributes(n, n.get_ints("kernel_shape")));
    if (padded_inwards(w)) return;
    const int64_t times = x[2] + w.begin[0] + w.end[0];
    const ValueId padded = in_time(n.inputs[0], w.begin[0], w.end[0], -std::numeric_limits<float>::infinity());
    const ValueId pictures = g_.add("MaxPool", {moved(reshaped(padded, {x[0] * times, x[3], x[4], x[1]}), kToFirst)}, of_pictures(w), n.name);
    const std::vector<ValueId> seen = views(reshaped(moved(pictures, kToLast), {x[0], times, y[3], y[4], x[1]}), w);
    ValueId most = seen[0];
    for (size_t k = 1; k < seen.size(); ++k) most = g_.add("Max", {most, seen[k]});
    finish(id, most);
  }

  Graph& g_;
  std::vector<std::vector<NodeId>> consumers_;  // of the values that there were
  std::set<int32_t> public_;
};

}  // namespace

void lift_volumes(Graph& graph) { VolumePass(graph).run(); }

}  // namespace lathe
