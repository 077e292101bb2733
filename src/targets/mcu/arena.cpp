#include "targets/mcu/arena.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace lathe::mcu {
namespace {

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

class Placer {
 public:
  Placer(const std::vector<ArenaBuffer>& buffers, int64_t alignment)
      : buffers_(buffers), alignment_(alignment), count_(buffers.size()), room_(count_ * count_, -1) {
    for (size_t below = 0; below < count_; ++below)
      for (size_t above = 0; above < count_; ++above)
        if (below != above) room_[below * count_ + above] = room(buffers[below], buffers[above]);
  }

  // Each in turn at the lowest offset where it fits. Gives up above `limit`.
  int64_t place(const std::vector<size_t>& order, std::vector<int64_t>& offsets, int64_t limit) const {
    int64_t top = 0;
    std::vector<std::pair<int64_t, int64_t>> taken;  // offsets that a buffer may not have: open intervals
    for (size_t at = 0; at < count_; ++at) {
      const size_t i = order[at];
      taken.clear();
      for (size_t k = 0; k < at; ++k) {
        const size_t j = order[k];
        if (room_[i * count_ + j] >= 0) taken.emplace_back(offsets[j] - room_[i * count_ + j], offsets[j] + room_[j * count_ + i]);
      }
      std::sort(taken.begin(), taken.end());
      int64_t offset = 0;
      for (auto [begin, end] : taken) {
        if (begin >= offset) break;
        offset = std::max(offset, end);
      }
      offsets[i] = offset;
      top = std::max(top, offset + *std::max_element(buffers_[i].bytes.begin(), buffers_[i].bytes.end()));
      if (top >= limit) return top;
    }
    return top;
  }

 private:
  // How far above `below` the other must begin: the most bytes that it has while both live. −1: they never do.
  int64_t room(const ArenaBuffer& below, const ArenaBuffer& above) const {
    int64_t most = -1;
    for (int s = std::max(below.first_step, above.first_step); s <= std::min(below.last_step(), above.last_step()); ++s)
      most = std::max(most, below.bytes[s - below.first_step]);
    return most < 0 ? -1 : round_up(most, alignment_);
  }

  const std::vector<ArenaBuffer>& buffers_;
  int64_t alignment_;
  size_t count_;
  std::vector<int64_t> room_;  // [below, above]
};

}  // namespace

int64_t arena_lower_bound(const std::vector<ArenaBuffer>& buffers) {
  int end = 0;
  for (const ArenaBuffer& b : buffers) end = std::max(end, b.last_step() + 1);
  std::vector<int64_t> alive(end, 0);
  for (const ArenaBuffer& b : buffers)
    for (int s = b.first_step; s <= b.last_step(); ++s) alive[s] += b.bytes[s - b.first_step];
  return alive.empty() ? 0 : *std::max_element(alive.begin(), alive.end());
}

int64_t place_arena(std::vector<ArenaBuffer>& buffers, int64_t alignment) {
  constexpr int kTries = 4000;
  constexpr int64_t kNoLimit = INT64_MAX;
  const size_t count = buffers.size();
  if (count == 0) return 0;
  const Placer placer(buffers, alignment);
  std::vector<int64_t> largest(count), area(count);
  for (size_t i = 0; i < count; ++i) {
    largest[i] = *std::max_element(buffers[i].bytes.begin(), buffers[i].bytes.end());
    area[i] = std::accumulate(buffers[i].bytes.begin(), buffers[i].bytes.end(), int64_t{0});
  }
  std::vector<size_t> best_order;
  std::vector<int64_t> best(count), offsets(count);
  int64_t best_top = kNoLimit;
  auto attempt = [&](const std::vector<size_t>& order) {
    const int64_t top = placer.place(order, offsets, best_top);
    if (top >= best_top) return false;
    best_top = top;
    best = offsets;
    best_order = order;
    return true;
  };
  for (int way = 0; way < 3; ++way) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return way == 0 ? largest[a] > largest[b] : way == 1 ? area[a] > area[b] : buffers[a].first_step < buffers[b].first_step;
    });
    attempt(order);
  }
  const int64_t bound = arena_lower_bound(buffers);
  std::mt19937 random(1);  // the same places every time
  for (int i = 0; i < kTries && best_top > bound && count > 1; ++i) {
    std::vector<size_t> order = best_order;
    const size_t swaps = 1 + random() % 3;
    for (size_t k = 0; k < swaps; ++k) {
      const size_t from = random() % count, to = random() % count;
      const size_t moved = order[from];
      order.erase(order.begin() + static_cast<std::ptrdiff_t>(from));
      order.insert(order.begin() + static_cast<std::ptrdiff_t>(to), moved);
    }
    attempt(order);
  }
  for (size_t i = 0; i < count; ++i) buffers[i].offset = best[i];
  return round_up(best_top, alignment);
}

}  // namespace lathe::mcu
