// How the passes on quantized networks read QuantizeLinear and DequantizeLinear: which value holds the codes, and
// what they stand for (transform/integer.cpp, transform/integer_moves.cpp).
#pragma once

#include <optional>
#include <vector>

#include "graph/op.h"

namespace lathe {

inline bool has_input(const Node& node, size_t i) { return i < node.inputs.size() && node.inputs[i]; }

// One scale and zero point for all elements: code q stands for scale·(q − zero).
struct TensorScale {
  float scale = 1;
  int zero = 0;
  DType type = DType::kU8;  // of the codes
  bool operator==(const TensorScale&) const = default;
};

// Of a QuantizeLinear or DequantizeLinear node to or from i8 or u8, where scale and zero point are constants of one
// element; nothing for all others.
std::optional<TensorScale> tensor_scale(const Graph& graph, const Node& node);

struct Codes {
  ValueId value;
  TensorScale scale;
};
// The codes of a value that DequantizeLinear makes, when tensor_scale() knows that node.
std::optional<Codes> codes_of(const Graph& graph, ValueId value);

// Constant codes with a scale for each entry of `axis`, or for all.
struct Weights {
  Tensor codes;               // i8, u8, or i32 for a bias
  std::vector<float> scales;  // as many as `axis` has entries
  std::vector<int> zeros;
};
std::optional<Weights> weights_of(const Graph& graph, ValueId value, int64_t axis);

// A DequantizeLinear of a constant, whose weight a product may read, or UnpackBits of one: constant folding leaves those for
// to_integer() and to_coded().
bool holds_weights(const Graph& graph, const Node& node, const std::vector<std::vector<NodeId>>& consumers);

// Takes DequantizeLinear below nodes that only move elements, so that those move codes; with `windows` also below maxima,
// padding and resizing, which assign_layout() knows of f32 alone.
void sink_dequantize(Graph& graph, bool windows = true);

struct IntegerOptions {
  bool tokens = false;  // layer norms and attention in whole numbers (graph/ops/integer_tokens.cpp): what a microcontroller runs. A CPU is faster in f32.
};
// As passes.h has it, and what the options add.
void to_integer(Graph& graph, const IntegerOptions& options);

}  // namespace lathe
