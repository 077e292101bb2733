// Convolutions of f32 pictures and volumes with channels last, forward and backward, for code that is no Plan: training. On oneDNN.
#pragma once

#include <compare>
#include <cstdint>
#include <limits>
#include <vector>

namespace lathe {

// Sizes as ONNX writes them, whose last two or three are spatial axes.
struct ConvolutionShape {
  std::vector<int64_t> input;    // [images, channels, …]
  std::vector<int64_t> weights;  // [output channels, channels of a group, …]
  std::vector<int64_t> output;   // [images, output channels, …]
  std::vector<int64_t> strides, dilations, begin, end;  // for each spatial axis; pads of zeros at its begin and its end
  int64_t groups = 1;
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();  // what outputs are kept between; of NaN they make a number
  auto operator<=>(const ConvolutionShape&) const = default;
};

// Pictures and their gradients are dense with channels last, weights and theirs dense as ONNX has them. On the threads at hand.
class FastConvolution {
 public:
  virtual ~FastConvolution() = default;
  virtual void forward(const float* x, const float* weights, const float* bias, float* y) const = 0;
  // Of x and of the weights, from the gradient before the limits.
  virtual void input_gradient(const float* gradient, const float* weights, float* dx) const = 0;
  virtual void weight_gradient(const float* x, const float* gradient, float* dw) const = 0;
};

// The one of a shape and the number of threads at hand, made at the first call and kept; `gradients`: the last two of its functions are called.
// nullptr where there is no oneDNN, or where it has plain loops or products of unfolded pictures alone.
const FastConvolution* fast_convolution(const ConvolutionShape& shape, bool gradients);

}  // namespace lathe
