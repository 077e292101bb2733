// What the codes of weights stand for (CodedMatMul and CodedConv of graph/ops/coded.cpp), for kernels that decode all of them.
#pragma once

#include "core/tensor.h"

namespace lathe {

// The lowest `bits` bits (1, 2, 4 or 8) of codes that take a byte each, dense, low bits first: u8 [ceil(size·bits / 8)].
Tensor pack_codes(const Tensor& codes, int bits);

// Codes [N, K] as f32 [N, K]: by codebook `numbers` where `block` is 0, else by scales `numbers` and, where they are
// defined, zero points of groups of `block`. Throws kModel for a code that the codebook does not have.
Tensor decode_weights(const Tensor& codes, const Tensor& numbers, const Tensor& zeros, int64_t block);

}  // namespace lathe
