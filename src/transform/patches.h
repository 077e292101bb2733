// Patch-based execution (MCUNetV2, Lin et al. 2021, section 3.1): the first part of a convolutional network runs on one tile
// of its maps after the other, so that no large map exists as a whole. Here stand the part that can run so (PatchStage), what
// each tile needs of every map (PatchTiling), and the transform that writes the tiles out as standard operators.
//
//   PatchPrefix prefix = patchable_prefix(graph);                 // specialized and cleaned, or planned
//   PatchStage stage = prefix.stage(prefix.ends.back());
//   run_in_patches(graph, stage, {.rows = 3, .columns = 3});      // Slice, the stage's operators, Concat
//
// planner/patches.h chooses among stages and grids. Rows are axis 0 of a map, columns axis 1, whatever its layout.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

// Positions [begin, end) along one axis of a map.
struct PatchRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const PatchRange&) const = default;
};

// A window that moves along one axis: output position p sees the input's p·stride − before + i·dilation for i < kernel.
struct PatchWindow {
  int64_t kernel = 1, stride = 1, dilation = 1;
  int64_t before = 0;
  int64_t reach() const { return (kernel - 1) * dilation + 1; }
  // What output positions `out` see, padding included: not clipped to the map.
  PatchRange sees(PatchRange out) const { return {out.begin * stride - before, (out.end - 1) * stride - before + reach()}; }
};

// How a node's input takes part: the same for every tile, seen through the window, or at the output's own positions.
enum class PatchInput { kFixed, kWindowed, kSame };

struct PatchNode {
  NodeId node;
  std::vector<PatchInput> inputs;  // one each; omitted ones are kFixed
  std::array<PatchWindow, 2> window;
  bool pads = false;  // a Pad: positions that see no input exist
};

// A part of the graph with one entry and one exit whose operators all work at a place of a map. Nodes stand in an order in
// which they can run. Maps have four dimensions.
struct PatchStage {
  ValueId entry, exit;
  std::vector<PatchNode> nodes;
  std::map<ValueId, int> axes;  // of every map: where its rows lie, axis 2 of [N, C, H, W] or 1 of [N, H, W, C]; columns follow
};

// All stages that begin at one value: the first nodes of `whole`, up to and including one of `ends`.
struct PatchPrefix {
  PatchStage whole;              // all nodes that could be taken; the exit is that of the last end
  // How many of the nodes a stage may have, rising; empty: none. No stage ends before the QuantizeLinear of its last operator.
  std::vector<size_t> ends;
  std::vector<ValueId> exits;    // by end
  std::string stop;          // why no more can be taken: "node 'pool' (GlobalAveragePool) sees the whole map"; "" at an output
  PatchStage stage(size_t nodes) const;  // `nodes`: one of `ends`, else throws kUsage
};

// Of the value `entry`, or of the only input of the graph that is a map. Shapes must be known; kUsage when the entry is no map
// ([N, C, H, W] of the standard's operators, [N, H, W, C] of those of ai.lathe and for `channels_last`).
PatchPrefix patchable_prefix(const Graph& graph, ValueId entry = {}, bool channels_last = false);

// How the exit's map is cut: into tiles of ceil(height / rows) × ceil(width / columns), the last ones smaller. Tiles run row by
// row of the grid. Along an axis with `cache`, what two neighbours share is kept by the first and not made again.
struct PatchGrid {
  int64_t rows = 1, columns = 1;
  bool cache_rows = false, cache_columns = false;
  bool operator==(const PatchGrid&) const = default;
};

// One axis of a grid: what every tile holds and makes of every map (page 2.2: a' = a·s − p, b' = b·s − p + (k − 1)·d, clipped to the
// map, hull over branches).
class PatchTiling {
 public:
  // `axis` 0: rows, 1: columns. kUsage when there are more tiles than positions.
  PatchTiling(const Graph& graph, const PatchStage& stage, int axis, int64_t tiles, bool cache);

  int64_t tiles() const { return static_cast<int64_t>(made_.size()); }  // fewer than asked for where larger tiles cover all
  const std::vector<ValueId>& maps() const { return maps_; }            // the entry, then what the nodes make, in their order
  size_t index(ValueId map) const;                                      // in maps(); throws kInternal
  int64_t extent(size_t map) const { return extents_[map]; }
  // What stands ready of a map while a tile runs, and what of it this tile computes (of the entry: reads). Both are the same
  // without cache. Empty ranges are possible, for tiles that nothing new is needed for.
  PatchRange held(int64_t tile, size_t map) const { return held_[static_cast<size_t>(tile)][map]; }
  PatchRange made(int64_t tile, size_t map) const { return made_[static_cast<size_t>(tile)][map]; }
  // Positions that the next tile takes over from this one; 0 without cache.
  int64_t kept(int64_t tile, size_t map) const;

 private:
  std::vector<PatchRange> needs(const Graph& graph, const PatchStage& stage, PatchRange exit, const std::vector<int64_t>* done,
                                std::vector<PatchRange>& made) const;

  std::vector<ValueId> maps_;
  std::map<ValueId, size_t> index_;
  std::vector<int64_t> extents_;
  int axis_;
  std::vector<std::vector<PatchRange>> held_, made_;
};

// The stage becomes one copy of its nodes for every tile, on slices of the entry, and the exit is put together by Concat: the same
// function, in standard ONNX where the stage is. Padding stands only at the true border. kUsage for grids that do not fit. Returns the
// value that takes the exit's place.
ValueId run_in_patches(Graph& graph, const PatchStage& stage, const PatchGrid& grid);

// The operator makes each element of its output from the elements at its place, as NumPy's broadcasting tells (standard ones).
bool is_elementwise(const Node& node);

}  // namespace lathe
