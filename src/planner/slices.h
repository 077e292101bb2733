// A batch of images may go through a network a few at a time: what one step leaves in the cache is there for the next,
// where a whole batch would have gone to memory and back. That is allowed where no operator mixes the images, which is
// proved here, and pays where a few images fill the cache.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "graph/graph.h"

namespace lathe {

struct Slices {
  int64_t count = 1;                           // how many runs of the plan make up the batch
  int64_t batch = 1;
  std::map<std::string, Shape> input_shapes;   // of one of them
};

// For a graph whose inputs have the shapes `input_shapes` as far as they are not its own: nullopt where the batch
// (axis 0 of every input and output) is 1, where images might be mixed, or where all together are best.
std::optional<Slices> choose_slices(const Graph& graph, const std::map<std::string, Shape>& input_shapes);

// The graph for one slice, specialized; what specialize() throws. With `keep_quantized` as there.
void specialize_slice(Graph& graph, const Slices& slices, bool keep_quantized = false);

// True when `part`, of `images` images, computes for each slice of the inputs of `whole` what `whole` computes for all.
// Both are one network for different batches, specialized and cleaned. May say false of what is separable.
bool same_apart(const Graph& whole, const Graph& part);

}  // namespace lathe
