// Copies between strided views, whatever the element type: data movement needs only its size.
#pragma once

#include <cstring>
#include <vector>

#include "core/tensor.h"

namespace lathe::reference {

namespace strided_detail {

template <class Word>
void copy(const Word* from, Word* to, const Shape& shape, const std::vector<int64_t>& from_steps,
          const std::vector<int64_t>& to_steps) {
  size_t rank = shape.size();
  if (rank == 0) {
    *to = *from;
    return;
  }
  int64_t rows = product(shape, 0, rank - 1), columns = shape[rank - 1];
  int64_t from_step = from_steps[rank - 1], to_step = to_steps[rank - 1];
  std::vector<int64_t> index(rank, 0);
  int64_t from_offset = 0, to_offset = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const Word* source = from + from_offset;
    Word* target = to + to_offset;
    if (from_step == 1 && to_step == 1) {
      std::memcpy(target, source, columns * sizeof(Word));
    } else {
      for (int64_t i = 0; i < columns; ++i) target[i * to_step] = source[i * from_step];
    }
    for (size_t axis = rank - 1; axis-- > 0;) {
      from_offset += from_steps[axis];
      to_offset += to_steps[axis];
      if (++index[axis] < shape[axis]) break;
      from_offset -= from_steps[axis] * shape[axis];
      to_offset -= to_steps[axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

}  // namespace strided_detail

// Element (i, j, …) of `shape` goes from `from_offset` + Σ index·from_steps of one tensor to
// `to_offset` + Σ index·to_steps of the other; all in elements.
inline void strided_copy(const Tensor& from, int64_t from_offset, const std::vector<int64_t>& from_steps,
                         Tensor& to, int64_t to_offset, const std::vector<int64_t>& to_steps,
                         const Shape& shape) {
  if (element_count(shape) == 0) return;
  auto run = [&]<class Word>(Word) {
    strided_detail::copy(from.data<Word>() + from_offset, to.data<Word>() + to_offset, shape, from_steps, to_steps);
  };
  switch (size_of(from.dtype())) {
    case 1: return run(uint8_t{});
    case 2: return run(uint16_t{});
    case 4: return run(uint32_t{});
    case 8: return run(uint64_t{});
    default: fail(ErrorKind::kUnsupported, "tensors of type {} are not supported", name_of(from.dtype()));
  }
}

}  // namespace lathe::reference
