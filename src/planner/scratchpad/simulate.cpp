#include "planner/scratchpad/simulate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace lathe {
namespace {

constexpr int kNever = 1 << 30;

// One walk through an order. Sizes alone (choices()), or addresses too (placed()).
class Simulator {
 public:
  Simulator(const ScheduleIndex& index, const std::vector<int>& order, Replacement replacement)
      : index_(index), order_(order), replacement_(replacement), ends_(index.tensor_count), used_at_(index.tensor_count, -1), resident_(index.tensor_count, 0),
        outside_(index.tensor_count, 0), is_operand_(index.tensor_count, 0), at_(index.tensor_count, 0) {
    std::vector<int> position(index.operator_count);
    for (size_t t = 0; t < order.size(); ++t) position[static_cast<size_t>(order[t])] = static_cast<int>(t);
    size_t count = 0;
    for (const auto& list : index.consumers) count += list.size() + 1;
    uses_.reserve(count);
    for (size_t e = 0; e < index.tensor_count; ++e) {
      uses_.push_back(-1);  // below the first: no more uses
      const auto first = uses_.end() - uses_.begin();
      for (int k : index.consumers[e]) uses_.push_back(position[static_cast<size_t>(k)]);
      if (index.consumers[e].size() > 1) std::sort(uses_.begin() + first, uses_.end(), std::greater<>());  // the next use stands last
      ends_[e] = uses_.size();
      outside_[e] = index.from_outside(static_cast<int>(e));
    }
  }

  // The cost; the walk ends when it reaches `limit`.
  double run(std::vector<StepChoice>* choices, double limit) {
    cost_ = 0;
    for (size_t t = 0; t < order_.size() && cost_ < limit; ++t) {
      StepChoice c = begin(t);
      int64_t need = now_ + missing_bytes_ + index_.scratch[static_cast<size_t>(c.op)];
      for (int e : outputs()) need += index_.size[static_cast<size_t>(e)];
      for (const InPlaceOption& o : c.in_place) need -= index_.size[static_cast<size_t>(o.output)];
      free_bytes(need - index_.problem.capacity, t, c);
      end(c);
      if (choices) choices->push_back(std::move(c));
    }
    return cost_;
  }

  // What was placed where, step by step.
  struct Record {
    std::vector<StepChoice> choices;
    std::vector<std::vector<std::pair<int, int64_t>>> addresses;
    std::vector<int64_t> scratch;
  };

  // The cost; the walk ends when it reaches `limit`.
  double run_placed(ScratchPlacement placement, const PlacingRule& rule, Record* record, double limit) {
    cost_ = 0;
    for (size_t t = 0; t < order_.size() && cost_ < limit; ++t) {
      StepChoice c = begin(t);
      std::vector<int> wanted;
      for (int e : inputs()) if (!resident_[static_cast<size_t>(e)]) wanted.push_back(e);
      for (int e : outputs())
        if (std::none_of(c.in_place.begin(), c.in_place.end(), [&](auto& o) { return o.output == e; })) wanted.push_back(e);
      std::sort(wanted.begin(), wanted.end(), [&](int a, int b) { return index_.size[static_cast<size_t>(a)] > index_.size[static_cast<size_t>(b)]; });
      std::vector<std::pair<int, int64_t>> found;
      int64_t scratch_address = -1;
      while (!find_places(t, wanted, c, placement, rule, found, scratch_address)) {
        const int victim = placement == ScratchPlacement::kPlanned ? -1 : pick_victim(t);
        if (victim >= 0) {
          drop(victim, true);
          c.evict.push_back(victim);
          continue;
        }
        // Only the operands are left, or they lie so that the rest does not fit between: all move, through the memory outside.
        for (size_t i = here_.size(); i-- > 0;)
          if (const int e = here_[i]; !is_operand_[static_cast<size_t>(e)]) drop(e, true), c.evict.push_back(e);
        for (int e : inputs())
          if (resident_[static_cast<size_t>(e)]) {
            c.relocate.push_back(e);
            drop(e, true);
            wanted.push_back(e);
          }
        for (const InPlaceOption& o : options())
          if (std::none_of(c.in_place.begin(), c.in_place.end(), [&](auto& x) { return x.output == o.output || x.input == o.input; }) &&
              index_.size[static_cast<size_t>(o.output)] <= index_.size[static_cast<size_t>(o.input)]) {
            c.in_place.push_back(o);
            std::erase(wanted, o.output);
          }
        const bool fits = find_places(t, wanted, c, ScratchPlacement::kFirstFit, rule, found, scratch_address);
        require(fits, "operator '{}' does not fit alone", index_.problem.operators[static_cast<size_t>(c.op)].name);
        break;
      }
      for (auto [e, address] : found) at_[static_cast<size_t>(e)] = address;
      for (const InPlaceOption& o : c.in_place) {
        at_[static_cast<size_t>(o.output)] = at_[static_cast<size_t>(o.input)];
        found.emplace_back(o.output, at_[static_cast<size_t>(o.input)]);
      }
      end(c);
      if (!record) continue;
      record->choices.push_back(std::move(c));
      record->addresses.push_back(std::move(found));
      record->scratch.push_back(scratch_address);
    }
    return cost_;
  }

 private:
  const std::vector<int>& inputs() const { return index_.problem.operators[static_cast<size_t>(op_)].inputs; }
  const std::vector<int>& outputs() const { return index_.problem.operators[static_cast<size_t>(op_)].outputs; }
  const std::vector<InPlaceOption>& options() const { return index_.problem.operators[static_cast<size_t>(op_)].in_place; }
  bool used_again(size_t e) const { return uses_[ends_[e] - 1] >= 0; }
  bool used_once(size_t e) const { return used_again(e) && uses_[ends_[e] - 2] < 0; }
  int next_use(int e) const { return used_again(static_cast<size_t>(e)) ? uses_[ends_[static_cast<size_t>(e)] - 1] : kNever; }

  StepChoice begin(size_t t) {
    op_ = order_[t];
    StepChoice c{op_};
    missing_bytes_ = 0;
    for (int e : inputs()) {
      is_operand_[static_cast<size_t>(e)] = 1;
      if (!resident_[static_cast<size_t>(e)]) missing_bytes_ += index_.size[static_cast<size_t>(e)];
      used_at_[static_cast<size_t>(e)] = static_cast<int>(t);
    }
    for (int e : outputs()) used_at_[static_cast<size_t>(e)] = static_cast<int>(t);
    for (const InPlaceOption& o : options()) {
      const auto i = static_cast<size_t>(o.input), out = static_cast<size_t>(o.output);
      if (!used_once(i) || index_.size[out] > index_.size[i]) continue;  // it dies here, or not
      if (std::any_of(c.in_place.begin(), c.in_place.end(), [&](auto& x) { return x.output == o.output || x.input == o.input; })) continue;
      c.in_place.push_back(o);
    }
    return c;
  }

  void drop(int e, bool needed) {
    const auto i = static_cast<size_t>(e);
    resident_[i] = 0;
    now_ -= index_.size[i];
    std::erase(here_, e);
    if (!needed) return;
    if (!outside_[i]) cost_ += index_.store_cost(e), outside_[i] = 1;
    cost_ += index_.load_cost(e);  // it will be read again
  }

  double waste(int e, size_t t) const {
    const double cost = index_.load_cost(e) + (outside_[static_cast<size_t>(e)] ? 0 : index_.store_cost(e));
    return cost / (static_cast<double>(index_.size[static_cast<size_t>(e)]) * (next_use(e) - static_cast<double>(t)));
  }

  int pick_victim(size_t t) const {
    int best = -1;
    const auto better = [&](int a, int b) {
      switch (replacement_) {
        case Replacement::kLeastRecentlyUsed: return used_at_[static_cast<size_t>(a)] < used_at_[static_cast<size_t>(b)];
        case Replacement::kLargestFirst: return index_.size[static_cast<size_t>(a)] > index_.size[static_cast<size_t>(b)];
        case Replacement::kBelady: return next_use(a) > next_use(b);
        default: return waste(a, t) < waste(b, t);
      }
    };
    for (int e : here_)
      if (!is_operand_[static_cast<size_t>(e)] && (best < 0 || better(e, best))) best = e;
    return best;
  }

  void free_bytes(int64_t deficit, size_t t, StepChoice& c) {
    if (deficit <= 0) return;
    if (replacement_ == Replacement::kBeladyWithSizes) {
      // The cheapest single one that does it is compared with those that the rule takes one by one, less what is not needed of them.
      std::vector<int> candidates, chosen;
      for (int e : here_) if (!is_operand_[static_cast<size_t>(e)]) candidates.push_back(e);
      const auto cost = [&](int e) { return index_.load_cost(e) + (outside_[static_cast<size_t>(e)] ? 0 : index_.store_cost(e)); };
      std::sort(candidates.begin(), candidates.end(), [&](int a, int b) { return waste(a, t) < waste(b, t); });
      int64_t left = deficit;
      double sum = 0;
      int single = -1;
      for (int e : candidates) {
        if (index_.size[static_cast<size_t>(e)] >= deficit && (single < 0 || cost(e) < cost(single))) single = e;
        if (left > 0) chosen.push_back(e), left -= index_.size[static_cast<size_t>(e)], sum += cost(e);
      }
      for (size_t i = 0; i < chosen.size() && left < 0;)
        if (int64_t bytes = index_.size[static_cast<size_t>(chosen[i])]; left + bytes <= 0) {
          left += bytes;
          sum -= cost(chosen[i]);
          chosen.erase(chosen.begin() + static_cast<std::ptrdiff_t>(i));
        } else {
          ++i;
        }
      if (left <= 0 && single >= 0 && cost(single) < sum) chosen = {single};
      for (int e : chosen) drop(e, true), c.evict.push_back(e);
      deficit = left;
    } else {
      while (deficit > 0) {
        const int victim = pick_victim(t);
        if (victim < 0) break;
        deficit -= index_.size[static_cast<size_t>(victim)];
        drop(victim, true);
        c.evict.push_back(victim);
      }
    }
    // What still lacks can be had where outputs overwrite inputs that are needed again.
    for (const InPlaceOption& o : options()) {
      if (deficit <= 0) break;
      if (index_.size[static_cast<size_t>(o.output)] > index_.size[static_cast<size_t>(o.input)]) continue;
      if (std::any_of(c.in_place.begin(), c.in_place.end(), [&](auto& x) { return x.output == o.output || x.input == o.input; })) continue;
      c.in_place.push_back(o);
      deficit -= index_.size[static_cast<size_t>(o.output)];
    }
    require(deficit <= 0, "operator '{}' lacks {} bytes", index_.problem.operators[static_cast<size_t>(c.op)].name, deficit);
  }

  void end(const StepChoice& c) {
    for (int e : inputs()) {
      const auto i = static_cast<size_t>(e);
      is_operand_[i] = 0;
      if (!resident_[i]) resident_[i] = 1, now_ += index_.size[i], here_.push_back(e);
      --ends_[i];
    }
    for (const InPlaceOption& o : c.in_place) drop(o.input, used_again(static_cast<size_t>(o.input)));
    for (int e : outputs()) {
      const auto i = static_cast<size_t>(e);
      if (index_.is_output(e)) outside_[i] = 1;
      if (!used_again(i)) continue;
      resident_[i] = 1;
      now_ += index_.size[i];
      here_.push_back(e);
    }
    for (int e : inputs())
      if (resident_[static_cast<size_t>(e)] && !used_again(static_cast<size_t>(e))) drop(e, false);
  }

  struct Taken {
    int64_t begin, end;
    int tensor;  // −1: an operand, which stays
  };
  // Places for `wanted` and the operator's own bytes, one after the other; false where one finds none. kPlanned makes room where that costs least.
  bool find_places(size_t t, const std::vector<int>& wanted, StepChoice& c, ScratchPlacement placement, const PlacingRule& rule, std::vector<std::pair<int, int64_t>>& found, int64_t& scratch_address) {
    taken_.clear();
    for (int e : here_) {
      const auto i = static_cast<size_t>(e);
      taken_.push_back({at_[i], at_[i] + index_.size[i], is_operand_[i] ? -1 : e});
    }
    std::sort(taken_.begin(), taken_.end(), [](const Taken& a, const Taken& b) { return a.begin < b.begin; });
    found.clear();
    for (int e : wanted) {
      const int64_t address = put(t, index_.size[static_cast<size_t>(e)], e, c, placement, rule);
      if (address < 0) return false;
      found.emplace_back(e, address);
    }
    const int64_t scratch = index_.scratch[static_cast<size_t>(c.op)];
    scratch_address = scratch > 0 ? put(t, scratch, -1, c, placement, rule) : -1;
    return scratch == 0 || scratch_address >= 0;
  }

  int64_t put(size_t t, int64_t bytes, int e, StepChoice& c, ScratchPlacement placement, const PlacingRule& rule) {
    int64_t at = 0, best = -1, best_gap = 0;
    for (size_t i = 0; i <= taken_.size(); ++i) {
      const int64_t gap = (i < taken_.size() ? taken_[i].begin : usable_) - at;
      if (gap >= bytes && (best < 0 || (placement != ScratchPlacement::kFirstFit && gap < best_gap))) best = at, best_gap = gap;
      if (i < taken_.size()) at = taken_[i].end;
    }
    if (placement == ScratchPlacement::kPlanned) {
      // What stays long lies at the upper end of its hole, what goes soon at the lower: the two do not mix.
      const bool stays = e >= 0 && last_use(e) > static_cast<int>(t) + rule.soon;
      if (best >= 0 && stays) best += best_gap - bytes;
      if (best < 0) best = cheapest_window(t, bytes, c, rule);
    }
    if (best >= 0) {
      auto before = std::find_if(taken_.begin(), taken_.end(), [&](const Taken& x) { return x.begin > best; });
      taken_.insert(before, {best, best + bytes, -1});
    }
    return best;
  }

  // The window of addresses whose tensors cost least to move away; they are dropped. −1: operands lie everywhere.
  int64_t cheapest_window(size_t t, int64_t bytes, StepChoice& c, const PlacingRule& rule) {
    int64_t best = -1;
    double least = 0;
    const auto weigh = [&](int64_t begin) {
      if (begin < 0 || begin + bytes > usable_) return;
      double sum = 0;
      for (const Taken& x : taken_) {
        if (x.end <= begin || x.begin >= begin + bytes) continue;
        if (x.tensor < 0) return;
        const double cost = index_.load_cost(x.tensor) + (outside_[static_cast<size_t>(x.tensor)] ? 0 : index_.store_cost(x.tensor));
        sum += cost * std::pow(static_cast<double>(next_use(x.tensor)) - static_cast<double>(t), -rule.distance);
        if (best >= 0 && sum >= least) return;
      }
      best = begin;
      least = sum;
    };
    weigh(0);
    weigh(usable_ - bytes);
    for (const auto& t : taken_) {
      weigh(t.begin);
      weigh(t.end);
      weigh(t.begin - bytes);
      weigh(t.end - bytes);
    }
    if (best < 0) return -1;
    std::erase_if(taken_, [&](const Taken& x) {
      if (x.end <= best || x.begin >= best + bytes) return false;
      drop(x.tensor, true);
      c.evict.push_back(x.tensor);
      return true;
    });
    return best;
  }
  int last_use(int e) const {
    // The first of the sorted positions is the last use.
    size_t i = ends_[static_cast<size_t>(e)];
    while (i > 0 && uses_[i - 1] >= 0) --i;
    return i < ends_[static_cast<size_t>(e)] ? uses_[i] : -1;
  }

  const ScheduleIndex& index_;
  const std::vector<int>& order_;
  Replacement replacement_;
  std::vector<int> uses_;     // positions of the readers of each tensor, the next one last, −1 before them
  std::vector<size_t> ends_;  // one behind the next use
  std::vector<int> used_at_;
  std::vector<char> resident_, outside_, is_operand_;
  std::vector<int64_t> at_;
  std::vector<int> here_;
  std::vector<Taken> taken_;
  int op_ = -1;
  int64_t now_ = 0, missing_bytes_ = 0;
  const int64_t usable_ = index_.problem.capacity / index_.problem.alignment * index_.problem.alignment;
  double cost_ = 0;
};

}  // namespace

std::vector<StepChoice> simulate(const ScheduleIndex& index, const std::vector<int>& order, Replacement replacement) {
  std::vector<StepChoice> choices;
  Simulator(index, order, replacement).run(&choices, 1e300);
  return choices;
}

double simulated_cost(const ScheduleIndex& index, const std::vector<int>& order, double limit) {
  return Simulator(index, order, Replacement::kBeladyWithSizes).run(nullptr, limit);
}

ScratchSchedule simulate_placed(const ScheduleIndex& index, const std::vector<int>& order, Replacement replacement, ScratchPlacement placement, const PlacingRule& rule) {
  if (placement == ScratchPlacement::kCompacting) return assemble(index, simulate(index, order, replacement));
  Simulator::Record record;
  Simulator(index, order, replacement).run_placed(placement, rule, &record, 1e300);
  ScratchSchedule s = assemble(index, record.choices);
  s.placed = true;
  s.peak_bytes = 0;
  for (size_t t = 0; t < s.steps.size(); ++t) {
    s.steps[t].scratch_address = record.scratch[t];
    s.peak_bytes = std::max(s.peak_bytes, record.scratch[t] + index.scratch[static_cast<size_t>(s.steps[t].op)]);
    for (auto [e, address] : record.addresses[t]) {
      s.peak_bytes = std::max(s.peak_bytes, address + index.size[static_cast<size_t>(e)]);
      for (auto* list : {&s.steps[t].loads, &s.steps[t].outputs})
        for (PlacedTensor& p : *list) if (p.tensor == e) p.address = address;
    }
  }
  return s;
}

double placed_cost(const ScheduleIndex& index, const std::vector<int>& order, const PlacingRule& rule, double limit) {
  return Simulator(index, order, Replacement::kBeladyWithSizes).run_placed(ScratchPlacement::kPlanned, rule, nullptr, limit);
}

std::vector<Baseline> baselines(const ScheduleIndex& index, std::chrono::steady_clock::time_point deadline, bool placed) {
  std::vector<Baseline> all;
  const auto run = [&](const std::string& name, const std::vector<int>& order, Replacement rule, const char* rule_name) {
    for (auto [placement, placement_name] : {std::pair{ScratchPlacement::kFirstFit, "first fit"}, {ScratchPlacement::kBestFit, "best fit"}, {ScratchPlacement::kCompacting, "compacting"}}) {
      if ((placed && placement == ScratchPlacement::kCompacting) || std::chrono::steady_clock::now() > deadline) continue;
      all.push_back({name, rule_name, placement_name, simulate_placed(index, order, rule, placement)});
    }
  };
  std::vector<std::pair<std::string, std::vector<int>>> orders = {
      {"depth first", depth_first_order(index)}, {"greedy memory", greedy_memory_order(index)}, {"stored", index.stored_order}};
  const std::pair<Replacement, const char*> rules[] = {
      {Replacement::kBelady, "Belady"}, {Replacement::kBeladyWithSizes, "Belady with sizes"}, {Replacement::kLeastRecentlyUsed, "LRU"}, {Replacement::kLargestFirst, "largest first"}};
  for (auto [rule, name] : rules)
    for (const auto& [order_name, order] : orders) run(order_name, order, rule, name);
  // States of many operators are large: fewer of them.
  const int64_t states = std::min<int64_t>(int64_t{1} << 20, (int64_t{1} << 25) / static_cast<int64_t>(index.operator_count));
  if (auto order = lowest_peak_order(index, states, nullptr, deadline))
    for (auto [rule, name] : rules) run("lowest peak", *order, rule, name);
  return all;
}

}  // namespace lathe
