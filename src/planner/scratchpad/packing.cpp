#include "planner/scratchpad/packing.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace lathe {
namespace {

bool together(const PackItem& a, const PackItem& b) { return a.first() <= b.last() && b.first() <= a.last(); }

// Where `b` would have to start at least to lie above `a`, and below which it would have to end: parts that meet decide, so that an
// item whose later parts are lower leaves room above them.
struct Conflict {
  int64_t begin = 0, end = 0;  // addresses of b's bottom that overlap: (begin, end)
  bool any = false;
};
Conflict conflict(const PackItem& a, const PackItem& b) {
  Conflict c;
  if (!together(a, b)) return c;
  int64_t above = 0, below = 0;
  for (const PackItem::Part& p : a.parts)
    for (const PackItem::Part& q : b.parts)
      if (p.first <= q.last && q.first <= p.last) {
        above = std::max(above, p.height);
        below = std::max(below, q.height);
        c.any = true;
      }
  c.begin = a.address - below;
  c.end = a.address + above;
  return c;
}

class Greedy {
 public:
  explicit Greedy(std::vector<PackItem>& items) : items_(items), near_(items.size()), heights_(items.size()) {
    std::vector<size_t> by_start(items.size());
    std::iota(by_start.begin(), by_start.end(), size_t{0});
    std::sort(by_start.begin(), by_start.end(), [&](size_t a, size_t b) { return items[a].first() < items[b].first(); });
    std::vector<size_t> alive;
    for (size_t i : by_start) {
      heights_[i] = items[i].height();
      std::erase_if(alive, [&](size_t j) { return items[j].last() < items[i].first(); });
      for (size_t j : alive) near_[i].push_back(j), near_[j].push_back(i);
      alive.push_back(i);
    }
  }

  // The height of the packing, or `limit` as soon as it is no lower.
  int64_t place(const std::vector<size_t>& order, int64_t limit) {
    placed_.assign(items_.size(), 0);
    int64_t top = 0;
    for (size_t i : order) {
      taken_.clear();
      for (size_t j : near_[i])
        if (placed_[j])
          if (Conflict c = conflict(items_[j], items_[i]); c.any) taken_.emplace_back(c.begin, c.end);
      std::sort(taken_.begin(), taken_.end());
      int64_t at = 0, best = -1, best_gap = 0;
      for (auto [begin, end] : taken_) {
        if (begin >= at) {
          const int64_t gap = begin - at;
          if (best < 0 || gap < best_gap) best = at, best_gap = gap;
        }
        at = std::max(at, end);
      }
      items_[i].address = best >= 0 ? best : at;
      placed_[i] = 1;
      top = std::max(top, items_[i].address + heights_[i]);
      if (top >= limit) return limit;
    }
    return top;
  }
  int64_t height(size_t i) const { return heights_[i]; }

 private:
  std::vector<PackItem>& items_;
  std::vector<std::vector<size_t>> near_;
  std::vector<int64_t> heights_;
  std::vector<char> placed_;
  std::vector<std::pair<int64_t, int64_t>> taken_;
};

// Depth first over items by rising address.
class Exact {
 public:
  Exact(std::vector<PackItem>& items, int64_t height, int64_t nodes) : items_(items), height_(height), nodes_(nodes) {
    int end = 0;
    for (const PackItem& i : items) end = std::max(end, i.last() + 1);
    skyline_.assign(static_cast<size_t>(end), 0);
    left_.assign(static_cast<size_t>(end), 0);
    for (const PackItem& i : items)
      for (const PackItem::Part& p : i.parts)
        for (int t = p.first; t <= p.last; ++t) left_[static_cast<size_t>(t)] += p.height;
    placed_.assign(items.size(), 0);
  }
  PackResult run() {
    for (int64_t l : left_)
      if (l > height_) return PackResult::kImpossible;
    if (descend(0, 0, 0)) return PackResult::kPlaced;
    return nodes_ < 0 ? PackResult::kUnknown : PackResult::kImpossible;
  }

 private:
  bool descend(size_t count, int64_t least, size_t before) {
    if (count == items_.size()) return true;
    if (--nodes_ < 0) return false;
    std::vector<std::pair<int64_t, size_t>> next;
    for (size_t i = 0; i < items_.size(); ++i) {
      if (placed_[i]) continue;
      int64_t at = 0;
      for (const PackItem::Part& p : items_[i].parts)
        for (int t = p.first; t <= p.last; ++t) at = std::max(at, skyline_[static_cast<size_t>(t)]);
      // It would have been placed before; what lies at one address does not meet, so that one order is enough.
      if (at < least || (at == least && i < before)) continue;
      next.emplace_back(at, i);
    }
    std::sort(next.begin(), next.end(), [&](const auto& a, const auto& b) {
      return a.first != b.first ? a.first < b.first : items_[a.second].height() > items_[b.second].height();
    });
    for (const auto& [at, i] : next) {
      if (nodes_ < 0) return false;
      if (!put(i, at)) continue;
      if (descend(count + 1, at, i)) return true;
      take_back();
    }
    return false;
  }
  bool put(size_t i, int64_t at) {
    PackItem& item = items_[i];
    undo_.push_back({i, {}});
    bool fits = true;
    for (const PackItem::Part& p : item.parts)
      for (int t = p.first; t <= p.last; ++t) {
        undo_.back().second.push_back(skyline_[static_cast<size_t>(t)]);
        skyline_[static_cast<size_t>(t)] = at + p.height;
        left_[static_cast<size_t>(t)] -= p.height;
        fits = fits && skyline_[static_cast<size_t>(t)] + left_[static_cast<size_t>(t)] <= height_;
      }
    item.address = at;
    placed_[i] = 1;
    if (!fits) take_back();
    return fits;
  }
  void take_back() {
    auto& [i, heights] = undo_.back();
    size_t h = 0;
    for (const PackItem::Part& p : items_[i].parts)
      for (int t = p.first; t <= p.last; ++t) {
        skyline_[static_cast<size_t>(t)] = heights[h++];
        left_[static_cast<size_t>(t)] += p.height;
      }
    placed_[i] = 0;
    undo_.pop_back();
  }

  std::vector<PackItem>& items_;
  int64_t height_, nodes_;
  std::vector<int64_t> skyline_, left_;
  std::vector<char> placed_;
  std::vector<std::pair<size_t, std::vector<int64_t>>> undo_;
};

}  // namespace

int64_t pack_bound(const std::vector<PackItem>& items) {
  std::vector<std::pair<int, int64_t>> changes;
  for (const PackItem& i : items)
    for (const PackItem::Part& p : i.parts) {
      changes.emplace_back(p.first, p.height);
      changes.emplace_back(p.last + 1, -p.height);
    }
  std::sort(changes.begin(), changes.end());  // what ends before what begins
  int64_t now = 0, most = 0;
  for (auto [step, change] : changes) most = std::max(most, now += change);
  return most;
}

int64_t pack_greedily(std::vector<PackItem>& items, int64_t height, int tries) {
  if (items.empty()) return 0;
  Greedy greedy(items);
  std::vector<size_t> order(items.size());
  std::vector<std::vector<size_t>> begun;  // orders to go on from
  std::vector<std::vector<int64_t>> addresses;
  std::vector<int64_t> kept(items.size());
  std::vector<int64_t> heights;
  int64_t best = INT64_MAX;
  const auto keep = [&](size_t way, int64_t top) {
    begun[way] = order;
    heights[way] = top;
    for (size_t i = 0; i < items.size(); ++i) addresses[way][i] = items[i].address;
    if (top < best) best = top, kept = addresses[way];
  };
  const auto area = [&](size_t i) {
    int64_t sum = 0;
    for (const PackItem::Part& p : items[i].parts) sum += p.height * (p.last - p.first + 1);
    return sum;
  };
  const auto length = [&](size_t i) { return items[i].last() - items[i].first(); };
  for (size_t way = 0; way < 4 && best > height; ++way) {
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      if (way == 0) return greedy.height(a) > greedy.height(b);
      if (way == 1) return area(a) > area(b);
      if (way == 2) return items[a].first() < items[b].first();
      return length(a) > length(b);
    });
    begun.emplace_back();
    heights.push_back(0);
    addresses.emplace_back(items.size());
    keep(way, greedy.place(order, INT64_MAX));
  }
  // From each of them on, in turns: what stands highest goes earlier, somewhere. The same seed gives the same packing.
  std::mt19937_64 random(1);
  std::vector<size_t> highest;
  for (int t = 0; t < tries && best > height; ++t) {
    const size_t way = static_cast<size_t>(t) % begun.size();
    order = begun[way];
    highest.clear();
    for (size_t at = 0; at < order.size(); ++at)
      if (addresses[way][order[at]] + greedy.height(order[at]) > height) highest.push_back(at);
    for (uint64_t moves = 1 + random() % 3; moves > 0; --moves) {
      const size_t from = random() % 4 ? highest[random() % highest.size()] : random() % order.size(), to = random() % (from + 1);
      std::rotate(order.begin() + static_cast<std::ptrdiff_t>(to), order.begin() + static_cast<std::ptrdiff_t>(from), order.begin() + static_cast<std::ptrdiff_t>(from) + 1);
    }
    // As good as before is taken too: it leads on.
    if (int64_t top = greedy.place(order, heights[way] + 1); top <= heights[way]) keep(way, top);
  }
  for (size_t i = 0; i < items.size(); ++i) items[i].address = kept[i];
  return best;
}

PackResult pack_within(std::vector<PackItem>& items, int64_t height, int tries, int64_t nodes) {
  if (pack_bound(items) > height) return PackResult::kImpossible;
  if (pack_greedily(items, height, tries) <= height) return PackResult::kPlaced;
  return Exact(items, height, nodes).run();
}

}  // namespace lathe
