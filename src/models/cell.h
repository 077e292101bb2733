// Cells of the NASNet search space (Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition), read from
// a text, so that cells of DARTS and AmoebaNet are built too:
//
//   Cell cell = parse_cell("sep5:0+sep3:1 avg3:0+id:1 out:2,3");
//   ValueId y = build_cell(b, cell, {.net = x, .previous = before, .filters = 44});
//
// State 0 is the cell's input (after ReLU, 1×1, norm), 1 the output of the cell before it; each word makes the next state
// of two earlier ones, OPERATION:STATE each, joined by + (sum) or & (channels side by side). "out" names the states that are the
// cell's output, side by side; without it they are those that no operation reads.
#pragma once

#include "models/builder.h"

namespace lathe {

struct Cell {
  struct Part {
    std::string operation;
    size_t state = 0;
  };
  struct Step {
    Part left, right;
    bool concat = false;
  };
  std::vector<Step> steps;
  std::vector<size_t> output;
};

// id, conv1, conv3, conv1x3, conv1x7, dil3, dilsep3, dilsep5, sep3, sep5, sep7, avg3, max3, max5, max7.
const std::vector<std::string>& cell_operations();

// Throws kUsage naming the entry: an unknown operation, a state that is not made before it, one that is never produced or never used.
Cell parse_cell(const std::string& text);

struct CellPlace {
  ValueId net, previous = {};  // [N, C, H, W]; none before the first cell: net as it is
  int64_t filters = 0;         // F
  int64_t stride = 1;          // of operations on states 0 and 1
  double drop_rate = 0;        // of each operation's result in training
  bool scheduled = true;
};
// [N, F · outputs, H/stride, W/stride]. Convolutions have no bias, padding keeps sizes, ReLU stands before every convolution.
ValueId build_cell(Builder& b, const Cell& cell, const CellPlace& place);

}  // namespace lathe
