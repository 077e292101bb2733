// The constants of a step as its function reads them (c/dense.h, c/depthwise.h).
#pragma once

#include <cstdint>
#include <vector>

#include "targets/mcu/program.h"

namespace lathe::mcu {

struct PackedProduct {
  std::vector<uint32_t> parameters;  // biases with the zero point of x in them, multipliers and words of four taps
  std::vector<uint8_t> table;        // empty: none
  bool wide = false;                 // a result may be beyond what the short way of rounding takes
  bool wide_weights = false;         // codes less their zero points leave i8: offsets for channels of products, 16 bits in depthwise ones
  bool depthwise = false;
};

// How a depthwise convolution goes over its plane (c/depthwise.h, convolve_channels).
enum class DepthwiseWay { kSlide3x3, kRows, kTaps };
DepthwiseWay depthwise_way(const Node& node, const Shape& weights, bool wide_weights);

// Whether codes less their zero points leave i8.
bool has_wide_weights(const Graph& graph, const Node& node);

// Of kConvolve, kPixels, kRow and kDepthwise.
PackedProduct pack_product(const McuProgram& program, const McuStep& step);

}  // namespace lathe::mcu
