// A product of two f32 matrices that are both known at run time only, for code that is no Plan: training.
#pragma once

#include <cstdint>

namespace lathe {

// A matrix that lies row by row, `step` elements from a row to the next; transposed: what lies so is its transpose.
struct MatrixView {
  const float* data = nullptr;
  int64_t step = 0;
  bool transposed = false;
};

// Whether there is oneDNN, which multiplies them.
bool has_fast_product();
// C [rows, columns] = A [rows, depth] · B [depth, columns]; rows of C lie side by side. On the threads at hand; inside a parallel region on the
// calling one. Only where has_fast_product(). oneDNN's products of f32 (2.6.3) use the stack pointer as one more register: the frame of a signal
// that is handled meanwhile would be written over the heap, so that signals wait, but those of a fault.
void fast_product(int64_t rows, int64_t columns, int64_t depth, const MatrixView& a, const MatrixView& b, float* c);

}  // namespace lathe
