// What each tile holds and makes (PatchTiling), and the stage written out tile by tile (run_in_patches).
#include "transform/patches.h"

#include <algorithm>
#include <limits>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

PatchRange hull(PatchRange a, PatchRange b) {
  if (a.size() <= 0) return b;
  if (b.size() <= 0) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

// The positions of the map nearest to `range`: one at least.
PatchRange clip(PatchRange range, int64_t extent) {
  range.begin = std::clamp<int64_t>(range.begin, 0, extent - 1);
  range.end = std::clamp<int64_t>(range.end, range.begin + 1, extent);
  return range;
}

}  // namespace

PatchTiling::PatchTiling(const Graph& graph, const PatchStage& stage, int axis, int64_t tiles, bool cache) : axis_(axis) {
  const auto add = [&](ValueId v) {
    maps_.push_back(v);
    extents_.push_back((*graph[v].shape)[static_cast<size_t>(stage.axes.at(v)) + static_cast<size_t>(axis)]);
  };
  add(stage.entry);
  for (const PatchNode& n : stage.nodes)
    for (ValueId v : graph[n.node].outputs)
      if (v) add(v);
  for (size_t i = 0; i < maps_.size(); ++i) index_[maps_[i]] = i;
  const int64_t extent = extents_[index(stage.exit)];
  if (tiles < 1 || tiles > extent) fail(ErrorKind::kUsage, "{} tiles along an axis of {} {}", tiles, extent, axis == 0 ? "rows" : "columns");
  const int64_t size = (extent + tiles - 1) / tiles;
  std::vector<std::vector<PatchRange>> needed;
  std::vector<int64_t> done(maps_.size(), 0);  // how far each map has been made, with cache
  for (int64_t begin = 0; begin < extent; begin += size) {
    std::vector<PatchRange> made;
    needed.push_back(needs(graph, stage, {begin, std::min(begin + size, extent)}, cache ? &done : nullptr, made));
    for (size_t m = 0; m < maps_.size(); ++m) done[m] = std::max(done[m], made[m].end);
    made_.push_back(std::move(made));
  }
  held_ = needed;
  if (!cache) return;
  // A map is held from where this tile or a later one begins to read it, to where it has been made.
  for (size_t m = 0; m < maps_.size(); ++m) {
    int64_t from = std::numeric_limits<int64_t>::max(), end = 0;
    std::vector<int64_t> ends;
    for (const auto& made : made_) ends.push_back(end = std::max(end, made[m].end));
    for (size_t t = made_.size(); t-- > 0;) {
      if (needed[t][m].size() > 0) from = std::min(from, needed[t][m].begin);
      held_[t][m] = from < ends[t] ? PatchRange{from, ends[t]} : PatchRange{ends[t], ends[t]};
    }
  }
}

// What is needed of every map for `exit`; `made`: what of it is not there yet (`done`: up to where it is).
std::vector<PatchRange> PatchTiling::needs(const Graph& graph, const PatchStage& stage, PatchRange exit, const std::vector<int64_t>* done,
                                           std::vector<PatchRange>& made) const {
  std::vector<PatchRange> need(maps_.size());
  made.assign(maps_.size(), {});
  need[index(stage.exit)] = exit;
  const auto decide = [&](size_t m) {
    made[m] = need[m];
    if (!done || need[m].size() <= 0) return;
    made[m].begin = std::max(need[m].begin, (*done)[m]);
    if (made[m].begin >= made[m].end) made[m] = {};
  };
  for (size_t i = stage.nodes.size(); i-- > 0;) {
    const PatchNode& n = stage.nodes[i];
    const Node& node = graph[n.node];
    PatchRange all;  // outputs of one node are made together
    for (ValueId v : node.outputs)
      if (v) all = hull(all, need[index(v)]);
    PatchRange out;
    for (ValueId v : node.outputs) {
      if (!v) continue;
      need[index(v)] = all;
      decide(index(v));
      out = made[index(v)];
    }
    if (out.size() <= 0) continue;
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      if (n.inputs[k] == PatchInput::kFixed) continue;
      const size_t m = index(node.inputs[k]);
      const PatchRange seen = n.inputs[k] == PatchInput::kSame ? out : n.window[static_cast<size_t>(axis_)].sees(out);
      need[m] = hull(need[m], clip(seen, extents_[m]));
    }
  }
  decide(0);
  return need;
}

size_t PatchTiling::index(ValueId map) const {
  const auto found = index_.find(map);
  require(found != index_.end(), "a value is no map of the stage");
  return found->second;
}

int64_t PatchTiling::kept(int64_t tile, size_t map) const {
  if (tile + 1 >= tiles()) return 0;
  return std::max<int64_t>(0, held(tile, map).end - std::max(held(tile + 1, map).begin, held(tile, map).begin));
}

namespace {

// A part of a map that a tile holds.
struct Piece {
  ValueId value;
  std::array<PatchRange, 2> range;
  int axis = 0;  // of its rows
  bool empty() const { return range[0].size() <= 0 || range[1].size() <= 0; }
};

class PatchWriter {
 public:
  PatchWriter(Graph& g, const PatchStage& stage, const PatchGrid& grid)
      : g_(g), stage_(stage), tiling_{PatchTiling(g, stage, 0, grid.rows, grid.cache_rows), PatchTiling(g, stage, 1, grid.columns, grid.cache_columns)},
        cached_{grid.cache_rows, grid.cache_columns} {}

  // The exit, put together.
  ValueId run() {
    const size_t exit = tiling_[0].index(stage_.exit);
    std::vector<ValueId> rows;
    std::vector<std::vector<Piece>> above(static_cast<size_t>(tiling_[1].tiles())), left;
    for (int64_t y = 0; y < tiling_[0].tiles(); ++y) {
      std::vector<ValueId> row;
      std::vector<Piece> before;
      for (int64_t x = 0; x < tiling_[1].tiles(); ++x) {
        std::vector<Piece> tile = run_tile(y, x, above[static_cast<size_t>(x)], before);
        row.push_back(cut(tile[exit], {made(0, y, exit), made(1, x, exit)}));
        above[static_cast<size_t>(x)] = tile;
        before = std::move(tile);
      }
      rows.push_back(join(row, axis_of(exit) + 1));
    }
    return join(rows, axis_of(exit));
  }

 private:
  PatchRange made(int axis, int64_t tile, size_t map) const { return tiling_[static_cast<size_t>(axis)].made(tile, map); }
  PatchRange held(int axis, int64_t tile, size_t map) const { return tiling_[static_cast<size_t>(axis)].held(tile, map); }
  int axis_of(size_t map) const { return stage_.axes.at(tiling_[0].maps()[map]); }

  // What the tile holds of every map.
  std::vector<Piece> run_tile(int64_t y, int64_t x, const std::vector<Piece>& above, const std::vector<Piece>& left) {
    std::vector<Piece> tile(tiling_[0].maps().size());
    tile[0] = {stage_.entry, {PatchRange{0, tiling_[0].extent(0)}, PatchRange{0, tiling_[1].extent(0)}}, axis_of(0)};
    for (const PatchNode& n : stage_.nodes) {
      const Node node = g_[n.node];  // a copy: nodes move when others are added
      const size_t first = first_map(node);
      std::vector<ValueId> values(node.outputs.size());
      const std::array<PatchRange, 2> out{made(0, y, first), made(1, x, first)};
      if (out[0].size() > 0 && out[1].size() > 0) values = run_node(n, node, out, tile, y, x);
      for (size_t k = 0; k < node.outputs.size(); ++k) {
        if (!node.outputs[k]) continue;
        const size_t map = tiling_[0].index(node.outputs[k]);
        tile[map] = with_kept(map, {values[k], out, axis_of(map)}, y, x, above, left);
      }
    }
    return tile;
  }

  size_t first_map(const Node& node) const {
    for (ValueId v : node.outputs)
      if (v) return tiling_[0].index(v);
    fail(ErrorKind::kInternal, "node '{}' makes nothing", node.name);
  }

  // One node for one tile; its outputs.
  std::vector<ValueId> run_node(const PatchNode& n, const Node& node, const std::array<PatchRange, 2>& out, const std::vector<Piece>& tile, int64_t y, int64_t x) {
    Node copy = node;
    copy.name = fmt::format("{}_patch_{}_{}", node.name, y, x);
    std::array<int64_t, 2> before{}, after{};
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      if (n.inputs[k] == PatchInput::kFixed) continue;
      const size_t map = tiling_[0].index(node.inputs[k]);
      std::array<PatchRange, 2> wanted = out;
      if (n.inputs[k] == PatchInput::kWindowed)
        for (size_t a = 0; a < 2; ++a) {
          const PatchRange seen = n.window[a].sees(out[a]);
          wanted[a] = clip(seen, tiling_[a].extent(map));
          before[a] = wanted[a].begin - seen.begin;
          after[a] = seen.end - wanted[a].end;
        }
      copy.inputs[k] = cut(tile[map], wanted);
    }
    if (n.pads) return {pad(copy, axis_of(first_map(node)), before, after)};
    if (copy.op->find("pads")) {
      copy.attributes["pads"] = Ints{before[0], before[1], after[0], after[1]};
      copy.attributes.erase("auto_pad");
      copy.attributes.erase("ceil_mode");
    }
    for (size_t k = 0; k < node.outputs.size(); ++k)
      if (node.outputs[k]) {
        Value value = g_[node.outputs[k]];
        value.name = g_.fresh_name(fmt::format("{}_patch_{}_{}", value.name, y, x));
        value.dim_names.clear();
        value.producer = {};
        for (size_t a = 0; a < 2; ++a) (*value.shape)[static_cast<size_t>(axis_of(tiling_[0].index(node.outputs[k]))) + a] = out[a].size();
        copy.outputs[k] = g_.add_value(std::move(value));
      }
    std::vector<ValueId> made = copy.outputs;
    g_.add_node(std::move(copy));
    return made;
  }

  // A Pad of a tile that lies in the padding has fewer than nothing to add on the other side: what is too much is cut off.
  ValueId pad(Node node, int axis, const std::array<int64_t, 2>& before, const std::array<int64_t, 2>& after) {
    Ints pads(8, 0), begin, end;
    const Shape in = *g_[node.inputs[0]].shape;
    for (size_t a = 0; a < 2; ++a) {
      const auto at = static_cast<size_t>(axis) + a;
      pads[at] = std::max<int64_t>(before[a], 0);
      pads[at + 4] = std::max<int64_t>(after[a], 0);
      begin.push_back(std::max<int64_t>(-before[a], 0));
      end.push_back(in[at] + pads[at] + pads[at + 4] - std::max<int64_t>(-after[a], 0));
    }
    std::vector<ValueId> inputs = node.inputs;
    inputs[1] = g_.add_constant(Tensor::of_i64(pads));
    const ValueId padded = g_.add("Pad", inputs, node.attributes, node.name);
    const Shape& shape = *g_[padded].shape;
    const Piece whole{padded, {PatchRange{0, shape[static_cast<size_t>(axis)]}, PatchRange{0, shape[static_cast<size_t>(axis) + 1]}}, axis};
    return cut(whole, {PatchRange{begin[0], end[0]}, PatchRange{begin[1], end[1]}});
  }

  // What was made with what neighbours keep: above over all columns that the tile holds, to the left of the rest.
  Piece with_kept(size_t map, Piece made, int64_t y, int64_t x, const std::vector<Piece>& above, const std::vector<Piece>& left) {
    const std::array<PatchRange, 2> all{held(0, y, map), held(1, x, map)};
    if (!cached_[0] && !cached_[1]) return made;
    const int64_t row = made.range[0].size() > 0 ? made.range[0].begin : all[0].end, column = made.range[1].size() > 0 ? made.range[1].begin : all[1].end;
    const auto part = [&](const Piece& from, std::array<PatchRange, 2> wanted, std::vector<ValueId>& list) {
      if (wanted[0].size() > 0 && wanted[1].size() > 0) list.push_back(cut(from, wanted));
    };
    std::vector<ValueId> beside, below;
    const PatchRange new_rows{std::max(row, all[0].begin), all[0].end};
    if (cached_[1] && x > 0) part(left[map], {new_rows, PatchRange{all[1].begin, column}}, beside);
    if (!made.empty()) beside.push_back(made.value);
    if (cached_[0] && y > 0) part(above[map], {PatchRange{all[0].begin, row}, all[1]}, below);
    if (!beside.empty()) below.push_back(join(beside, axis_of(map) + 1));
    if (below.empty()) return {};
    return {join(below, axis_of(map)), all, axis_of(map)};
  }

  // The part `wanted` of what a tile holds.
  ValueId cut(const Piece& from, const std::array<PatchRange, 2>& wanted) {
    if (from.range == wanted) return from.value;
    Ints begin, end, axes;
    for (size_t a = 0; a < 2; ++a) {
      const int64_t offset = wanted[a].begin - from.range[a].begin;
      require(offset >= 0 && wanted[a].end <= from.range[a].end && wanted[a].size() > 0, "a tile needs {} to {} of a map that it holds from {} to {}", wanted[a].begin,
              wanted[a].end, from.range[a].begin, from.range[a].end);
      if (wanted[a] == from.range[a]) continue;
      begin.push_back(offset);
      end.push_back(offset + wanted[a].size());
      axes.push_back(from.axis + static_cast<int64_t>(a));
    }
    return g_.add("Slice", {from.value, g_.add_constant(Tensor::of_i64(begin)), g_.add_constant(Tensor::of_i64(end)), g_.add_constant(Tensor::of_i64(axes))});
  }

  ValueId join(const std::vector<ValueId>& parts, int axis) {
    return parts.size() == 1 ? parts[0] : g_.add("Concat", parts, {{"axis", static_cast<int64_t>(axis)}});
  }

  Graph& g_;
  const PatchStage& stage_;
  std::array<PatchTiling, 2> tiling_;
  std::array<bool, 2> cached_;
};

}  // namespace

ValueId run_in_patches(Graph& graph, const PatchStage& stage, const PatchGrid& grid) {
  const ValueId whole = PatchWriter(graph, stage, grid).run();
  graph.replace_uses(stage.exit, whole);
  // A graph's output keeps its name.
  const std::string name = graph[stage.exit].name;
  graph[stage.exit].name = graph.fresh_name(name + "_whole");
  graph[whole].name = name;
  graph[whole].dim_names = graph[stage.exit].dim_names;
  remove_dead(graph);
  return whole;
}

}  // namespace lathe
