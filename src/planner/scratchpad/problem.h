// What a scratchpad is to be planned for, apart from any network: operators that read and write tensors, and a memory that is too
// small for all of them. Each operator runs once; its inputs and outputs lie in the scratchpad meanwhile, at addresses of their own.
// What does not stay is written to the memory outside and read back (Li, Gupta and Malik 2023, "Combined Scheduling, Memory Allocation
// and Tensor Replacement for Minimizing Off-Chip Data Accesses of DNN Accelerators", arXiv 2311.18246).
//
//   ScheduleProblem p{.tensors = {{"x", 64, TensorKind::kInput}, {"y", 64, TensorKind::kOutput}}, .operators = {{"relu", {0}, {1}}}, .capacity = 128};
//   ScratchSchedule s = schedule_scratchpad(p, {.method = ScheduleMethod::kGreedy});   // scratchpad.h
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lathe {

// Inputs and weights lie outside at first; outputs have to be there in the end. An output may be read by operators too.
enum class TensorKind { kInput, kWeight, kIntermediate, kOutput };
const char* name_of(TensorKind kind);

struct ScheduleTensor {
  std::string name;
  int64_t bytes = 0;
  TensorKind kind = TensorKind::kIntermediate;
};

// Tensor `output` may take the address of tensor `input` where that copy of the input is not needed after the operator.
struct InPlaceOption {
  int input = -1, output = -1;
};

struct ScheduleOperator {
  std::string name;
  std::vector<int> inputs = {}, outputs = {};   // tensors, each once
  std::vector<InPlaceOption> in_place = {};
  int64_t scratch = 0;                          // bytes of its own while it runs
  double seconds = 0;                           // it takes by itself, where the device says how fast it computes
};

struct ScheduleProblem {
  std::vector<ScheduleTensor> tensors;
  std::vector<ScheduleOperator> operators;
  int64_t capacity = 0;                         // bytes of the scratchpad
  int64_t alignment = 1;                        // of addresses
  double load_cost = 1, store_cost = 1;         // of a byte read from outside, and written there: what is minimized
};

// The problem with what follows from it. Throws kInput for what can never be planned, before any search: cycles, tensors without
// elements or beyond 2⁴⁰ bytes, indices out of range, several producers; kBudget where the operands of one operator exceed the
// scratchpad (needs_capacity = false leaves that out).
struct ScheduleIndex {
  explicit ScheduleIndex(const ScheduleProblem& problem, bool needs_capacity = true);

  const ScheduleProblem& problem;
  size_t tensor_count = 0, operator_count = 0;
  std::vector<int64_t> size;                    // bytes in the scratchpad: rounded up to the alignment
  std::vector<int64_t> scratch;                 // likewise
  std::vector<int> producer;                    // −1: from outside
  std::vector<std::vector<int>> consumers;
  std::vector<std::vector<int>> before, after;  // operators, by operator
  std::vector<int64_t> demand;                  // by operator: operands and scratch at once, less what is done in place at best
  std::vector<char> once;                       // from outside and read by one operator: comes and goes with it
  std::vector<int> stored_order;                // the order of the problem where that is possible, else the nearest
  int64_t largest_demand = 0;
  int64_t compulsory = 0;                       // bytes that any schedule moves: inputs and weights once, outputs once

  bool from_outside(int tensor) const { return producer[static_cast<size_t>(tensor)] < 0; }
  bool is_output(int tensor) const { return problem.tensors[static_cast<size_t>(tensor)].kind == TensorKind::kOutput; }
  double load_cost(int tensor) const { return problem.load_cost * static_cast<double>(problem.tensors[static_cast<size_t>(tensor)].bytes); }
  double store_cost(int tensor) const { return problem.store_cost * static_cast<double>(problem.tensors[static_cast<size_t>(tensor)].bytes); }
};

// Earliest and latest position of each operator over all orders.
struct Windows {
  std::vector<int> first, last;
};
Windows windows_of(const ScheduleIndex& index);

// By operator, one bit an operator: those that come before it in every order (itself included).
std::vector<std::vector<uint64_t>> ancestors_of(const ScheduleIndex& index);

}  // namespace lathe
