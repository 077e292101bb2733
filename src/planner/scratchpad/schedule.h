// An answer to a ScheduleProblem: the order of the operators, what is loaded, stored and dropped before each, and where everything
// lies. It can be read (print_schedule), drawn (picture.h), kept as JSON, and executed by something that knows nothing else (check.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "planner/scratchpad/packing.h"
#include "planner/scratchpad/problem.h"

namespace lathe {

struct PlacedTensor {
  int tensor = -1;
  int64_t address = -1;
};

// In this order: stores, evictions, loads, then the operator; what is to be outside afterwards is written when it is made.
struct ScratchStep {
  int op = -1;
  std::vector<int> stores;                 // intermediates that are written out before they go
  std::vector<int> evictions;              // whose place is free from now on (they may be dead)
  std::vector<PlacedTensor> loads;
  std::vector<PlacedTensor> outputs;
  std::vector<InPlaceOption> in_place;     // outputs that lie where an input does, which is lost
  int64_t scratch_address = -1;            // of the operator's own bytes, if it has any
  std::vector<int> writes;                 // outputs of the network, written out once
};

struct ScratchSchedule {
  std::vector<ScratchStep> steps;
  int64_t compulsory_bytes = 0;            // inputs and weights read once, outputs written once
  int64_t load_bytes = 0, store_bytes = 0; // what is moved beyond that
  double cost = 0;                         // of those, in the problem's units
  double lower_bound = 0;                  // no schedule of this problem costs less
  double seconds = 0;                      // operators and all transfers one after the other, where costs are in seconds
  int64_t peak_bytes = 0;                  // the highest address in use
  bool placed = false;                     // it has addresses; without, the sizes alone were summed
  bool complete = false;                   // the search ended by itself, not by a limit of time
  std::string method;                      // what found it
  double solve_seconds = 0;

  int64_t other_bytes() const { return load_bytes + store_bytes; }
  bool optimal() const { return cost <= lower_bound * (1 + 1e-9) + 1e-9; }
  // Between the cost and the bound, as a part of the cost.
  double gap() const { return optimal() ? 0 : (cost - lower_bound) / cost; }
};

// What decides a schedule: all else follows. Evictions happen before the operator.
struct StepChoice {
  int op = -1;
  std::vector<int> evict = {};             // tensors that are needed again
  std::vector<InPlaceOption> in_place = {};
  std::vector<int> relocate = {};          // inputs that are dropped and loaded again at another address
};

// Loads, stores and traffic of the choices: missing inputs are loaded, what was not written is stored when it goes, what is dead
// goes by itself. Throws kInternal when the choices do not fit the problem's capacity, or their order the graph.
ScratchSchedule assemble(const ScheduleIndex& index, const std::vector<StepChoice>& choices);
// The residences of a schedule as rectangles, one an item; `owners` says which (step, tensor) begins each part.
struct Residence {
  int step = 0, tensor = -1;  // tensor −1: scratch
};
std::vector<PackItem> residences(const ScheduleIndex& index, const ScratchSchedule& schedule, std::vector<std::vector<Residence>>* owners);
// Finds addresses. kPlaced: the schedule has them now.
PackResult place_schedule(const ScheduleIndex& index, ScratchSchedule& schedule, int tries = 200, int64_t nodes = 200'000);

// Self-contained: tensors, operators and steps.
nlohmann::json to_json(const ScheduleProblem& problem, const ScratchSchedule& schedule);
std::string print_schedule(const ScheduleProblem& problem, const ScratchSchedule& schedule);

}  // namespace lathe
