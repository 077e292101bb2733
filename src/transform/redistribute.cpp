#include "transform/redistribute.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "graph/op.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

int64_t macs_of(const Graph& g, NodeId id) { return g[id].op->macs ? g[id].op->macs(g, g[id]) : 0; }

int64_t network_macs(const Graph& g) {
  int64_t sum = 0;
  for (NodeId id : g.order()) sum += macs_of(g, id);
  return sum;
}

// Multiply–accumulates that the tiles do more than the stage as a whole.
int64_t extra_macs(const Graph& g, const PatchStage& stage, const PatchGrid& grid) {
  const PatchTiling rows(g, stage, 0, grid.rows, grid.cache_rows), columns(g, stage, 1, grid.columns, grid.cache_columns);
  int64_t extra = 0;
  for (const PatchNode& n : stage.nodes) {
    const int64_t whole = macs_of(g, n.node);
    if (whole == 0) continue;
    const size_t m = rows.index(g[n.node].outputs[0]);
    int64_t high = 0, wide = 0;
    for (int64_t t = 0; t < rows.tiles(); ++t) high += rows.made(t, m).size();
    for (int64_t t = 0; t < columns.tiles(); ++t) wide += columns.made(t, m).size();
    extra += whole / (rows.extent(m) * columns.extent(m)) * high * wide - whole;
  }
  return extra;
}

// A depthwise convolution whose kernel can change: constant weights [C, 1, k, k], k odd, padding as wide on both sides of each axis
// as its kernel allows.
bool can_change(const Graph& g, NodeId id) {
  const Node& n = g[id];
  if (n.op->name != "Conv" || !n.op->domain.empty() || !g[n.inputs[1]].is_constant() || !g[n.inputs[1]].constant.has_elements()) return false;
  const Tensor& w = g[n.inputs[1]].constant;
  if (w.dtype() != DType::kF32 || w.rank() != 4 || w.dim(1) != 1 || w.dim(0) != n.get_int("group") || w.dim(2) != w.dim(3) || w.dim(2) % 2 == 0) return false;
  const std::string& automatic = n.get_string("auto_pad");
  return automatic == "NOTSET" || automatic == "VALID";
}

int64_t kernel_of(const Graph& g, NodeId id) { return g[g[id].inputs[1]].constant.dim(2); }
int64_t stride_of(const Graph& g, NodeId id) {
  const Ints& s = g[id].get_ints("strides");
  return s.empty() ? 1 : std::max(s[0], s[1]);
}
int64_t dilation_of(const Graph& g, NodeId id) {
  const Ints& d = g[id].get_ints("dilations");
  return d.empty() ? 1 : d[0];
}
bool may_shrink(const Graph& g, NodeId id) {
  const Ints& pads = g[id].get_ints("pads");
  const int64_t kernel = kernel_of(g, id), step = dilation_of(g, id);
  return kernel >= 3 && kernel - 2 >= stride_of(g, id) && pads.size() == 4 && std::all_of(pads.begin(), pads.end(), [&](int64_t p) { return p >= step; });
}

// The kernel becomes `size`: its middle, or itself among zeros. Padding changes with it, so that the output's size stays.
void resize_kernel(Graph& g, NodeId id, int64_t size) {
  const Tensor old = g[g[id].inputs[1]].constant;
  const int64_t before = old.dim(2), shift = (before - size) / 2;
  Tensor w(DType::kF32, {old.dim(0), 1, size, size});
  std::memset(w.raw(), 0, w.bytes());
  const float* from = old.data<float>();
  float* to = w.data<float>();
  for (int64_t c = 0; c < old.dim(0); ++c)
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x) {
        const int64_t oy = y + shift, ox = x + shift;
        if (oy >= 0 && oy < before && ox >= 0 && ox < before) to[(c * size + y) * size + x] = from[(c * before + oy) * before + ox];
      }
  const ValueId weights = g.add_constant(std::move(w), g.fresh_name(g[g[id].inputs[1]].name));
  const int64_t step = shift * dilation_of(g, id);
  Ints pads = g[id].get_ints("pads");
  if (pads.empty()) pads.assign(4, 0);
  for (int64_t& p : pads) p -= step;
  g[id].inputs[1] = weights;
  g[id].attributes["pads"] = pads;
  g[id].attributes["auto_pad"] = std::string("NOTSET");
  if (g[id].has("kernel_shape")) g[id].attributes["kernel_shape"] = Ints{size, size};
}

// What a pixel further to the side is worth: the step between neighbours of each map of the prefix.
std::map<ValueId, int64_t> jumps(const Graph& g, const PatchPrefix& prefix) {
  std::map<ValueId, int64_t> jump{{prefix.whole.entry, 1}};
  for (const PatchNode& n : prefix.whole.nodes) {
    int64_t j = 1;
    for (size_t k = 0; k < n.inputs.size(); ++k)
      if (n.inputs[k] != PatchInput::kFixed) j = std::max(j, jump[g[n.node].inputs[k]] * (n.inputs[k] == PatchInput::kWindowed ? n.window[0].stride : 1));
    for (ValueId v : g[n.node].outputs)
      if (v) jump[v] = j;
  }
  return jump;
}

class Redistributor {
 public:
  Redistributor(Graph& g, const RedistributeOptions& options) : g_(g), options_(options) {}

  Redistribution run() {
    const PatchPrefix first = patchable_prefix(g_);
    result_.macs_before = network_macs(g_);
    result_.field_before = receptive_field(g_, first);
    result_.overhead_before = result_.overhead = overhead();
    while (result_.overhead > options_.overhead && shrink()) result_.overhead = overhead();
    if (result_.overhead > options_.overhead)
      fail(ErrorKind::kBudget, "the tiles do {:.1f} % more at least, asked is {:.1f} %: no depthwise kernel of the stage can become smaller", 100 * result_.overhead,
           100 * options_.overhead);
    result_.field = receptive_field(g_, patchable_prefix(g_));
    while (result_.field < result_.field_before && grow()) result_.field = receptive_field(g_, patchable_prefix(g_));
    result_.macs = network_macs(g_);
    result_.overhead = overhead();
    return std::move(result_);
  }

 private:
  PatchStage stage() const { return patchable_prefix(g_).stage(options_.nodes); }
  double overhead() const { return static_cast<double>(extra_macs(g_, stage(), options_.grid)) / static_cast<double>(std::max<int64_t>(network_macs(g_), 1)); }

  void change(NodeId id, int64_t size, bool in_stage) {
    const int64_t before = kernel_of(g_, id);
    resize_kernel(g_, id, size);
    for (Redistribution::Change& c : result_.changes)
      if (c.node == g_[id].name) {
        c.after = size;
        return;
      }
    result_.changes.push_back({g_[id].name, before, size, in_stage});
  }

  // The kernel whose two rows and columns less save most.
  bool shrink() {
    NodeId best;
    int64_t least = 0;
    for (bool strided : {false, true}) {
      for (const PatchNode& n : stage().nodes) {
        if (!can_change(g_, n.node) || !may_shrink(g_, n.node) || (stride_of(g_, n.node) > 1) != strided) continue;
        Graph tried = g_;
        resize_kernel(tried, n.node, kernel_of(g_, n.node) - 2);
        const int64_t extra = extra_macs(tried, patchable_prefix(tried).stage(options_.nodes), options_.grid);
        if (!best || extra < least) best = n.node, least = extra;
      }
      if (best) break;
    }
    if (!best) return false;
    change(best, kernel_of(g_, best) - 2, true);
    return true;
  }

  // The kernel behind the stage that sees further for the fewest products.
  bool grow() {
    const PatchPrefix prefix = patchable_prefix(g_);
    std::map<ValueId, int64_t> jump = jumps(g_, prefix);
    NodeId best;
    double least = 0;
    for (size_t i = options_.nodes; i < prefix.whole.nodes.size(); ++i) {
      const NodeId id = prefix.whole.nodes[i].node;
      if (!can_change(g_, id) || kernel_of(g_, id) + 2 > options_.largest_kernel) continue;
      const auto kernel = static_cast<double>(kernel_of(g_, id));
      const double more = static_cast<double>(macs_of(g_, id)) * ((kernel + 2) * (kernel + 2) / (kernel * kernel) - 1);
      const double cost = more / static_cast<double>(2 * dilation_of(g_, id) * jump[g_[id].inputs[0]]);
      if (!best || cost < least) best = id, least = cost;
    }
    if (!best) return false;
    change(best, kernel_of(g_, best) + 2, false);
    return true;
  }

  Graph& g_;
  RedistributeOptions options_;
  Redistribution result_;
};

}  // namespace

int64_t receptive_field(const Graph& graph, const PatchPrefix& prefix) {
  int64_t furthest = 1;
  for (size_t axis = 0; axis < 2; ++axis) {
    std::map<ValueId, std::pair<int64_t, int64_t>> seen{{prefix.whole.entry, {1, 1}}};  // field, jump
    for (const PatchNode& n : prefix.whole.nodes) {
      std::pair<int64_t, int64_t> most{1, 1};
      for (size_t k = 0; k < n.inputs.size(); ++k) {
        if (n.inputs[k] == PatchInput::kFixed) continue;
        auto [field, jump] = seen[graph[n.node].inputs[k]];
        if (n.inputs[k] == PatchInput::kWindowed) {
          field += (n.window[axis].reach() - 1) * jump;
          jump *= n.window[axis].stride;
        }
        most = std::max(most, {field, jump});
      }
      for (ValueId v : graph[n.node].outputs)
        if (v) seen[v] = most;
      furthest = std::max(furthest, most.first);
    }
  }
  return furthest;
}

Redistribution redistribute(Graph& graph, const RedistributeOptions& options) { return Redistributor(graph, options).run(); }

}  // namespace lathe
