// The files of MNIST and of the sets in its form: an array of one type, plain or in gzip.
// Specification: yann.lecun.com/exdb/mnist, "The IDX file format": two zero bytes, a byte for the type, one for the number of axes, the
// sizes as big-endian 32-bit numbers, then the elements, big-endian, row-major.
//
// CIFAR's binary files: a row for each picture, its labels and then 3 × 32 × 32 bytes in planes.
// Specification: cs.toronto.edu/~kriz/cifar.html, "Binary version".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

// Types u8, i8, i16, i32, f32, f64. Throws kInput beginning with `name` when it is broken.
Tensor parse_idx(std::span<const uint8_t> bytes, const std::string& name);
Tensor read_idx(const std::string& path);

struct CifarRows {
  Tensor pictures;              // u8 [N, 3, 32, 32]
  std::vector<int64_t> labels;  // N, 0 … classes − 1
};
// 10 classes: rows of 1 + 3072 bytes. 100: of 2 + 3072, of which the second is the label (the first is one of 20 groups). Throws kInput
// beginning with `name` for another length, no rows, or a label out of range.
CifarRows parse_cifar(std::span<const uint8_t> bytes, int64_t classes, const std::string& name);
CifarRows read_cifar(const std::string& path, int64_t classes);

}  // namespace lathe
