// Memory over time as a picture: steps across, addresses up, a rectangle for what lies there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lathe {

struct ArenaBox {
  std::string name;
  int first_step = 0, last_step = 0;
  int64_t offset = 0, bytes = 0;
};

std::string arena_svg(const std::vector<ArenaBox>& boxes, size_t steps, int64_t arena_bytes, int64_t lower_bound);

}  // namespace lathe
