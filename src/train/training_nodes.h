// What of a graph training alone uses: dropout, drop path, outputs beside the first.
#pragma once

#include <cstddef>

#include "graph/graph.h"

namespace lathe {

// Dropout and DropPath are passed by; values and nodes keep their handles, outputs their names.
void pass_by_training(Graph& graph);
// They go, and outputs beside the first `outputs`.
void strip_training(Graph& graph, size_t outputs = 1);

}  // namespace lathe
