// In which order steps run: the one that needs the least memory at its worst step, of those that a search with a bounded
// number of states finds. Networks are chains with few branches: most of the time one step is ready, and the search is exact.
#include <algorithm>
#include <numeric>
#include <set>

#include "targets/mcu/program.h"

namespace lathe::mcu {
namespace {

constexpr size_t kStates = 64;  // kept after each step

class Orderer {
 public:
  explicit Orderer(const McuProgram& p) : p_(p), size_(p.tensors.size()), uses_(p.tensors.size(), 0), kept_(p.tensors.size(), false) {
    // Steps of one node stay together: they fill one tensor, or read one. So do all tiles of a stage, which come before everything.
    for (size_t s = 0; s < p.steps.size(); ++s) {
      const bool begins = s < p.tile_steps ? s == 0 : s == p.tile_steps || p.steps[s].node.index != p.steps[s - 1].node.index;
      if (begins) units_.emplace_back();
      units_.back().steps.push_back(s);
    }
    std::vector<int> maker(p.tensors.size(), -1);
    for (size_t u = 0; u < units_.size(); ++u)
      for (size_t s : units_[u].steps) maker[origin(p.steps[s].output)] = static_cast<int>(u);
    for (size_t t = 0; t < p.tensors.size(); ++t) size_[t] = p.tensors[t].constant.defined() || p.tensors[t].outside ? 0 : p.tensors[t].bytes();
    for (size_t u = 0; u < units_.size(); ++u) {
      Unit& unit = units_[u];
      std::set<int> reads, makes, before;
      for (size_t s : unit.steps) {
        for (int t : p.steps[s].inputs) reads.insert(origin(t));
        makes.insert(origin(p.steps[s].output));
        unit.scratch = std::max(unit.scratch, p.steps[s].scratch_bytes);
      }
      if (unit.steps[0] < p.tile_steps) {
        // What tiles hold is gone with them, in every order.
        std::erase_if(reads, [&](int t) { return makes.contains(t); });
        makes = {origin(p.steps[p.tile_steps - 1].output)};
        unit.scratch = 0;
      }
      for (int t : reads)
        if (maker[t] >= 0 && maker[t] != static_cast<int>(u)) before.insert(maker[t]);
      unit.reads.assign(reads.begin(), reads.end());
      unit.makes.assign(makes.begin(), makes.end());
      unit.before.assign(before.begin(), before.end());
      const McuStep& only = p.steps[unit.steps[0]];
      if (unit.steps.size() == 1 && only.may_overwrite >= 0) unit.over = origin(only.inputs[only.may_overwrite]);
      for (int t : reads) ++uses_[t];
    }
    for (const McuBorder& b : p.outputs) kept_[origin(b.tensor)] = true;
    for (const McuBorder& b : p.inputs)
      if (uses_[origin(b.tensor)] > 0) start_ += size_[origin(b.tensor)];
  }

  // Steps in their new order.
  std::vector<size_t> search() const {
    std::vector<State> states{{start_, start_, std::vector<char>(units_.size(), 0), uses_, {}}};
    for (size_t done = 0; done < units_.size(); ++done) {
      std::vector<State> next;
      std::set<std::vector<char>> seen;
      for (const State& s : states)
        for (size_t u = 0; u < units_.size(); ++u)
          if (!s.done[u] && std::all_of(units_[u].before.begin(), units_[u].before.end(), [&](int b) { return s.done[b] != 0; }))
            next.push_back(after(s, u));
      // Of states that have done the same, the one that needed least stands for all: what is alive is the same.
      std::stable_sort(next.begin(), next.end(),
                       [](const State& a, const State& b) { return std::pair(a.peak, a.alive) < std::pair(b.peak, b.alive); });
      states.clear();
      for (State& s : next)
        if (states.size() < kStates && seen.insert(s.done).second) states.push_back(std::move(s));
    }
    std::vector<size_t> order;
    for (int u : states.at(0).order) order.insert(order.end(), units_[u].steps.begin(), units_[u].steps.end());
    return order;
  }

 private:
  struct Unit {
    std::vector<size_t> steps = {};
    std::vector<int> reads = {}, makes = {}, before = {};
    int64_t scratch = 0;
    int over = -1;  // tensor whose place the output may take
  };
  struct State {
    int64_t peak = 0, alive = 0;
    std::vector<char> done;
    std::vector<int> uses;  // readers still to come, by tensor
    std::vector<int> order;
  };

  int origin(int t) const {
    while (p_.tensors[t].view_of >= 0) t = p_.tensors[t].view_of;
    return t;
  }

  State after(const State& before, size_t u) const {
    State s = before;
    const Unit& unit = units_[u];
    int64_t made = 0, gone = 0;
    for (int t : unit.makes) {
      made += size_[t];
      if (uses_[t] == 0 && !kept_[t]) gone += size_[t];  // nobody wants it
    }
    for (int t : unit.reads)
      if (--s.uses[t] == 0 && !kept_[t]) gone += size_[t];
    const bool over = unit.over >= 0 && s.uses[unit.over] == 0 && !kept_[unit.over];
    s.peak = std::max(s.peak, s.alive + unit.scratch + (over ? std::max<int64_t>(0, made - size_[unit.over]) : made));
    s.alive += made - gone;
    s.done[u] = 1;
    s.order.push_back(static_cast<int>(u));
    return s;
  }

  const McuProgram& p_;
  std::vector<Unit> units_;
  std::vector<int64_t> size_;
  std::vector<int> uses_;
  std::vector<bool> kept_;
  int64_t start_ = 0;
};

}  // namespace

void order_and_place(McuProgram& program, bool in_place) {
  place(program, in_place);
  McuProgram other = program;
  const std::vector<size_t> order = Orderer(other).search();
  if (std::is_sorted(order.begin(), order.end())) return;
  std::vector<McuStep> steps;
  steps.reserve(order.size());
  for (size_t s : order) steps.push_back(std::move(other.steps[s]));
  other.steps = std::move(steps);
  place(other, in_place);
  if (other.arena_bytes < program.arena_bytes) program = std::move(other);
}

}  // namespace lathe::mcu
