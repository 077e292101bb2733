// Executes a schedule from its JSON text alone, step by step, over a memory of its own: what an operator reads must be there, nothing may
// overlap, what is loaded must have been stored. With functions that compute, the results are those of the network.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

namespace lathe {

struct ScheduleRun {
  int64_t compulsory_bytes = 0, load_bytes = 0, store_bytes = 0;  // counted on the way, not taken from the text
  int64_t peak_bytes = 0;
  std::vector<std::vector<std::byte>> outside;                    // by tensor: what lies in the memory outside in the end; empty where nothing does
};

struct ScheduleMachine {
  // By tensor from outside, what lies there at the beginning; tensors without an entry are zeros.
  std::vector<std::vector<std::byte>> outside = {};
  // Computes operator `op`: bytes of its inputs and outputs in the scratchpad, in the order of the text. An output may be an input's place.
  std::function<void(int op, const std::vector<std::span<std::byte>>& inputs, const std::vector<std::span<std::byte>>& outputs)> run = nullptr;
};

// Throws kInput naming the step where the schedule breaks a rule.
ScheduleRun check_schedule(const nlohmann::json& schedule, const ScheduleMachine& machine = {});

}  // namespace lathe
