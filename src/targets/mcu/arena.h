// Places in an arena for buffers whose size changes while they live: where an output takes the place of an input, both
// begin at one address, and what is alive there is as large as the larger of the two, step by step.
#pragma once

#include <cstdint>
#include <vector>

namespace lathe::mcu {

struct ArenaBuffer {
  int first_step = 0;
  std::vector<int64_t> bytes;  // at first_step and the steps after it
  int64_t offset = 0;
  int last_step() const { return first_step + static_cast<int>(bytes.size()) - 1; }
};

// Sets the offsets, multiples of `alignment`, so that buffers alive at one step do not overlap there. Returns the arena's size.
// Greedy, then a search over orders (planner/scratchpad/packing.h), which ends at the lower bound.
int64_t place_arena(std::vector<ArenaBuffer>& buffers, int64_t alignment);
// Most bytes alive at any step.
int64_t arena_lower_bound(const std::vector<ArenaBuffer>& buffers);

}  // namespace lathe::mcu
