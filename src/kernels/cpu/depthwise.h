// What a depthwise convolution is given (depthwise.cpp), for kernels that have one inside.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace lathe {

struct DepthwiseArgs {
  const void* x;  // f32 or bf16; the residual as y
  const float *w, *bias;  // w: [C / lanes][kH, kW, lanes]
  const void* residual;
  void* y;
  int64_t n, h, wd, c, oh, ow, kh, kw;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  ActivationSpec activation;
  bool residual_first, native_half;
  char* scratch;  // depthwise_scratch(ow) for each thread
};
struct DepthwiseTypes {
  bool half_in, half_out;  // x, and y with the residual, are bf16; a bf16 picture is not made f32
};
// Runs on the threads at hand; inside a parallel region on the calling one. `scratch` holds
// depthwise_scratch(ow) for each.
void run_depthwise(const DepthwiseArgs& args, DepthwiseTypes types);
size_t depthwise_scratch(int64_t out_width);
// Where the weights [C, 1, kH, kW] go: [C / lanes, kH·kW, lanes].
Shape depthwise_panels(int64_t channels, int64_t taps);
Tensor pack_depthwise(const Tensor& w);

}  // namespace lathe
