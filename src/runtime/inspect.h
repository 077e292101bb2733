// What a model holds, and what of it could not be run: the numbers behind `lathe inspect` and
// Network::summary().
#pragma once

#include <string>
#include <vector>

#include "formats/onnx.h"
#include "lathe/summary.h"
#include "lathe/tensor.h"

namespace lathe {

struct Inspection {
  NetworkSummary summary;
  Graph sized;  // the graph with open sizes taken as 1, as far as shapes could be inferred
};
// `model` may hold operators that lathe does not know (ImportOptions::allow_unknown).
Inspection inspect(const Model& model);

TensorInfo describe(const Value& value);
std::string shape_text(const Value& value);  // "[N, 3, ?]", "[…]" when not even the rank is known

}  // namespace lathe
