// A new last layer for a trained network: what fine-tuning begins with.
#pragma once

#include <string>

#include "graph/graph.h"

namespace lathe {

// The product that makes the classes (Gemm, MatMul with its Add, or a 1×1 Conv; what only moves elements, and a Softmax, may
// follow) gets `classes` outputs and fresh weights: uniform ± 1/√(inputs), biases 0. Returns the name of its weights. Throws kUnsupported when
// the first output is not made so.
std::string replace_head(Graph& graph, int64_t classes, uint64_t seed);

}  // namespace lathe
