// What a product with weights of few bits is given (coded_gemm.cpp), and the way of it by sums of products of bytes
// (coded_dot.cpp).
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace lathe {

constexpr int64_t kCodedChunkColumns = 64;  // whose sums are finished together: whole vectors on every instruction set

struct CodedGemm {
  int64_t rows = 0, depth = 0, columns = 0;
  int bits = 4;
  bool is_signed = false;           // codes are i4 or i8
  int64_t groups = 0, group = 0;    // of a row, and elements of one; 0: by codebook
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;    // [tiles, groups, columns of a tile]
  const float* zeros = nullptr;     // the same, or null
  const float* codebook = nullptr;  // [columns or 1, 2^bits]
  bool one_codebook = false;
  const float* a = nullptr;  // rows `a_step` apart, whole vectors
  int64_t a_step = 0;
  const float* bias = nullptr;
  ActivationSpec activation;
  bool residual_first = false;
  const float* residual = nullptr;
  float* y = nullptr;
  int moved_up() const { return is_signed ? 1 << (bits - 1) : 0; }  // of codes that are to be bytes from 0 on
};

// Weights of 4 or 8 bits in groups, on processors that add up four products of u8 and i8 (AVX512_VNNI). Packed codes:
// tiles of kDotColumns columns; in a tile, for every eight elements of the depth, a column's are the four bytes of a lane, with
// 4 bits the first four elements in the low halves. Codes are u8 from 0 on; those of i4 and i8 are moved up by 8 or 128.
constexpr int64_t kDotColumns = 32;
constexpr int64_t kDotDepth = 8;

bool has_coded_dot();
// Of a row that is cut into digits.
int64_t coded_dot_row_bytes(const CodedGemm&);
// Cuts rows [from, to) of A, all of them to `split`. A row with elements that are no number, or too large or small, is only marked.
void coded_dot_split(const CodedGemm& g, int64_t from, int64_t to, void* split);
// Rows [row0, row1) of Y in chunks [chunk0, chunk1) of columns. `split`: all rows of A in digits; `sums`:
// [rows, kCodedChunkColumns].
void coded_dot_panels(const CodedGemm& g, void* split, int64_t row0, int64_t row1, int64_t chunk0, int64_t chunk1, float* sums);

}  // namespace lathe
