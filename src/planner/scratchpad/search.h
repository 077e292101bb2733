// Dynamic programming over what is done and what is in the scratchpad: the exact answer where the operators can run in few orders and
// few tensors compete (most networks), a beam where they cannot. Sizes alone count; addresses are found afterwards (place_schedule).
//
// A state after t operators is the set of those that ran, of the tensors that are in the scratchpad, and of those with a copy outside;
// the cheapest way to it is kept. What must come back is charged when it goes. Three facts keep states few, and none loses the optimum:
//   - a tensor goes only when its place is needed, and no set goes of which one could stay;
//   - what comes from outside and is read once is there for that step alone;
//   - an operator that fits without any eviction, and whose output is no larger than a dying input that was never written, runs at once: in
//     every schedule that runs it later, its output can stand for that input until then.
#pragma once

#include <chrono>
#include <functional>

#include "planner/scratchpad/schedule.h"

namespace lathe {

using Deadline = std::chrono::steady_clock::time_point;

struct SearchOptions {
  size_t width = 0;                        // states kept at each step; 0: all
  size_t most_states = size_t{1} << 20;    // of a step, where all are kept: beyond, the cheapest go on and the search is not exact
  double below = 1e300;                    // only schedules that cost less are of interest
  std::vector<int> order = {};             // this order alone, if given
  std::vector<int> piece = {};             // by operator, 0, 1, 2…: all of one piece run before any of the next, if given
  Deadline deadline = Deadline::max();
  std::function<void(size_t step, size_t states)> progress = nullptr;
};

struct SearchResult {
  bool found = false;                      // false: nothing below `below`, or the time was up
  bool exact = false;                      // nothing was cut off: no cheaper schedule exists (of those allowed)
  double cost = 0;
  std::vector<StepChoice> choices;
};

SearchResult search_schedules(const ScheduleIndex& index, const SearchOptions& options);

}  // namespace lathe
