// From a file to something that runs: load a model, choose shapes for open dimensions, make inputs.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/onnx.h"
#include "runtime/session.h"

namespace lathe {

// How an optimized model is to be planned is kept in its ONNX metadata ("lathe.precision": fp32 or bf16,
// "lathe.fuse": yes or no, "lathe.tune": yes or no), which other runtimes ignore. Options at their defaults leave no entry.
std::map<std::string, std::string> plan_metadata(const PlanOptions& options);
// Throws kModel for values that are not of these.
PlanOptions planned_options(const Model& model);

// Open dimensions of inputs: the first (batch) becomes `batch`, others `fallback`. Fixed ones stay.
std::map<std::string, Shape> default_input_shapes(const Graph& graph, int64_t batch = 1, int64_t fallback = 1);
// A fixed leading dimension of 1 in the inputs becomes open, so that another batch can be asked for.
void open_batch(Graph& graph);
// Reproducible inputs: floats uniform in [0, 1), integers 0 or 1, by seed.
std::vector<Tensor> random_inputs(const Graph& graph, uint64_t seed);
// The same, element by element, for one value.
Tensor random_tensor(DType type, const Shape& shape, uint64_t seed);
// Multiply–accumulates of the whole graph; unknown shapes count as nothing.
int64_t count_macs(const Graph& graph);
int64_t count_macs(const Graph& graph, const Node& node);

}  // namespace lathe
