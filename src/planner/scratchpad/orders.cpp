#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "planner/scratchpad/simulate.h"

namespace lathe {
namespace {

// What is alive while operators run one after the other, nothing ever leaving early. What comes from outside and is read once is
// there for that step alone; what is read more often, from its first reader on.
class Alive {
 public:
  explicit Alive(const ScheduleIndex& index) : index_(index), uses_(index.tensor_count), there_(index.tensor_count, 0) {
    for (size_t e = 0; e < index.tensor_count; ++e) uses_[e] = static_cast<int>(index.consumers[e].size());
  }
  // Bytes while operator k runs, and after it.
  std::pair<int64_t, int64_t> after(int k) const {
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    int64_t during = now_ + index_.scratch[static_cast<size_t>(k)], then = now_;
    for (int e : o.inputs) {
      const auto i = static_cast<size_t>(e);
      const int64_t bytes = index_.size[i];
      if (!there_[i]) during += bytes, then += bytes;
      if (uses_[i] == 1) then -= bytes;
    }
    for (int e : o.outputs) {
      during += index_.size[static_cast<size_t>(e)];
      if (uses_[static_cast<size_t>(e)] > 0) then += index_.size[static_cast<size_t>(e)];
    }
    for (size_t x = 0; x < o.in_place.size(); ++x) {
      const auto i = static_cast<size_t>(o.in_place[x].input), out = static_cast<size_t>(o.in_place[x].output);
      bool free = uses_[i] == 1 && index_.size[out] <= index_.size[i];
      for (size_t y = 0; y < x; ++y) free = free && o.in_place[y].input != o.in_place[x].input && o.in_place[y].output != o.in_place[x].output;
      if (free) during -= index_.size[out];
    }
    return {during, then};
  }
  void run(int k) {
    now_ = after(k).second;
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    for (int e : o.inputs) there_[static_cast<size_t>(e)] = --uses_[static_cast<size_t>(e)] > 0;
    for (int e : o.outputs) there_[static_cast<size_t>(e)] = uses_[static_cast<size_t>(e)] > 0;
  }

 private:
  const ScheduleIndex& index_;
  std::vector<int> uses_;
  std::vector<char> there_;
  int64_t now_ = 0;
};

}  // namespace

int64_t peak_of(const ScheduleIndex& index, const std::vector<int>& order) {
  Alive alive(index);
  int64_t peak = 0;
  for (int k : order) {
    peak = std::max(peak, alive.after(k).first);
    alive.run(k);
  }
  return peak;
}

std::vector<int> depth_first_order(const ScheduleIndex& index) {
  std::vector<int> order;
  std::vector<char> seen(index.operator_count, 0);
  std::vector<std::pair<int, size_t>> stack;
  // From the operators that nothing waits for, those stored last first, into what each needs.
  for (auto root = index.stored_order.rbegin(); root != index.stored_order.rend(); ++root) {
    if (!index.after[static_cast<size_t>(*root)].empty() || seen[static_cast<size_t>(*root)]) continue;
    seen[static_cast<size_t>(*root)] = 1;
    stack.emplace_back(*root, 0);
    while (!stack.empty()) {
      auto& [k, next] = stack.back();
      const auto& before = index.before[static_cast<size_t>(k)];
      if (next < before.size()) {
        const int j = before[next++];
        if (!seen[static_cast<size_t>(j)]) seen[static_cast<size_t>(j)] = 1, stack.emplace_back(j, 0);
      } else {
        order.push_back(k);
        stack.pop_back();
      }
    }
  }
  return order;
}

std::vector<int> greedy_memory_order(const ScheduleIndex& index) {
  Alive alive(index);
  std::vector<int> waits(index.operator_count), ready, order;
  for (size_t k = 0; k < index.operator_count; ++k)
    if ((waits[k] = static_cast<int>(index.before[k].size())) == 0) ready.push_back(static_cast<int>(k));
  while (!ready.empty()) {
    size_t best = 0;
    std::pair<int64_t, int64_t> best_score;
    for (size_t r = 0; r < ready.size(); ++r) {
      auto [during, then] = alive.after(ready[r]);
      // One step further: the least that the operators which become ready by this one would leave.
      int64_t least = then;
      if (index.operator_count <= 300 && ready.size() <= 16) {
        Alive further = alive;
        further.run(ready[r]);
        for (int j : index.after[static_cast<size_t>(ready[r])])
          if (waits[static_cast<size_t>(j)] == 1) least = std::min(least, further.after(j).second);
      }
      std::pair<int64_t, int64_t> score{least, during};
      if (r == 0 || score < best_score) best = r, best_score = score;
    }
    const int k = ready[best];
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(best));
    order.push_back(k);
    alive.run(k);
    for (int j : index.after[static_cast<size_t>(k)])
      if (--waits[static_cast<size_t>(j)] == 0) ready.push_back(j);
  }
  return order;
}

namespace {

struct WordsHash {
  size_t operator()(const std::vector<uint64_t>& words) const {
    uint64_t h = 0x9e3779b97f4a7c15;
    for (uint64_t w : words) h = (h ^ w) * 0xff51afd7ed558ccd, h ^= h >> 32;
    return h;
  }
};

}  // namespace

std::optional<std::vector<int>> lowest_peak_order(const ScheduleIndex& index, int64_t states, int64_t* peak, std::chrono::steady_clock::time_point deadline) {
  struct State {
    int64_t peak = 0, now = 0;
    int parent = -1, op = -1;
  };
  const size_t n = index.operator_count, words = (n + 63) / 64;
  using Done = std::vector<uint64_t>;
  // What is alive follows from what is done alone.
  std::vector<State> history = {{}};
  std::unordered_map<Done, int, WordsHash> layer = {{Done(words, 0), 0}};
  const auto has = [](const Done& done, int k) { return done[static_cast<size_t>(k) / 64] >> (k % 64) & 1; };
  for (size_t step = 0; step < n; ++step) {
    std::unordered_map<Done, int, WordsHash> next;
    for (const auto& entry : layer) {
      const Done& done = entry.first;  // by name: clang 14 does not capture a structured binding
      const int at = entry.second;
      if ((history.size() & 15) == 0 && std::chrono::steady_clock::now() > deadline) return std::nullopt;
      const State state = history[static_cast<size_t>(at)];
      // An operator that leaves no more than it found, below the peak so far, may as well run at once.
      int chosen = -1;
      struct Move { int op; int64_t during, then; };
      std::vector<Move> moves;
      for (int k = 0; k < static_cast<int>(n) && chosen < 0; ++k) {
        if (has(done, k)) continue;
        const auto& before = index.before[static_cast<size_t>(k)];
        if (!std::all_of(before.begin(), before.end(), [&](int j) { return has(done, j); })) continue;
        const ScheduleOperator& o = index.problem.operators[static_cast<size_t>(k)];
        int64_t during = state.now + index.scratch[static_cast<size_t>(k)], then = state.now;
        std::vector<int> dying;
        for (int e : o.inputs) {
          const auto i = static_cast<size_t>(e);
          bool read = false, last = true;
          for (int j : index.consumers[i]) {
            if (j == k) continue;
            if (has(done, j)) read = true;
            else last = false;
          }
          if (index.from_outside(e) && !read) during += index.size[i], then += index.size[i];
          if (last) then -= index.size[i], dying.push_back(e);
        }
        for (int e : o.outputs) {
          during += index.size[static_cast<size_t>(e)];
          if (!index.consumers[static_cast<size_t>(e)].empty()) then += index.size[static_cast<size_t>(e)];
        }
        std::vector<int> taken;
        for (const InPlaceOption& option : o.in_place) {
          const bool dies = std::find(dying.begin(), dying.end(), option.input) != dying.end();
          if (!dies || index.size[static_cast<size_t>(option.output)] > index.size[static_cast<size_t>(option.input)]) continue;
          if (std::find(taken.begin(), taken.end(), option.output) != taken.end()) continue;
          std::erase(dying, option.input);
          taken.push_back(option.output);
          during -= index.size[static_cast<size_t>(option.output)];
        }
        moves.push_back({k, during, then});
        if (then <= state.now && during <= state.peak) chosen = static_cast<int>(moves.size()) - 1;
      }
      for (size_t m = 0; m < moves.size(); ++m) {
        if (chosen >= 0 && static_cast<int>(m) != chosen) continue;
        Done after = done;
        after[static_cast<size_t>(moves[m].op) / 64] |= uint64_t{1} << (moves[m].op % 64);
        const int64_t most = std::max(state.peak, moves[m].during);
        auto [found, fresh] = next.try_emplace(std::move(after), static_cast<int>(history.size()));
        if (fresh) {
          if (static_cast<int64_t>(history.size()) >= states) return std::nullopt;
          history.push_back({most, moves[m].then, at, moves[m].op});
        } else if (State& other = history[static_cast<size_t>(found->second)]; most < other.peak) {
          other.peak = most;
          other.parent = at;
          other.op = moves[m].op;
        }
      }
    }
    layer = std::move(next);
  }
  int at = layer.begin()->second;
  if (peak) *peak = history[static_cast<size_t>(at)].peak;
  std::vector<int> order;
  for (; history[static_cast<size_t>(at)].parent >= 0; at = history[static_cast<size_t>(at)].parent) order.push_back(history[static_cast<size_t>(at)].op);
  std::reverse(order.begin(), order.end());
  return order;
}

}  // namespace lathe
