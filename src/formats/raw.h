// Raw tensors: the elements and nothing else, row-major, little-endian, 2- and 4-bit types a byte each. Type
// and shape come from elsewhere, usually from the model's input.
#pragma once

#include <string>

#include "core/tensor.h"

namespace lathe {

// `shape` may leave one size open (kUnknownDim): the length of the file says it. The tensor is the mapped
// file itself: read it, do not write. Throws kInput when the length does not fit, kUsage when more sizes are open.
Tensor read_raw(const std::string& path, DType type, const Shape& shape);

}  // namespace lathe
