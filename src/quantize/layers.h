// The products of a network: what quantizers change. A Layer is a Conv, Gemm or MatMul with constant f32 weights, whose weights
// are seen as a matrix, a row an output channel (quantizer.h, to_rows).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

// The user's samples: inputs in the order of the graph's.
struct Samples {
  size_t count = 0;
  std::function<std::vector<Tensor>(size_t)> inputs;
  Samples first(size_t most) const { return {std::min(count, most), inputs}; }
};

struct Layer {
  NodeId node;
  std::string name, op;       // of the node, else of its output
  int64_t axis = 0;           // of the weights: the output channels
  int64_t group = 1;
  bool depthwise = false;     // a Conv with one input channel for each group
  int64_t rows = 0, columns = 0;  // of the matrix
  int64_t macs = 0;           // of one inference; 0 where shapes are open
};

// In the order of execution. Products whose weights several nodes share are left out, and so are a Gemm with alpha,
// beta or transA, and transposed convolutions.
std::vector<Layer> layers_of(const Graph& graph);
std::string name_of_node(const Graph& graph, NodeId node);
// Those of `layers` that read `value`, where nothing else does and none is a convolution; else empty.
std::vector<const Layer*> only_readers(const Graph& graph, const std::vector<Layer>& layers, ValueId value);
// Of the graph's inputs, by name, as the first sample has them.
std::map<std::string, Shape> input_shapes_of(const Graph& graph, const Samples& samples);

Tensor weight_rows(const Graph& graph, const Layer& layer);
// The node reads `rows` as its weights from now on, as a constant of its own.
void set_weight_rows(Graph& graph, const Layer& layer, const Tensor& rows);

// Runs the network over samples and shows the values in float: visit(sample, index in `values`, tensor). What is shown is valid
// during the call. Graph inputs are values too. Large networks are run several times, for some values each time.
void visit_values(const Graph& graph, const Samples& samples, const std::vector<ValueId>& values,
                  const std::function<void(size_t, size_t, const Tensor&)>& visit, const std::function<void(double)>& progress = nullptr);

// What a layer multiplies its rows with, in some places drawn by `seed`: f32 [places, columns] for one of its groups.
Tensor gather_inputs(const Graph& graph, const Layer& layer, const Tensor& input, int64_t group, int64_t places, uint64_t seed);

}  // namespace lathe
