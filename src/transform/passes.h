// Graph → Graph. Every pass keeps the network's function (within rounding) and its input and output names.
//
//   specialize(graph, {{"x", {1, 3, 224, 224}}});   // concrete shapes; folds what becomes constant
//   clean_up(graph);                                 // standard ONNX stays standard ONNX
//   fuse(graph);  assign_layout(graph);              // for execution: operators of ai.lathe
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

// Sets the shapes of inputs (by name; others must be static already), infers everything and folds.
// Throws kInput when a given shape contradicts the model's.
// For `keep_quantized`, here and below, see fold_constants().
void specialize(Graph& graph, const std::map<std::string, Shape>& input_shapes, bool keep_quantized = false);

// A leading size of `batch` in the inputs becomes open, so that another batch can be asked for.
void open_batch(Graph& graph, int64_t batch = 1);

// Infers shapes and evaluates every deterministic node whose inputs are constants, and Shape and Size of
// values of known shape. An If becomes the branch that it takes, when that is known. Results larger than `largest_growth` bytes beyond their inputs stay unfolded,
// unless they only change the type of a constant. With `keep_quantized`, DequantizeLinear of a product's weights
// and bias, and UnpackBits, stay, so that to_integer() and to_coded() find their codes.
constexpr int64_t kLargestGrowth = 1 << 20;
void fold_constants(Graph& graph, int64_t largest_growth = kLargestGrowth, bool keep_quantized = false);
// The subgraphs of a node, and the values that each captures.
struct BranchCaptures {
  std::string_view name;  // of the attribute
  std::shared_ptr<Graph> graph;
  std::span<const ValueId> captures;
};
std::vector<BranchCaptures> branches_of(const Node& node);
// Every If whose condition is a constant becomes the branch that it takes. Says whether there was one.
bool inline_branches(Graph& graph);
// Removes nodes that nothing needs, and identities (Identity, inference Dropout, Cast to the same type,
// transposes, reshapes and pads that change nothing).
void remove_dead(Graph& graph);
void remove_identities(Graph& graph);
// Nodes that compute the same from the same become one.
void merge_common(Graph& graph);
// BatchNormalization, and Mul and Add with per-channel constants, into the weights of the Conv, ConvTranspose or Gemm before.
void fold_batch_norm(Graph& graph);
// All of the above until nothing changes.
void clean_up(Graph& graph, bool keep_quantized = false);

// Operators that are others in disguise become those: Einsum products and moves, DepthToSpace moves.
void spell_out(Graph& graph);
// Spellings of one function become one node: Gelu (both forms), Swish, HardSwish, Mish, StarReLU, LayerNormalization,
// GroupNormalization, scaled dot-product attention, channel shuffle.
void recognize(Graph& graph);
// Attention takes its heads out of the projections and puts them together itself: the moves around it go.
void place_heads(Graph& graph);
// Reshapes that keep the last axis stand before the products and sums along it, not between them, and transposes
// that move only axes of size one become reshapes: what belongs together then stands together, and fuses.
void hoist_reshapes(Graph& graph);
// Conv, MatMul and Gemm with constant weights take bias, activation and residual addition.
void fuse(Graph& graph);
// Convolutions and pooling along one axis become those of pictures of height one, which assign_layout() takes.
void lift_sequences(Graph& graph);
// Convolutions and pooling over volumes become those of their pictures, and norms and sums between them with them.
void lift_volumes(Graph& graph);
// Images channels-last: 2-D Conv, pooling and what stands between them, with as few transposes as possible.
void assign_layout(Graph& graph);

// After fuse: the first convolution takes the picture as it comes, in planes, and no transpose stands before it.
void read_planes(Graph& graph);

// After fuse: Conv and MatMul of ai.lathe, and what moves their results, in bf16; casts at the borders. With `marked_only`, of
// products only those whose weights are numbers of bf16 already: so a file says layer by layer what is to be in bf16.
void to_bf16(Graph& graph, bool marked_only = false);
// Every element of the constant is a number of bf16.
bool holds_bf16(const Tensor& constant);

// QLinearConv and QLinearMatMul as the standard defines them: DequantizeLinear, the operator, QuantizeLinear. Only where
// all but the input is constant.
void expand_quantized(Graph& graph);
// After assign_layout, before fuse: DequantizeLinear → operator → QuantizeLinear becomes integer arithmetic
// (graph/ops/integer.cpp). DequantizeLinear that remains of weights is for clean_up() to fold.
void to_integer(Graph& graph);
// After to_integer, before fuse: products whose weights are stored in few bits (transform/quantize/weight_forms.h) keep
// them so (graph/ops/coded.cpp). Decoding that remains is for clean_up() to fold.
void to_coded(Graph& graph);
// Of a planned graph: which operators read codes as real numbers, and why they do not run on codes. One line for each kind.
std::vector<std::string> real_operators(const Graph& graph);
// MatMulInteger and what makes f32 of its sums become one operator, which takes the scale and zero point of its input
// at run time.
void fuse_dynamic_products(Graph& graph);

// Every node but `except` that reads `from` reads `to`; the graph's outputs stay.
void replace_readers(Graph& graph, ValueId from, ValueId to, NodeId except);

// The shape of a value, which must be static.
const Shape& static_shape(const Graph& graph, ValueId value);

}  // namespace lathe
