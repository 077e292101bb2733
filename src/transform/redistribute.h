// Redistribution of the receptive field (MCUNetV2, Lin et al. 2021, section 3.2): kernels inside a patch stage become smaller, so
// that tiles share less and less is computed twice, and kernels behind it larger, until the network sees as far as before. The
// weights are a beginning for training: what is left of a kernel is its middle, what is added is zero.
//
//   Redistribution done = redistribute(graph, {.nodes = end, .grid = {3, 3}, .overhead = 0.05});
//   // then lathe finetune, then run_in_patches()
#pragma once

#include <string>
#include <vector>

#include "transform/patches.h"

namespace lathe {

struct RedistributeOptions {
  size_t nodes = 0;            // of the stage, among the ends of patchable_prefix()
  PatchGrid grid;
  double overhead = 0.05;      // of multiply–accumulates in the whole network, by the tiles: 0.05 is 5 %
  int64_t largest_kernel = 7;  // behind the stage
};

struct Redistribution {
  struct Change {
    std::string node;
    int64_t before = 0, after = 0;  // kernel size
    bool in_stage = false;
  };
  std::vector<Change> changes;                // in the order in which they were made
  double overhead_before = 0, overhead = 0;
  int64_t field_before = 0, field = 0;        // receptive field of the last map, in pixels of the input, along the longer axis
  int64_t macs_before = 0, macs = 0;          // of the whole network, layer by layer
};

// Receptive field of a map: r ← r + (k − 1)·d·j, j ← j·s along the way that sees furthest.
int64_t receptive_field(const Graph& graph, const PatchPrefix& prefix);

// Changes depthwise convolutions with constant weights and odd square kernels of a graph whose shapes are known. Kernels of stride 1
// shrink first, each time the one that saves most; strided ones stay at least as large as their stride. Throws kUsage when the stage
// is none, kBudget naming what can be reached when the overhead cannot.
Redistribution redistribute(Graph& graph, const RedistributeOptions& options);

}  // namespace lathe
