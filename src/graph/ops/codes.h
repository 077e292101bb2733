// What operators of ai.lathe on codes have in common: the checks of their attributes, and the attributes of their output.
#pragma once

#include <cmath>

#include "graph/op.h"
#include "graph/ops/axes.h"

namespace lathe::ops {

inline bool is_code(DType type) { return type == DType::kU8 || type == DType::kI8 || type == DType::kUndefined; }

inline void check_codes(const InferContext& c, size_t i) {
  check_model(is_code(c.dtype(i)), "input {} is {}, expected i8 or u8", i, name_of(c.dtype(i)));
}

inline void check_zero(int64_t zero) { check_model(zero >= -128 && zero <= 255, "zero point {} is no code of 8 bits", zero); }
inline void check_scale(float scale) { check_model(std::isfinite(scale) && scale > 0, "scale {} is not positive and finite", scale); }

// The type that the attribute `output_dtype` names, with the limits in its range.
inline DType output_type(const InferContext& c, bool codes_only) {
  DType type = type_attribute(c, "output_dtype", DType::kUndefined);
  if (!codes_only && (type == DType::kI32 || type == DType::kF32)) return type;
  check_model(type == DType::kU8 || type == DType::kI8, "output_dtype is {}, expected i8 or u8", name_of(type));
  int64_t low = c.node().get_int("low"), high = c.node().get_int("high"), least = type == DType::kI8 ? -128 : 0;
  check_model(low >= least && low <= high && high <= least + 255, "the limits {} and {} are no codes of {}", low, high, name_of(type));
  int64_t zero = c.node().get_int("y_zero_point");
  check_model(zero >= least && zero <= least + 255, "the zero point {} is no code of {}", zero, name_of(type));
  return type;
}

// `attributes` and those of an output of codes.
inline std::vector<AttributeSpec> with_output(std::vector<AttributeSpec> attributes) {
  attributes.push_back({"output_dtype", int64_t{0}, true});
  attributes.push_back({"y_zero_point", int64_t{0}});
  attributes.push_back({"low", int64_t{0}});
  attributes.push_back({"high", int64_t{0}});
  return attributes;
}

}  // namespace lathe::ops
