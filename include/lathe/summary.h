// NetworkSummary: what a network holds, in numbers, and what keeps it from running (Network::summary()).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lathe {

// Sizes that are open count as 1 in `macs` and `activation_bytes`.
struct NetworkSummary {
  std::string producer;
  std::map<std::string, int64_t> opsets;     // by domain; "" is ONNX's own
  std::map<std::string, int64_t> operators;  // nodes of each operator
  int64_t nodes = 0;
  int64_t parameters = 0;        // elements of constants of a floating or 8-bit type
  int64_t macs = 0;              // multiply–accumulates of one run
  int64_t activation_bytes = 0;  // sum of all values that nodes make
  std::vector<std::string> problems;  // what keeps it from running, one sentence each
  bool runnable() const { return problems.empty(); }
};

}  // namespace lathe
