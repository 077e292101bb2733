// Plans a scratchpad: order of the operators, addresses, and what is evicted when, together, so that the traffic to the memory outside is
// least. Three methods (Li, Gupta and Malik 2023, arXiv 2311.18246, and what serves its customers faster):
//
//   greedy   several orders, replacement by Belady's rule with sizes and costs, a narrow beam, local search: a fraction of a second
//   ilp      the integer program of order, residence and traffic on Cbc, warm-started, with addresses by logic-based Benders cuts or in
//            the program itself; before it the exact dynamic program (search.h), which ends first on most networks
//   divide   the network in pieces that few tensors cross, each solved for every state of those, joined by dynamic programming
//
// Every answer comes with a lower bound that holds for all schedules of the problem, and is never worse than the classic ways (simulate.h).
#pragma once

#include <functional>
#include <string_view>

#include "planner/scratchpad/schedule.h"

namespace lathe {

enum class ScheduleMethod { kGreedy, kIlp, kDivide };
enum class PlacementForm { kDecomposed, kFull };

struct ScheduleProgress {
  double seconds = 0;
  std::string what;              // "search, step 12 of 60"
  double cost = 0, bound = 0;    // of what was found so far; the bound is 0 until there is one
};

struct ScheduleOptions {
  ScheduleMethod method = ScheduleMethod::kGreedy;
  double time_limit = 60;        // seconds; the best so far is returned
  PlacementForm form = PlacementForm::kDecomposed;  // of the integer program
  bool program_alone = false;    // kIlp: without the dynamic program before it (tests compare them)
  int most_crossing = 3;         // kDivide: tensors between two pieces
  std::function<void(const ScheduleProgress&)> progress = nullptr;
};

// Throws what ScheduleIndex throws, before any solving; kUnsupported where Cbc is needed and is not there.
ScratchSchedule schedule_scratchpad(const ScheduleProblem& problem, const ScheduleOptions& options = {});

// The smallest scratchpad that needs no traffic but the compulsory, by sizes: exact where `exact` becomes true.
int64_t capacity_without_traffic(const ScheduleProblem& problem, bool* exact = nullptr);
// The smallest scratchpad in which every operator can run.
int64_t least_capacity(const ScheduleProblem& problem);

// A bound without a solver: what some operator forces out of the scratchpad while it runs, in every order.
double forced_traffic(const ScheduleIndex& index);

}  // namespace lathe
