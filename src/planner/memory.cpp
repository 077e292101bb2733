#include <algorithm>

#include "planner/plan.h"
#include "planner/scratchpad/packing.h"

namespace lathe {

// Greedy by size, area, time and lifetime (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference", section 4.3),
// then with what stands highest placed earlier, until nothing lower is possible or some hundred orders were tried (planner/scratchpad/packing.h).
int64_t place_buffers(std::vector<Buffer>& buffers) {
  constexpr int64_t kAlign = 64;  // a cache line, and the widest vector
  constexpr int kTries = 400;     // 20 ms for densenet121's 246 buffers, which need them
  std::vector<PackItem> items;
  items.reserve(buffers.size());
  for (const Buffer& b : buffers) items.push_back({{{b.first_step, b.last_step, (b.bytes + kAlign - 1) / kAlign * kAlign}}});
  pack_greedily(items, pack_bound(items), kTries);
  int64_t top = 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    buffers[i].offset = items[i].address;
    top = std::max(top, buffers[i].offset + buffers[i].bytes);
  }
  return top;
}

}  // namespace lathe
