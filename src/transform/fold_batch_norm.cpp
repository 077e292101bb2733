#include <cmath>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// y = scale·x + shift, per output channel.
struct ChannelAffine {
  std::vector<double> scale, shift;
};

bool constant_of(const Graph& g, const Node& n, size_t i) {
  return i < n.inputs.size() && n.inputs[i] && g[n.inputs[i]].is_constant();
}

std::optional<ChannelAffine> from_batch_norm(const Graph& g, const Node& n) {
  for (size_t i = 1; i <= 4; ++i)
    if (!constant_of(g, n, i)) return std::nullopt;
  auto at = [&](size_t i) -> const Tensor& { return g[n.inputs[i]].constant; };
  ChannelAffine a;
  for (int64_t c = 0; c < at(1).size(); ++c) {
    double scale = at(1).get(c) / std::sqrt(at(4).get(c) + n.get_float("epsilon"));
    a.scale.push_back(scale);
    a.shift.push_back(at(2).get(c) - at(3).get(c) * scale);
  }
  return a;
}

// Mul or Add with a constant that varies along the channels only.
std::optional<ChannelAffine> from_binary(const Graph& g, const Node& n, ValueId x, int64_t channels) {
  size_t other = n.inputs[0] == x ? 1 : 0;
  if (!constant_of(g, n, other) || !g[x].shape) return std::nullopt;
  const Tensor& t = g[n.inputs[other]].constant;
  auto rank = static_cast<int64_t>(g[x].shape->size());
  if (t.rank() > rank || !is_float(t.dtype())) return std::nullopt;
  for (int64_t i = 0; i < t.rank(); ++i) {
    int64_t axis = rank - t.rank() + i;
    if (t.shape()[i] != 1 && (axis != 1 || t.shape()[i] != channels)) return std::nullopt;
  }
  if (t.size() != 1 && t.size() != channels) return std::nullopt;
  ChannelAffine a;
  bool multiply = n.op->name == "Mul";
  for (int64_t c = 0; c < channels; ++c) {
    double value = t.get(t.size() == 1 ? 0 : c);
    a.scale.push_back(multiply ? value : 1);
    a.shift.push_back(multiply ? 0 : value);
  }
  return a;
}

// Of the weights: the axis of output channels, or −1 for what nothing is folded into.
int64_t channel_axis(const Graph& g, const Node& n) {
  if (!n.op->domain.empty()) return -1;
  if (n.op->name == "Conv") return 0;
  if (n.op->name == "ConvTranspose") return n.get_int("group") == 1 ? 1 : -1;
  const bool plain = n.op->name == "Gemm" && n.get_int("transA") == 0 && n.get_float("alpha") == 1 && n.get_float("beta") == 1;
  if (!plain || !constant_of(g, n, 1)) return -1;
  const int64_t axis = n.get_int("transB") != 0 ? 0 : 1;
  if (constant_of(g, n, 2) && g[n.inputs[2]].constant.size() != g[n.inputs[1]].constant.dim(axis)) return -1;
  return axis;
}

void apply(Graph& g, NodeId conv, const ChannelAffine& a) {
  // In two steps, since adding constants may move the node.
  Tensor w = g[g[conv].inputs[1]].constant.clone();
  const auto axis = static_cast<size_t>(channel_axis(g, g[conv]));
  const int64_t channels = w.shape()[axis], each = product(w.shape(), axis + 1, w.shape().size());
  bool has_bias = g[conv].inputs.size() > 2 && g[conv].inputs[2];
  Tensor bias(w.dtype(), {channels});
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, w.get(i) * a.scale[i / each % channels]);
  for (int64_t c = 0; c < channels; ++c) {
    double old = has_bias ? g[g[conv].inputs[2]].constant.get(c) : 0;
    bias.set(c, old * a.scale[c] + a.shift[c]);
  }
  ValueId new_w = g.add_constant(std::move(w), g[g[conv].inputs[1]].name + "_folded");
  ValueId new_b = g.add_constant(std::move(bias), g[conv].name + "_bias");
  g[conv].inputs.resize(3);
  g[conv].inputs[1] = new_w;
  g[conv].inputs[2] = new_b;
}

}  // namespace

void fold_batch_norm(Graph& g) {
  auto consumers = g.consumers();
  std::vector<bool> is_public(g.value_count(), false);
  for (ValueId v : g.outputs) is_public[v.index] = true;
  for (NodeId id : g.order()) {
    const int64_t axis = g[id].dead ? -1 : channel_axis(g, g[id]);
    if (axis < 0) continue;
    bool has_bias = g[id].inputs.size() > 2 && g[id].inputs[2];
    if (!constant_of(g, g[id], 1) || (has_bias && !constant_of(g, g[id], 2))) continue;
    if (!is_float(g[g[id].inputs[1]].dtype)) continue;
    int64_t channels = g[g[id].inputs[1]].constant.shape()[static_cast<size_t>(axis)];
    for (;;) {
      ValueId y = g[id].outputs[0];
      if (is_public[y.index] || consumers[y.index].size() != 1) break;
      NodeId next = consumers[y.index][0];
      const Node& n = g[next];
      std::optional<ChannelAffine> affine;
      if (!n.op->domain.empty()) break;
      if (n.op->name == "BatchNormalization" && n.inputs[0] == y) affine = from_batch_norm(g, n);
      if (n.op->name == "Mul" || n.op->name == "Add") affine = from_binary(g, n, y, channels);
      if (!affine || static_cast<int64_t>(affine->scale.size()) != channels) break;
      apply(g, id, *affine);
      ValueId out = g[next].outputs[0];
      g.remove(next);
      g[id].outputs[0] = out;
      g[out].producer = id;
      g[y].producer = {};
    }
  }
}

}  // namespace lathe
