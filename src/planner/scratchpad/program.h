// The integer program of order, residence and traffic (Li, Gupta and Malik 2023, arXiv 2311.18246; the formulation is ours), and its
// addresses: by cuts that forbid residences which no placement allows, or as variables of the program itself.
#pragma once

#include <functional>
#include <optional>

#include "planner/scratchpad/scratchpad.h"

namespace lathe {

struct ProgramRun {
  bool optimal = false;                  // nothing costs less than `schedule`
  double bound = 0;                      // no schedule costs less
  std::optional<ScratchSchedule> schedule;  // placed
  size_t variables = 0, rows = 0;
  int cuts = 0;                          // of the decomposed form
};

// Starts from `start`, if given. Costs in the program are in units of the largest tensor.
ProgramRun solve_schedule_program(const ScheduleIndex& index, PlacementForm form, double seconds, const ScratchSchedule* start,
                                  const std::function<void(double best, double bound)>& progress = nullptr);
// How many variables the program without addresses has: whether it is worth a try.
size_t schedule_program_size(const ScheduleIndex& index);
// A bound on the cost: the linear relaxation.
double relaxed_bound(const ScheduleIndex& index, double seconds);

}  // namespace lathe
