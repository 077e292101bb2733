// Where a network is cut for patch-based execution (transform/patches.h), into which grid, and what is done with what tiles share:
// memory and multiply–accumulates of every choice, and the best of them. The memory is that of MCUNetV2 (Lin et al. 2021,
// sections 3.1 and 4; page 2.1 and 2.2): activations alone, whole maps outside the stage, an operator's live inputs and outputs.
//
//   Graph g = …;  specialize(g, {});  clean_up(g);
//   PatchSearch search(g);
//   PatchChoice best = search.least_memory({.most_overhead = 0.15});
//   run_in_patches(g, search.prefix().stage(best.nodes), best.grid);
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "transform/patches.h"

namespace lathe {

struct PatchMemoryOptions {
  int64_t bytes_per_element = 1;    // of every map: int8. 0: as the values' types say
  bool in_place_depthwise = true;   // a depthwise convolution of stride 1 overwrites its input, channel by channel (TinyEngine)
  bool resident_input = false;      // the network's input is there as a whole while the stage runs; else what a tile reads of it
};

// Bytes alive at most while the nodes of the graph run in `order`, whole map by whole map. Elementwise operators and views work in
// place where nothing reads their input later; constants count nothing.
int64_t peak_bytes(const Graph& graph, const std::vector<NodeId>& order, const PatchMemoryOptions& options = {});
// Of all nodes, as the graph orders them.
int64_t peak_bytes(const Graph& graph, const PatchMemoryOptions& options = {});

struct PatchChoice {
  size_t nodes = 0;  // of the stage (PatchPrefix::ends); 0: layer by layer
  PatchGrid grid;
  int64_t stage_bytes = 0;   // exit as a whole, line buffers, the largest tile
  int64_t rest_bytes = 0;    // what follows the stage
  int64_t stage_macs = 0;    // all tiles
  int64_t whole_stage_macs = 0, network_macs = 0;  // layer by layer
  int64_t bytes() const { return std::max(stage_bytes, rest_bytes); }
  int64_t macs() const { return network_macs - whole_stage_macs + stage_macs; }
  double stage_overhead() const { return ratio(stage_macs, whole_stage_macs); }  // of 0.1: 10 % more multiply–accumulates in the stage
  double overhead() const { return ratio(macs(), network_macs); }                // in the whole network
  static double ratio(int64_t with, int64_t without) { return without > 0 ? static_cast<double>(with) / static_cast<double>(without) - 1 : 0; }
};

// What the search may choose, and what it may not exceed.
struct PatchLimits {
  int64_t most_rows = 5, most_columns = 5;  // of the grid
  bool cache = true;                        // line buffers may be kept; else all that tiles share is made again
  double most_overhead = 1e9;               // PatchChoice::overhead()
  std::optional<int64_t> most_bytes = {};   // PatchChoice::bytes()
};

class PatchSearch {
 public:
  // The graph's shapes are known; `entry` and `channels_last` as in patchable_prefix().
  explicit PatchSearch(const Graph& graph, const PatchMemoryOptions& options = {}, ValueId entry = {}, bool channels_last = false);
  const PatchPrefix& prefix() const { return prefix_; }
  // The node that a stage ends with, or its value where that has no name; and the stage that a user names by either. kUsage, with the first
  // names that there are, where there is none.
  std::string end_name(size_t nodes) const;
  size_t end_named(const std::string& name) const;

  PatchChoice layer_by_layer() const;
  // kUsage when there is no such stage or the map is smaller than the grid.
  PatchChoice evaluate(size_t nodes, const PatchGrid& grid) const;
  // Every stage, grid and policy within the limits, layer by layer first.
  void for_each(const PatchLimits& limits, const std::function<void(const PatchChoice&)>& use) const;
  // Of the least bytes(), then the fewest macs(). Layer by layer is a choice too. None: nothing keeps the limits.
  std::optional<PatchChoice> least_memory(const PatchLimits& limits = {}) const;
  // Of the fewest macs(), then the least bytes().
  std::optional<PatchChoice> fewest_macs(const PatchLimits& limits = {}) const;
  // Those that no other choice beats in both bytes() and macs(); by rising bytes.
  std::vector<PatchChoice> pareto_front(const PatchLimits& limits = {}) const;

 private:
  struct Weighing;  // one stage, prepared
  PatchChoice weigh(const Weighing& stage, const PatchTiling& rows, const PatchTiling& columns, const PatchGrid& grid) const;
  Weighing prepare(size_t nodes) const;

  const Graph& graph_;
  PatchMemoryOptions options_;
  PatchPrefix prefix_;
  int64_t network_macs_ = 0, network_bytes_ = 0;
};

}  // namespace lathe
