// How weights in few bits stand in a Graph: constant codes and the standard operators that make numbers of them, so that
// any runtime can run the network. transform/to_coded.cpp finds these forms and keeps the few bits.
//
//   groups    DequantizeLinear(codes i4|u4|i8|u8, scales, [zero points]) along `axis`, with `block_size` for groups
//   codebook  ai.lathe::UnpackBits(packed) → Cast i32 → Gather(codebook [E], ·), one codebook for the tensor; or, with one
//             for each entry of `axis`, GatherElements(codebooks [C, E], · [C, rest], axis 1) → Reshape → Transpose, where
//             the codes stand with `axis` first and Reshape and Transpose bring them back, where they have to.
//             Codes of 3 bits: BitwiseOr(UnpackBits of the lower two, BitShift(UnpackBits of the third) left by 2).
//   signs     a codebook {−a, a} of 1 bit
#pragma once

#include <optional>
#include <vector>

#include "graph/op.h"

namespace lathe {

// Each replaces every use of the constant f32 `weight` (of any rank ≥ 1) and throws kInternal where codes and scales do
// not fit it. The value that takes its place has its name.

// codes [as weight], i4, u4, i8 or u8; w = (code − zero)·scale. scales f32 [] for all, [C] for each entry of `axis`
// (group = 0), or of the weight's shape with `axis` ceil(size / group) long; zeros: null, or of the codes' type and the
// scales' shape.
void store_as_groups(Graph& graph, ValueId weight, const Tensor& codes, const Tensor& scales, const Tensor* zeros, int axis, int64_t group);
// indices u8 [as weight], below 2^bits and E, bits 1 to 4; codebooks f32 [E], or [C, E] with one for each entry of `axis`.
void store_as_codebook(Graph& graph, ValueId weight, const Tensor& indices, const Tensor& codebooks, int bits, int axis);
// signs u8 [as weight], 0 for −alpha and 1 for +alpha; alphas f32 [] or [1] for all, or [C] for each entry of `axis`.
void store_as_signs(Graph& graph, ValueId weight, const Tensor& signs, const Tensor& alphas, int axis);

// Codes of `bits` bits (1, 2 or 4), one a byte, as UnpackBits takes them: u8 [ceil(size·bits / 8)].
Tensor pack_bits(const Tensor& codes, int bits);

// Weights in few bits as a product sees them: one row for each entry of `axis`, the other axes in their order.
struct CodedWeights {
  Tensor codes;   // [rows, rest], i4, u4, i8 or u8
  // By codebook: f32 [1, E] or [rows, E], E ≤ 16. Else undefined.
  Tensor codebook;
  // By group: f32 [rows, groups] and, with or without, zero points of the codes' type. Group g of a row are its elements
  // [g·group, (g + 1)·group).
  Tensor scales, zeros;
  int64_t group = 0;
  int bits = 8;   // that a code takes
};

// The weights that `value` is, where it is made by one of the forms above with constants, and in groups that lie together
// in a row when the axes of the weight are `order` of its own (the first of them the rows). Nothing for all others.
std::optional<CodedWeights> coded_weights_of(const Graph& graph, ValueId value, const std::vector<int64_t>& order);
// Whether coded_weights_of() may have an answer, without looking at the elements.
bool is_coded(const Graph& graph, ValueId value);

}  // namespace lathe
