// Which first part of a network a microcontroller computes tile by tile, and in which tiles (MCUNetV2, Lin et al. 2021).
//
//   McuProgram p = make_tiled_program(graph, {.outside_input = true}, {.most_overhead = 0.15});
//   p.arena_bytes, p.macs
#pragma once

#include <optional>
#include <string>

#include "targets/mcu/program.h"

namespace lathe::mcu {

struct TileWish {
  std::optional<Tiles> grid = {};          // these rows and columns, of any stage
  std::string end = {};                    // the node or value that the stage ends at; "": any
  double most_overhead = 0.15;             // multiply-accumulates that may be done twice, as a part of the network's; not asked where grid and end are said
  std::optional<int64_t> most_arena = {};  // the fewest multiply-accumulates within so many bytes, not the least arena
};

// What a stage and its tiles come to.
struct TileChoice {
  Tiles tiles;       // nodes 0: the network as a whole
  std::string end;   // the last node's name
  int64_t macs = 0, whole_macs = 0;
  double overhead() const { return static_cast<double>(macs) / static_cast<double>(whole_macs) - 1; }
};

struct TiledProgram {
  McuProgram program;
  TileChoice choice;
};

// Weighs stages and tiles by planner/patches.h, makes programs of the most promising ones and takes the best of those. Throws
// kBudget where none keeps the wish, kUnsupported where nothing of the network can run so, kUsage for an unknown end.
TiledProgram make_tiled_program(Graph graph, const ProgramOptions& options, const TileWish& wish);

}  // namespace lathe::mcu
