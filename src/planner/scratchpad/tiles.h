// A network whose large operators run in tiles, each on a part of its output: rows of a picture, tokens, or channels where the weights are
// what is large. Then every operator fits a small scratchpad, and the order of the tiles is the planner's to choose: layer by layer, or one
// band of the picture through many layers.
#pragma once

#include "planner/scratchpad/network.h"

namespace lathe {

// [begin, end) along `axis` of a value of the network before.
struct TilePart {
  size_t index = 0;  // of the input or output
  int64_t axis = 0, begin = 0, end = 0;
};

struct TiledNetwork {
  Graph graph;                     // tiles are nodes; what cuts and joins their inputs has the scope kTileScope
  std::vector<TilePart> inputs, outputs;  // by input and output of `graph`: which part of which one of the network they are
  std::vector<NodeId> origin;      // by node of `graph`: the node of the network that it is a part of
  int64_t tiled_nodes = 0, tiles = 0;
  // Parts of the network's inputs, and the network's outputs from their parts.
  std::vector<Tensor> cut(const std::vector<Tensor>& inputs) const;
  std::vector<Tensor> join(const std::vector<Tensor>& outputs, const Graph& network) const;
};

// Tiles of a lowered graph so small that the operands of each are about at most `operand_bytes` (by node) together where that can be had;
// operators that cannot be cut (attention, transposes) stay whole. A mean over a picture becomes sums of its parts.
TiledNetwork tile_network(const Graph& graph, const std::vector<int64_t>& operand_bytes);

// Of several tilings in which every operator fits the scratchpad, the one that the greedy planner moves least for. Throws kBudget naming an
// operator that fits in none.
struct FittedNetwork {
  TiledNetwork tiles;
  ScheduleNetwork network;
};
FittedNetwork fit_in_tiles(const Graph& graph, const Scratchpad& scratchpad);

}  // namespace lathe
