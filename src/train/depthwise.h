// Gradients of depthwise convolutions, channels last. libtorch's run at 3 to 15 GFLOP/s a core; these at 20 to 60 where channels
// come in multiples of 8, since they lie side by side and every loop over them is vectors.
#pragma once

#include <cstdint>

namespace lathe {

// Pictures [images, height, width, channels] f32, dense. Weights and their gradients are [taps, channels], taps row by row.
struct DepthwiseShape {
  int64_t images, height, width, channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
};

void depthwise_input_gradient(const DepthwiseShape& s, const float* gradient, const float* w, float* dx);
void depthwise_weight_gradient(const DepthwiseShape& s, const float* x, const float* gradient, float* dw);

}  // namespace lathe
