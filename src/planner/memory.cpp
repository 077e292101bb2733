#include <algorithm>
#include <numeric>

#include "planner/plan.h"

namespace lathe {

// Greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference",
// section 4.3), tried with three orders; the smallest arena wins.
int64_t place_buffers(std::vector<Buffer>& buffers) {
  constexpr int64_t kAlign = 64;  // a cache line, and the widest vector
  auto overlap = [](const Buffer& a, const Buffer& b) { return a.first_step <= b.last_step && b.first_step <= a.last_step; };
  auto place = [&](const std::vector<size_t>& order, std::vector<int64_t>& offsets) {
    int64_t top = 0;
    std::vector<size_t> placed;
    for (size_t i : order) {
      std::vector<std::pair<int64_t, int64_t>> taken;
      for (size_t j : placed)
        if (overlap(buffers[i], buffers[j])) taken.emplace_back(offsets[j], offsets[j] + buffers[j].bytes);
      std::sort(taken.begin(), taken.end());
      int64_t at = 0, best = -1, best_gap = 0;
      for (auto [begin, end] : taken) {
        int64_t gap = begin - at;
        if (gap >= buffers[i].bytes && (best < 0 || gap < best_gap)) { best = at; best_gap = gap; }
        at = std::max(at, (end + kAlign - 1) / kAlign * kAlign);
      }
      offsets[i] = best >= 0 ? best : at;
      top = std::max(top, offsets[i] + buffers[i].bytes);
      placed.push_back(i);
    }
    return top;
  };
  auto area = [&](size_t i) { return buffers[i].bytes * (buffers[i].last_step - buffers[i].first_step + 1); };
  auto by_size = [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; };
  auto by_area = [&](size_t a, size_t b) { return area(a) > area(b); };
  auto by_time = [&](size_t a, size_t b) { return buffers[a].first_step < buffers[b].first_step; };
  int64_t best = -1;
  std::vector<int64_t> kept(buffers.size());
  for (int way = 0; way < 3; ++way) {
    std::vector<size_t> order(buffers.size());
    std::iota(order.begin(), order.end(), 0);
    if (way == 0) std::stable_sort(order.begin(), order.end(), by_size);
    if (way == 1) std::stable_sort(order.begin(), order.end(), by_area);
    if (way == 2) std::stable_sort(order.begin(), order.end(), by_time);
    std::vector<int64_t> offsets(buffers.size(), 0);
    int64_t top = place(order, offsets);
    if (best < 0 || top < best) { best = top; kept = offsets; }
  }
  for (size_t i = 0; i < buffers.size(); ++i) buffers[i].offset = kept[i];
  return std::max<int64_t>(best, 0);
}

}  // namespace lathe
