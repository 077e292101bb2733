#include "targets/mcu/arena.h"

#include <algorithm>

#include "planner/scratchpad/packing.h"

namespace lathe::mcu {
namespace {

// Steps at which a buffer has one size are one part of it; sizes in multiples of `alignment`.
std::vector<PackItem> items_of(const std::vector<ArenaBuffer>& buffers, int64_t alignment) {
  std::vector<PackItem> items(buffers.size());
  for (size_t i = 0; i < buffers.size(); ++i) {
    int step = buffers[i].first_step;
    for (const int64_t bytes : buffers[i].bytes) {
      const int64_t height = (bytes + alignment - 1) / alignment * alignment;
      std::vector<PackItem::Part>& parts = items[i].parts;
      if (parts.empty() || parts.back().height != height) parts.push_back({step, step, height});
      parts.back().last = step++;
    }
  }
  return items;
}

}  // namespace

int64_t arena_lower_bound(const std::vector<ArenaBuffer>& buffers) { return pack_bound(items_of(buffers, 1)); }

int64_t place_arena(std::vector<ArenaBuffer>& buffers, int64_t alignment) {
  constexpr int kTries = 4000;
  std::vector<PackItem> items = items_of(buffers, alignment);
  const int64_t top = pack_greedily(items, pack_bound(items), kTries);
  for (size_t i = 0; i < buffers.size(); ++i) buffers[i].offset = items[i].address;
  return top;
}

}  // namespace lathe::mcu
