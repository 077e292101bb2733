// What is done to volumes is done to their pictures. A window of depth D over [N, C, T, H, W] sees D pictures: with their
// channels side by side, [N · T', H, W, D · C], its convolution is one of pictures, and the kernels of two dimensions serve it.
// Pictures are copied D times for that, which is little beside products of D · C · H · W elements. What stands between two
// such (norms, sums, channels side by side) is done to the pictures too, so that nothing else moves.
#include <algorithm>
#include <limits>
#include <map>
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
      const std::string& op = n.op->name;
      if (op == "Conv") convolution(id);
      else if (op == "MaxPool") maximum(id);
      else if (op == "AveragePool") average(id);
      else if (op == "GlobalAveragePool") global_average(id);
      else if (op == "BatchNormalization") batch_norm(id);
      else if (op == "Add") sum(id);
      else if (op == "Concat") concat(id);
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

  // [N, T, H, W, C].
  ValueId last(ValueId x) {
    const auto known = pictures_.find(x.index);
    if (known == pictures_.end()) return moved(x, kVolumeToLast);
    const Shape s = *g_[x].shape;
    return reshaped(moved(known->second, kToLast), {s[0], s[2], s[3], s[4], s[1]});
  }
  // [N · T, C, H, W].
  ValueId pictures(ValueId x) {
    const auto known = pictures_.find(x.index);
    if (known != pictures_.end()) return known->second;
    return of_last(moved(x, kVolumeToLast));
  }
  // The pictures of [N, T, H, W, C].
  ValueId of_last(ValueId volume) {
    const Shape s = *g_[volume].shape;
    return moved(reshaped(volume, {s[0] * s[1], s[2], s[3], s[4]}), kToFirst);
  }
  bool has_pictures(ValueId x) const { return pictures_.contains(x.index); }

  // [N, T + begin + end, H, W, C], `fill` before the first picture and behind the last.
  ValueId in_time(ValueId x, int64_t begin, int64_t end, float fill) {
    const ValueId t = last(x);
    if (begin == 0 && end == 0) return t;
    return g_.add("Pad", {t, ints({0, begin, 0, 0, 0, 0, end, 0, 0, 0}), g_.add_constant(Tensor::scalar(fill))});
  }

  // What each position of the window sees: [N, T', H, W, C].
  std::vector<ValueId> views(ValueId padded, const ops::Window& w) {
    std::vector<ValueId> list;
    for (int64_t k = 0; k < w.kernel[0]; ++k) {
      const int64_t first = k * w.dilations[0], last = first + (w.outputs[0] - 1) * w.strides[0] + 1;
      const bool whole = first == 0 && last == (*g_[padded].shape)[1] && w.strides[0] == 1;
      list.push_back(whole ? padded : g_.add("Slice", {padded, ints({first}), ints({last}), ints({1}), ints({w.strides[0]})}));
    }
    return list;
  }

  // Another node makes the output.
  void replace(NodeId id, std::string_view op, std::vector<ValueId> inputs, Attributes attributes = {}) {
    const Node old = g_[id];
    Node made;
    made.op = &find_op(op);
    made.name = old.name;
    made.scope = old.scope;
    made.inputs = std::move(inputs);
    made.attributes = std::move(attributes);
    made.outputs = old.outputs;
    g_.remove(id);
    g_.add_node(std::move(made));
  }

  // The pictures [N · T', O, H', W'] take the place of the node's output, with the activation that follows.
  void finish(NodeId id, ValueId made) {
    id = take_activation(id, &made);
    const ValueId y = g_[id].outputs[0];
    const Shape s = *g_[y].shape;
    replace(id, "Transpose", {reshaped(moved(made, kToLast), {s[0], s[2], s[3], s[4], s[1]})}, {{"perm", kVolumeToFirst}});
    pictures_[y.index] = made;
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
    if (!weights.is_constant() || weights.dtype != DType::kF32 || weights.shape->size() != 5) return;
    if (n.inputs.size() > 2 && n.inputs[2] && !g_[n.inputs[2]].is_constant()) return;
    const Shape x = *g_[n.inputs[0]].shape, s = *weights.shape, y = *g_[n.outputs[0]].shape;
    const ops::Window w = ops::resolve_window(ops::spatial_of(x), ops::window_attributes(n, {s[2], s[3], s[4]}));
    if (padded_inwards(w)) return;
    // Channels of a group stand together, those of a position of the window within it.
    const int64_t groups = n.get_int("group");
    std::vector<ValueId> seen = views(in_time(n.inputs[0], w.begin[0], w.end[0], 0), w);
    if (seen.size() > 1 && groups > 1)
      for (ValueId& v : seen) v = reshaped(v, {x[0] * y[2], x[3], x[4], groups, s[1]});
    const ValueId together = seen.size() == 1 ? seen[0] : g_.add("Concat", seen, {{"axis", int64_t{4}}});
    const ValueId input = moved(reshaped(together, {x[0] * y[2], x[3], x[4], s[2] * x[1]}), kToFirst);
    const Tensor flat = transpose(g_[n.inputs[1]].constant, {0, 2, 1, 3, 4}).reshaped({s[0], s[2] * s[1], s[3], s[4]});
    std::vector<ValueId> inputs{input, g_.add_constant(flat, g_[n.inputs[1]].name + "_pictures")};
    if (n.inputs.size() > 2 && n.inputs[2]) inputs.push_back(n.inputs[2]);
    Attributes attributes = of_pictures(w);
    attributes["group"] = groups;
    finish(id, g_.add("Conv", std::move(inputs), std::move(attributes), n.name));
  }

  // A picture's windows first, then `join` of those that a window of the volume sees: [N · T', C, H', W'].
  ValueId pooled(const Node& n, const ops::Window& w, const Attributes& attributes, float fill, const char* join) {
    const Shape x = *g_[n.inputs[0]].shape, y = *g_[n.outputs[0]].shape;
    const int64_t times = x[2] + w.begin[0] + w.end[0];
    const ValueId flat = g_.add(n.op->name, {of_last(in_time(n.inputs[0], w.begin[0], w.end[0], fill))}, Attributes(attributes), n.name);
    const std::vector<ValueId> seen = views(reshaped(moved(flat, kToLast), {x[0], times, y[3], y[4], x[1]}), w);
    ValueId all = seen[0];
    for (size_t k = 1; k < seen.size(); ++k) all = g_.add(join, {all, seen[k]});
    return of_last(all);
  }

  void maximum(NodeId id) {
    const Node n = g_[id];
    if (n.get_int("ceil_mode") || n.get_int("storage_order")) return;
    const ops::Window w = ops::resolve_window(ops::spatial_of(*g_[n.inputs[0]].shape), ops::window_attributes(n, n.get_ints("kernel_shape")));
    if (padded_inwards(w)) return;
    finish(id, pooled(n, w, of_pictures(w), -std::numeric_limits<float>::infinity(), "Max"));
  }

  // Pictures outside would be left out of the count, which then differs from window to window.
  void average(NodeId id) {
    const Node n = g_[id];
    const ops::Window w = ops::resolve_window(ops::spatial_of(*g_[n.inputs[0]].shape), ops::window_attributes(n, n.get_ints("kernel_shape")));
    const bool outside_counts = n.get_int("count_include_pad") != 0;
    if (n.get_int("ceil_mode") || padded_inwards(w) || (!outside_counts && (w.begin[0] > 0 || w.end[0] > 0))) return;
    Attributes a = of_pictures(w);
    a["count_include_pad"] = static_cast<int64_t>(outside_counts);
    ValueId mean = pooled(n, w, a, 0, "Add");
    if (w.kernel[0] > 1) mean = g_.add("Mul", {mean, g_.add_constant(Tensor::scalar(1.0f / static_cast<float>(w.kernel[0])))});
    finish(id, mean);
  }

  // All pictures of a clip are one tall picture; what comes out has one pixel, whatever its rank.
  void global_average(NodeId id) {
    const Node n = g_[id];
    const Shape x = *g_[n.inputs[0]].shape;
    const ValueId tall = moved(reshaped(last(n.inputs[0]), {x[0], x[2] * x[3], x[4], x[1]}), kToFirst);
    replace(id, "Reshape", {g_.add("GlobalAveragePool", {tall}, {}, n.name), ints(*g_[n.outputs[0]].shape)});
  }

  void batch_norm(NodeId id) {
    const Node n = g_[id];
    if (n.get_int("training_mode") || std::any_of(n.inputs.begin() + 1, n.inputs.end(), [&](ValueId v) { return !g_[v].is_constant(); })) return;
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = pictures(inputs[0]);
    finish(id, g_.add("BatchNormalization", std::move(inputs), Attributes(n.attributes), n.name));
  }

  // Where one of the operands has pictures already.
  void sum(NodeId id) {
    const Node n = g_[id];
    const ValueId a = n.inputs[0], b = n.inputs[1];
    if (!is_volume(a) || !is_volume(b) || *g_[a].shape != *g_[b].shape || !(has_pictures(a) || has_pictures(b))) return;
    const ValueId first = pictures(a), second = pictures(b);
    finish(id, g_.add("Add", {first, second}, {}, n.name));
  }
  void concat(NodeId id) {
    const Node n = g_[id];
    if (n.get_int("axis") != 1 && n.get_int("axis") != -4) return;
    if (!std::all_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return is_volume(v); })) return;
    if (std::none_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return has_pictures(v); })) return;
    std::vector<ValueId> inputs;
    for (ValueId v : n.inputs) inputs.push_back(pictures(v));
    finish(id, g_.add("Concat", std::move(inputs), {{"axis", int64_t{1}}}, n.name));
  }

  Graph& g_;
  std::vector<std::vector<NodeId>> consumers_;  // of the values that there were
  std::set<int32_t> public_;
  std::map<int32_t, ValueId> pictures_;  // [N · T, C, H, W] of volumes that have been made so
};

}  // namespace

void lift_volumes(Graph& graph) { VolumePass(graph).run(); }

}  // namespace lathe
