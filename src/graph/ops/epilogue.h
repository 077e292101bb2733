// What the products of ai.lathe take besides their factors: bias, activation, residual, and the type of their result.
#pragma once

#include "graph/op.h"

namespace lathe::ops {

// Shared by the products of ai.lathe: y = activation(x + R) when residual_first, else activation(x) + R.
// `activation` is the name of an ONNX operator ("" for none); alpha and beta are its parameters (Clip: the
// limits); "GeluTanh" is Gelu with approximate = "tanh".
inline std::vector<AttributeSpec> with_epilogue(std::vector<AttributeSpec> attributes) {
  attributes.push_back({"activation", std::string()});
  attributes.push_back({"alpha", 0.0f});
  attributes.push_back({"beta", 0.0f});
  attributes.push_back({"residual_first", int64_t{1}});
  return attributes;
}

// Type of Y: output_type where it is given (a product may read one precision and write the other), else that of X.
inline std::vector<AttributeSpec> with_output_type(std::vector<AttributeSpec> attributes) {
  attributes.push_back({"output_type", int64_t{0}});
  return attributes;
}

inline DType product_type(InferContext& c) {
  const auto type = static_cast<DType>(c.node().get_int("output_type"));
  if (type == DType::kUndefined) return c.dtype(0);
  check_model(type == DType::kF32 || type == DType::kBF16, "output_type is {}, expected f32 or bf16", c.node().get_int("output_type"));
  return type;
}

// A bias of one element a channel; a residual of the output's type and shape, as kernels add it in place.
inline void check_epilogue(InferContext& c, int64_t channels, const std::optional<Shape>& y) {
  const DType type = product_type(c);
  if (c.has_input(2) && c.shape(2))
    check_model(*c.shape(2) == Shape{channels}, "bias has shape {} for {} channels", to_string(*c.shape(2)), channels);
  if (!c.has_input(3)) return;
  check_model(!c.shape(3) || !y || !is_static(*y) || !is_static(*c.shape(3)) || *c.shape(3) == *y, "residual has shape {}, expected {}",
              c.shape(3) ? to_string(*c.shape(3)) : "", y ? to_string(*y) : "");
  check_model(c.dtype(3) == type || c.dtype(3) == DType::kUndefined, "residual is {}, expected {}", name_of(c.dtype(3)), name_of(type));
}

}  // namespace lathe::ops
