// Classic ways to use a scratchpad, step by step: an order of the operators, a rule for what goes when there is no room, and one for
// where the next tensor is put. They are what a planner is measured against (baselines), and where one begins (greedy).
#pragma once

#include <chrono>
#include <optional>

#include "planner/scratchpad/schedule.h"

namespace lathe {

enum class Replacement { kLeastRecentlyUsed, kLargestFirst, kBelady, kBeladyWithSizes };
// kCompacting moves what is there together, at no cost: a limit, not a method. Its schedules have no addresses. kPlanned is no classic one:
// it knows the order, keeps what stays long apart from what goes soon, and where there is no hole makes one where that costs least.
enum class ScratchPlacement { kFirstFit, kBestFit, kCompacting, kPlanned };
struct PlacingRule {
  int soon = 8;         // steps until the last use
  double distance = 1;  // a tensor is worth its cost over the steps until it is read, to this power
};

// The choices of the rules for one order. kCompacting: the sizes alone are looked at.
std::vector<StepChoice> simulate(const ScheduleIndex& index, const std::vector<int>& order, Replacement replacement);
// The cost alone, faster; no more than `limit` is worth knowing.
double simulated_cost(const ScheduleIndex& index, const std::vector<int>& order, double limit);
// With addresses given step by step, as an allocator would.
ScratchSchedule simulate_placed(const ScheduleIndex& index, const std::vector<int>& order, Replacement replacement, ScratchPlacement placement, const PlacingRule& rule = {});
// Of kPlanned, the cost alone.
double placed_cost(const ScheduleIndex& index, const std::vector<int>& order, const PlacingRule& rule, double limit);

// Orders. Every one is possible.
std::vector<int> depth_first_order(const ScheduleIndex& index);     // reverse post-order from the outputs
std::vector<int> greedy_memory_order(const ScheduleIndex& index);   // what leaves the least in memory goes next, looking one further
// Dynamic programming over the sets of operators that are done (Ahn et al. 2020, "Ordering Chaos: Memory-Aware Scheduling of Irregularly
// Wired Neural Networks for Edge Devices", section 3.1): the order with the lowest peak. nullopt beyond `states` or `deadline`; `peak` becomes its peak.
std::optional<std::vector<int>> lowest_peak_order(const ScheduleIndex& index, int64_t states = int64_t{1} << 20, int64_t* peak = nullptr,
                                                  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max());
// The largest sum of what is alive, without any replacement.
int64_t peak_of(const ScheduleIndex& index, const std::vector<int>& order);

struct Baseline {
  std::string order, replacement, placement;
  ScratchSchedule schedule;
};
// All orders × rules × placements, those that are best mostly first; an order that takes too many states is left out, and what is not done by
// `deadline`. With `placed`, without kCompacting.
std::vector<Baseline> baselines(const ScheduleIndex& index, std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max(), bool placed = false);

}  // namespace lathe
