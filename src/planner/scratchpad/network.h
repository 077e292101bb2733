// A network as a ScheduleProblem, and a schedule of it executed: values become tensors, nodes operators.
//
//   Graph g = import_onnx("net.onnx").graph;
//   ScheduleNetwork n = schedule_network(lowered(g, {}), scratchpad_of(read_device("devices/scratchpad-generic.json")));
//   ScratchSchedule s = schedule_scratchpad(n.problem, {.method = ScheduleMethod::kIlp});
//   std::vector<Tensor> y = run_schedule(n, to_json(n.problem, s), {x});
#pragma once

#include "core/device.h"
#include "planner/plan.h"
#include "planner/scratchpad/scratchpad.h"

namespace lathe {

// The memory that a program moves data into itself, what lies outside, and how fast the device computes.
struct Scratchpad {
  int64_t capacity = 0;
  int64_t alignment = 64;
  // Of a byte moved; 1 unless times are minimized (seconds then).
  double load_cost = 1, store_cost = 1;
  double f32_per_second = 0, int8_per_second = 0;  // operations; 0: not told
};
// The first level of the device's memory is the scratchpad, the next one lies outside. With `latency`, costs are seconds by the outside's
// bandwidths (a copied byte is read and written); kInput where the device does not tell them.
Scratchpad scratchpad_of(const Device& device, bool latency = false);

// The nodes that run together as one operator: the last is the one that computes, those before it cut out and join its inputs where they
// lie (tiles.h) and take no memory of their own.
struct ScheduleNetwork {
  Graph graph;
  ScheduleProblem problem;
  std::vector<std::vector<NodeId>> nodes;  // by operator
  std::vector<int> tensor_of;              // by value: −1 where it is none (small constants, what is inside an operator)
  std::vector<ValueId> value_of;           // by tensor: the value whose elements it holds
};

// Nodes of this scope belong to the node that reads them.
constexpr std::string_view kTileScope = "ai.lathe.tile";

// Reshapes are views of their inputs. Outputs may take the place of an input that they are computed from element by element. Throws kInput
// where a shape is not known, or a node reads values of an enclosing graph.
ScheduleNetwork schedule_network(Graph graph, const Scratchpad& scratchpad);

// Executes the schedule's text: each operator reads and writes the scratchpad alone. Inputs and outputs in the order of the graph.
// `counted`, if given, becomes what was moved. Throws what check_schedule throws.
struct ScheduleRun;
std::vector<Tensor> run_schedule(const ScheduleNetwork& network, const nlohmann::json& schedule, const std::vector<Tensor>& inputs, ScheduleRun* counted = nullptr);

}  // namespace lathe
