// The transpose before the first convolution goes: a convolution of planes reads what it would have read.
#include <algorithm>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Beyond some channels a pixel fills vectors, and the product over channels-last pixels is as fast.
constexpr int64_t kMostPlanes = 4;
// So many elements under a window: beyond, the rows that are copied for each row of the result leave the first-level cache.
constexpr int64_t kMostTaps = 256;
// As the kernel has it: beyond, most of a copied row is what no window reads.
constexpr int64_t kMostStride = 64;

// The channels-first picture that `v` is the channels-last form of, if something makes it so.
ValueId planes_of(const Graph& g, ValueId v) {
  const NodeId id = g[v].producer;
  if (!id) return {};
  const Node& n = g[id];
  if (!n.op->domain.empty() || n.outputs.size() != 1) return {};
  const ValueId x = n.inputs[0];
  if (!g[x].shape || g[x].shape->size() != 4 || !is_static(*g[x].shape) || g[x].dtype != DType::kF32) return {};
  if (n.op->name == "Transpose") return n.get_ints("perm") == std::vector<int64_t>{0, 2, 3, 1} ? x : ValueId{};
  const Shape& s = *g[x].shape;
  const bool moved = n.op->name == "Reshape" && s[1] == 1 && g[v].shape == Shape{s[0], s[2], s[3], 1};
  return moved ? x : ValueId{};
}

}  // namespace

void read_planes(Graph& g) {
  for (NodeId id : g.order()) {
    Node& n = g[id];
    if (n.dead || n.op->domain != kLatheDomain || n.op->name != "Conv" || n.get_int("group") != 1) continue;
    if (n.inputs.size() > 3 && (n.inputs[3] || (n.inputs.size() > 4 && n.inputs[4]))) continue;
    const Value& weights = g[n.inputs[1]];
    if (!weights.is_constant() || weights.dtype != DType::kF32) continue;
    const Shape& w = *weights.shape;
    const auto &dilations = n.get_ints("dilations"), &pads = n.get_ints("pads");
    const auto& picture = g[n.inputs[0]].shape;
    if (picture && (*picture)[1] == 1) continue;  // along one axis: windows are long, and a transpose moves little
    if (w[1] > kMostPlanes || w[1] * w[2] * w[3] > kMostTaps || dilations[0] != 1 || dilations[1] != 1) continue;
    if (n.get_ints("strides")[1] > kMostStride) continue;
    if (std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p < 0; })) continue;
    const ValueId planes = planes_of(g, n.inputs[0]);
    if (!planes) continue;
    n.inputs[0] = planes;
    n.inputs.resize(std::min<size_t>(n.inputs.size(), 3));
    n.attributes.erase("group");
    n.op = &find_op("PlanarConv", kLatheDomain);
  }
  remove_dead(g);
}

}  // namespace lathe
