// The last step of arithmetic on codes of 8 bits, as the operators of ai.lathe define it (graph/ops/integer.cpp):
// shared by the reference kernels, the fast ones and the transform that makes those operators.
#pragma once

#include <cmath>

#include "graph/op.h"

namespace lathe {

// What a quantized output's codes mean and between which of them results are kept.
struct Requantize {
  DType type = DType::kU8;
  int zero = 0, low = 0, high = 255;

  // All codes of a type.
  static Requantize all(DType type, int zero) { return {type, zero, type == DType::kI8 ? -128 : 0, type == DType::kI8 ? 127 : 255}; }
  static Requantize of(const Node& node) {
    return {static_cast<DType>(node.get_int("output_dtype")), static_cast<int>(node.get_int("y_zero_point")),
            static_cast<int>(node.get_int("low")), static_cast<int>(node.get_int("high"))};
  }
  bool is_codes() const { return type == DType::kU8 || type == DType::kI8; }
  // Limits before the zero point is added.
  float least() const { return static_cast<float>(low - zero); }
  float most() const { return static_cast<float>(high - zero); }

  // `value` in units of the output's scale, without the zero point. Not a number becomes the lowest code.
  int code(float value) const {
    value = value > least() ? value : least();
    return static_cast<int>(std::nearbyintf(value < most() ? value : most())) + zero;
  }
  // `value` with the zero point in it.
  int code_with_zero(float value) const {
    value = value > static_cast<float>(low) ? value : static_cast<float>(low);
    return static_cast<int>(std::nearbyintf(value < static_cast<float>(high) ? value : static_cast<float>(high)));
  }
};

// What stands in a sum of codes besides a·ra + b·rb: the output's zero point less those of the operands, rounded as ONNX Runtime's
// kernel rounds it (with one fused multiplication).
inline float sum_constant(float ra, int a_zero, float rb, int b_zero, int y_zero) {
  return static_cast<float>(y_zero) - std::fma(ra, static_cast<float>(a_zero), rb * static_cast<float>(b_zero));
}

}  // namespace lathe
