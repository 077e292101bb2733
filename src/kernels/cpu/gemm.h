// What a matrix product of ours is given (gemm.cpp), for kernels that are made of such products.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace lathe {

constexpr int64_t kGemmBlockTiles = 32;  // tiles whose row pointers are held at once
constexpr int64_t kMostTileRows = 12;    // over all instruction sets
constexpr int64_t kPanelVectors = 2;

// Which pixel each row of A is, tap by tap. A plain matrix is a picture one pixel wide with a 1×1 window.
struct GemmRows {
  int64_t images = 1, height = 1, width = 1, pixel = 0;  // of A; `pixel`: elements from a pixel to the next
  int64_t out_height = 1, out_width = 1;                  // rows of the product, row-major
  int64_t stride_h = 1, stride_w = 1, pad_top = 0, pad_left = 0, dilation_h = 1, dilation_w = 1;
  int64_t taps_h = 1, taps_w = 1;
  int64_t count() const { return images * out_height * out_width; }
  int64_t taps() const { return taps_h * taps_w; }
};

struct GemmArgs {
  GemmRows rows;
  int64_t depth = 0;    // elements of A per row and tap
  int64_t first_depth = 0, whole_depth = 0;  // of a product in parts: where the part begins in a panel of so many; 0: `depth`
  int64_t columns = 0;  // N
  int64_t y_step = 0;   // elements from a row of Y, and of the residual, to the next; 0: `columns`
  int64_t row_step() const { return y_step ? y_step : columns; }
  const void* packed = nullptr;
  const void* scale = nullptr;  // [images, depth], multiplies A; one tap only. f32, or bf16 with A
  const void* zeros = nullptr;  // at least `depth` zero elements, for taps outside the picture
  const float* bias = nullptr;
  ActivationSpec activation;
  bool residual_first = false;
  bool bf16 = false;       // A and B
  bool bf16_out = false;   // Y and the residual
  const void* a = nullptr;
  const void* residual = nullptr;
  void* y = nullptr;
  char* scratch = nullptr;
  size_t scratch_per_thread = 0;
};

// Runs on the threads at hand; inside a parallel region on the calling one. `scratch` holds gemm_scratch() for each.
void run_gemm(const GemmArgs& args);
size_t gemm_scratch(int64_t taps);
// Panels that hold [K, N], and the weights [N, K, 1, 1] of a 1×1 convolution in them.
Shape gemm_panels(int64_t depth, int64_t columns);
Tensor pack_pointwise(const Tensor& w);

}  // namespace lathe
