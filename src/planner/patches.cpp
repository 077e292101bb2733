#include "planner/patches.h"

#include <algorithm>
#include <set>

#include "graph/op.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

int64_t bytes_each(const Value& v, const PatchMemoryOptions& options) {
  return options.bytes_per_element > 0 ? options.bytes_per_element : static_cast<int64_t>(size_of(v.dtype));
}

int64_t bytes_of(const Graph& g, ValueId v, const PatchMemoryOptions& options) {
  const auto& shape = g[v].shape;
  if (!shape || !is_static(*shape)) fail(ErrorKind::kUsage, "'{}' has the open shape {}: memory is known for known shapes alone", g[v].name, shape ? to_string(*shape) : "[…]");
  return element_count(*shape) * bytes_each(g[v], options);
}

bool is_view_or_elementwise(const Node& n) {
  static const std::set<std::string_view> kViews = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "BatchNormalization"};
  static const std::set<std::string_view> kOwn = {"IntegerAdd", "IntegerMul", "Table", "StarRelu", "Affine"};
  return is_elementwise(n) || (n.op->domain.empty() && kViews.contains(n.op->name)) || (n.op->domain == kLatheDomain && kOwn.contains(n.op->name));
}

// One filter a channel, as many outputs as inputs, which the window passes one by one.
bool is_depthwise(const Graph& g, const Node& n) {
  const bool conv = (n.op->domain.empty() && n.op->name == "Conv") || (n.op->domain == kLatheDomain && (n.op->name == "Conv" || n.op->name == "IntegerConv"));
  if (!conv || !g[n.inputs[1]].shape || g[n.inputs[1]].shape->size() != 4) return false;
  const Shape& w = *g[n.inputs[1]].shape;
  const Ints& strides = n.get_ints("strides");
  return w[1] == 1 && w[0] == n.get_int("group") && std::all_of(strides.begin(), strides.end(), [](int64_t s) { return s == 1; });
}

// The values alive at each step of an order.
class Liveness {
 public:
  struct Step {
    std::vector<ValueId> alive;        // without the overwritten input
    ValueId overwritten, overwriting;  // the node's output takes the place of the input
  };

  Liveness(const Graph& g, const std::vector<NodeId>& order, const PatchMemoryOptions& options) : steps_(order.size()) {
    const int end = static_cast<int>(order.size());
    std::vector<bool> fixed(g.value_count(), false);
    std::vector<int> made(g.value_count(), -1), last(g.value_count(), -1);
    for (int s = 0; s < end; ++s) {
      const Node& n = g[order[static_cast<size_t>(s)]];
      const auto is_fixed = [&](ValueId v) { return !v || g[v].is_constant() || fixed[v.index]; };
      const bool all_fixed = std::all_of(n.inputs.begin(), n.inputs.end(), is_fixed) && n.captures.empty();
      for (ValueId v : n.outputs) {
        if (!v) continue;
        fixed[v.index] = all_fixed;
        made[v.index] = last[v.index] = s;
      }
      for (const auto* list : {&n.inputs, &n.captures})
        for (ValueId v : *list)
          if (v) last[v.index] = s;
    }
    for (ValueId v : g.outputs) last[v.index] = end;
    for (size_t i = 0; i < g.value_count(); ++i) {
      const ValueId v{static_cast<int32_t>(i)};
      if (g[v].is_constant() || fixed[i] || last[i] < 0) continue;
      for (int s = std::max(made[i], 0); s <= std::min(last[i], end - 1); ++s) steps_[static_cast<size_t>(s)].alive.push_back(v);
    }
    for (int s = 0; s < end; ++s) overwrite(g, g[order[static_cast<size_t>(s)]], s, last, fixed, options);
  }

  const Step& operator[](size_t step) const { return steps_[step]; }
  size_t size() const { return steps_.size(); }

  template <class Size>
  int64_t bytes(size_t step, const Size& size) const {
    const Step& s = steps_[step];
    int64_t sum = 0;
    for (ValueId v : s.alive) sum += v == s.overwriting ? std::max(size(v), size(s.overwritten)) : size(v);
    return sum;
  }

 private:
  void overwrite(const Graph& g, const Node& n, int step, const std::vector<int>& last, const std::vector<bool>& fixed, const PatchMemoryOptions& options) {
    Step& s = steps_[static_cast<size_t>(step)];
    if (n.outputs.size() != 1 || !(is_view_or_elementwise(n) || (options.in_place_depthwise && is_depthwise(g, n)))) return;
    const bool depthwise = !is_view_or_elementwise(n);
    for (size_t i = 0; i < (depthwise ? 1 : n.inputs.size()); ++i) {
      const ValueId v = n.inputs[i];
      if (!v || g[v].is_constant() || fixed[v.index] || last[v.index] != step || std::count(n.inputs.begin(), n.inputs.end(), v) != 1) continue;
      if (!depthwise && bytes_of(g, v, options) != bytes_of(g, n.outputs[0], options)) continue;
      s.overwritten = v;
      s.overwriting = n.outputs[0];
      std::erase(s.alive, v);
      return;
    }
  }

  std::vector<Step> steps_;
};

}  // namespace

int64_t peak_bytes(const Graph& graph, const std::vector<NodeId>& order, const PatchMemoryOptions& options) {
  const Liveness live(graph, order, options);
  int64_t peak = 0;
  for (size_t s = 0; s < live.size(); ++s) peak = std::max(peak, live.bytes(s, [&](ValueId v) { return bytes_of(graph, v, options); }));
  return peak;
}

int64_t peak_bytes(const Graph& graph, const PatchMemoryOptions& options) { return peak_bytes(graph, graph.order(), options); }

// A stage with what weighing many grids of it needs.
struct PatchSearch::Weighing {
  struct Node {
    std::vector<size_t> alive;  // maps of the stage
    int overwritten = -1, overwriting = -1;
    size_t output = 0;
    int64_t macs_each = 0;      // of one position of the output's map
  };
  PatchStage stage;
  std::vector<Node> nodes;
  std::vector<int64_t> depth;   // by map: bytes of one position
  size_t exit = 0;
  int64_t exit_bytes = 0, entry_bytes = 0;
  int64_t bystanders = 0;       // what lives through the stage and is none of its maps
  int64_t rest_bytes = 0, macs = 0;
};

PatchSearch::PatchSearch(const Graph& graph, const PatchMemoryOptions& options, ValueId entry, bool channels_last)
    : graph_(graph), options_(options), prefix_(patchable_prefix(graph, entry, channels_last)) {
  for (NodeId id : graph.order())
    if (graph[id].op->macs) network_macs_ += graph[id].op->macs(graph, graph[id]);
  network_bytes_ = peak_bytes(graph, options);
}

PatchSearch::Weighing PatchSearch::prepare(size_t nodes) const {
  Weighing w;
  w.stage = prefix_.stage(nodes);
  const std::vector<NodeId> order = graph_.order();
  const Liveness live(graph_, order, options_);
  const PatchTiling whole(graph_, w.stage, 0, 1, false);  // for its numbers of maps
  const auto total = [&](ValueId v) { return bytes_of(graph_, v, options_); };
  std::vector<int> position(graph_.node_count(), -1);
  for (size_t i = 0; i < order.size(); ++i) position[order[i].index] = static_cast<int>(i);
  std::vector<bool> in_stage(order.size(), false);
  for (ValueId map : whole.maps()) {
    const Shape& s = *graph_[map].shape;
    const auto rows = static_cast<size_t>(w.stage.axes.at(map));
    w.depth.push_back(total(map) / (s[rows] * s[rows + 1]));
  }
  w.exit = whole.index(w.stage.exit);
  w.exit_bytes = total(w.stage.exit);
  w.entry_bytes = total(w.stage.entry);
  std::set<ValueId> maps(whole.maps().begin(), whole.maps().end());
  for (const PatchNode& n : w.stage.nodes) {
    const auto at = static_cast<size_t>(position[n.node.index]);
    in_stage[at] = true;
    Weighing::Node& node = w.nodes.emplace_back();
    int64_t others = 0;
    for (ValueId v : live[at].alive) {
      if (maps.contains(v)) node.alive.push_back(whole.index(v));
      else others += total(v);
    }
    w.bystanders = std::max(w.bystanders, others);
    if (live[at].overwritten && maps.contains(live[at].overwritten)) {
      node.overwritten = static_cast<int>(whole.index(live[at].overwritten));
      node.overwriting = static_cast<int>(whole.index(live[at].overwriting));
    }
    const lathe::Node& code = graph_[n.node];
    for (ValueId v : code.outputs)
      if (v) node.output = whole.index(v);
    const Shape& s = *graph_[whole.maps()[node.output]].shape;
    const auto rows = static_cast<size_t>(w.stage.axes.at(whole.maps()[node.output]));
    const int64_t macs = code.op->macs ? code.op->macs(graph_, code) : 0;
    node.macs_each = macs / (s[rows] * s[rows + 1]);
    w.macs += macs;
  }
  for (size_t s = 0; s < order.size(); ++s)
    if (!in_stage[s]) w.rest_bytes = std::max(w.rest_bytes, live.bytes(s, total));
  return w;
}

PatchChoice PatchSearch::weigh(const Weighing& w, const PatchTiling& rows, const PatchTiling& columns, const PatchGrid& grid) const {
  PatchChoice choice{w.stage.nodes.size(), grid, 0, w.rest_bytes, 0, w.macs, network_macs_};
  int64_t lines = 0;
  for (size_t m = 0; m < w.depth.size(); ++m) {
    if (m == 0 && options_.resident_input) continue;
    int64_t kept_rows = 0, kept_columns = 0, tallest = 0;
    for (int64_t y = 0; y < rows.tiles(); ++y) {
      kept_rows = std::max(kept_rows, rows.kept(y, m));
      tallest = std::max(tallest, rows.held(y, m).size());
    }
    for (int64_t x = 0; x < columns.tiles(); ++x) kept_columns = std::max(kept_columns, columns.kept(x, m));
    // The entry is read again, not kept.
    if (m > 0 && grid.cache_rows) lines += kept_rows * columns.extent(m) * w.depth[m];
    if (m > 0 && grid.cache_columns) lines += kept_columns * tallest * w.depth[m];
  }
  int64_t most = 0;
  std::vector<int64_t> size(w.depth.size());
  for (int64_t y = 0; y < rows.tiles(); ++y)
    for (int64_t x = 0; x < columns.tiles(); ++x) {
      for (size_t m = 0; m < size.size(); ++m) size[m] = rows.held(y, m).size() * columns.held(x, m).size() * w.depth[m];
      if (options_.resident_input) size[0] = 0;
      for (const Weighing::Node& n : w.nodes) {
        int64_t bytes = 0;
        for (size_t m : n.alive) bytes += static_cast<int>(m) == n.overwriting ? std::max(size[m], size[static_cast<size_t>(n.overwritten)]) : size[m];
        most = std::max(most, bytes);
        choice.stage_macs += rows.made(y, n.output).size() * columns.made(x, n.output).size() * n.macs_each;
      }
    }
  choice.stage_bytes = w.exit_bytes + lines + most + w.bystanders + (options_.resident_input ? w.entry_bytes : 0);
  return choice;
}

std::string PatchSearch::end_name(size_t nodes) const {
  const lathe::Node& last = graph_[prefix_.whole.nodes[nodes - 1].node];
  return last.name.empty() ? graph_[prefix_.stage(nodes).exit].name : last.name;
}

size_t PatchSearch::end_named(const std::string& name) const {
  for (size_t nodes : prefix_.ends)
    if (end_name(nodes) == name || graph_[prefix_.stage(nodes).exit].name == name) return nodes;
  std::string known;
  for (size_t i = 0; i < std::min<size_t>(prefix_.ends.size(), 10); ++i) known += fmt::format("{}'{}'", i ? ", " : "", end_name(prefix_.ends[i]));
  fail(ErrorKind::kUsage, "no stage ends at '{}'; stages end at {}{}", name, known.empty() ? "no node" : known, prefix_.ends.size() > 10 ? ", …" : "");
}

PatchChoice PatchSearch::layer_by_layer() const { return {0, {}, 0, network_bytes_, 0, 0, network_macs_}; }

PatchChoice PatchSearch::evaluate(size_t nodes, const PatchGrid& grid) const {
  const Weighing w = prepare(nodes);
  return weigh(w, PatchTiling(graph_, w.stage, 0, grid.rows, grid.cache_rows), PatchTiling(graph_, w.stage, 1, grid.columns, grid.cache_columns), grid);
}

void PatchSearch::for_each(const PatchLimits& limits, const std::function<void(const PatchChoice&)>& use) const {
  const auto keeps = [&](const PatchChoice& c) { return c.overhead() <= limits.most_overhead && (!limits.most_bytes || c.bytes() <= *limits.most_bytes); };
  if (const PatchChoice c = layer_by_layer(); keeps(c)) use(c);
  for (size_t nodes : prefix_.ends) {
    const Weighing w = prepare(nodes);
    // The axes do not depend on each other: each count of tiles along one is worked out once.
    const auto tilings = [&](int axis, int64_t most) {
      std::vector<std::pair<PatchTiling, bool>> all;
      const int64_t extent = (*graph_[w.stage.exit].shape)[static_cast<size_t>(w.stage.axes.at(w.stage.exit)) + static_cast<size_t>(axis)];
      for (int64_t count = 1; count <= std::min(most, extent); ++count)
        for (bool cache : {false, true}) {
          if (cache && (!limits.cache || count == 1)) continue;
          PatchTiling tiling(graph_, w.stage, axis, count, cache);
          if (tiling.tiles() == count) all.emplace_back(std::move(tiling), cache);
        }
      return all;
    };
    const auto rows = tilings(0, limits.most_rows), columns = tilings(1, limits.most_columns);
    for (const auto& [r, keep_rows] : rows)
      for (const auto& [c, keep_columns] : columns) {
        if (r.tiles() * c.tiles() == 1) continue;
        const PatchChoice choice = weigh(w, r, c, {r.tiles(), c.tiles(), keep_rows, keep_columns});
        if (keeps(choice)) use(choice);
      }
  }
}

namespace {

template <class Less>
std::optional<PatchChoice> first_by(const PatchSearch& search, const PatchLimits& limits, const Less& less) {
  std::optional<PatchChoice> best;
  search.for_each(limits, [&](const PatchChoice& c) {
    if (!best || less(c, *best)) best = c;
  });
  return best;
}

}  // namespace

std::optional<PatchChoice> PatchSearch::least_memory(const PatchLimits& limits) const {
  return first_by(*this, limits, [](const PatchChoice& a, const PatchChoice& b) { return std::pair(a.bytes(), a.macs()) < std::pair(b.bytes(), b.macs()); });
}

std::optional<PatchChoice> PatchSearch::fewest_macs(const PatchLimits& limits) const {
  return first_by(*this, limits, [](const PatchChoice& a, const PatchChoice& b) { return std::pair(a.macs(), a.bytes()) < std::pair(b.macs(), b.bytes()); });
}

std::vector<PatchChoice> PatchSearch::pareto_front(const PatchLimits& limits) const {
  std::vector<PatchChoice> all, front;
  for_each(limits, [&](const PatchChoice& c) { all.push_back(c); });
  std::stable_sort(all.begin(), all.end(), [](const PatchChoice& a, const PatchChoice& b) { return std::pair(a.bytes(), a.macs()) < std::pair(b.bytes(), b.macs()); });
  for (const PatchChoice& c : all)
    if (front.empty() || c.macs() < front.back().macs()) front.push_back(c);
  return front;
}

}  // namespace lathe
