// Arithmetic on axes and sizes shared by shape rules: all of it guards against hostile models.
#pragma once

#include <optional>
#include <vector>

#include "graph/op.h"

namespace lathe::ops {

// A shape read from a model may not have more axes than this.
constexpr int64_t kMaxRank = 64;

inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t result;
  check_model(!__builtin_add_overflow(a, b, &result), "sizes {} and {} are too large to add", a, b);
  return result;
}

inline int64_t checked_multiply(int64_t a, int64_t b) {
  int64_t result;
  check_model(!__builtin_mul_overflow(a, b, &result), "sizes {} and {} are too large to multiply", a, b);
  return result;
}

// Axes made non-negative; each may occur once.
inline std::vector<int64_t> normalize_axes(std::vector<int64_t> axes, int64_t rank) {
  std::vector<bool> seen(rank, false);
  for (int64_t& axis : axes) {
    axis = normalize_axis(axis, rank);
    check_model(!seen[axis], "axis {} is given twice", axis);
    seen[axis] = true;
  }
  return axes;
}

inline std::vector<int64_t> all_axes(int64_t rank) {
  std::vector<int64_t> axes(rank);
  for (int64_t i = 0; i < rank; ++i) axes[i] = i;
  return axes;
}

// The elements of input i when it is a constant.
inline std::optional<std::vector<int64_t>> constant_ints(const InferContext& c, size_t i) {
  const Tensor* t = c.constant(i);
  if (!t) return std::nullopt;
  return t->to_i64();
}

// Types agree when either is not known yet: rules also run inside subgraphs whose inputs are untyped.
inline bool types_agree(DType a, DType b) {
  return a == DType::kUndefined || b == DType::kUndefined || a == b;
}

// A shape of `rank` unknown sizes.
inline Shape unknown_shape(int64_t rank) { return Shape(rank, kUnknownDim); }

// The number of elements of a one-dimensional input, when known; kUnknownDim otherwise.
inline int64_t list_length(const InferContext& c, size_t i) {
  if (!c.has_input(i) || !c.shape(i)) return kUnknownDim;
  c.expect_rank(i, 0, 1);
  int64_t length = c.shape(i)->empty() ? 1 : (*c.shape(i))[0];
  check_model(length <= kMaxRank, "input {} lists {} axes, at most {} are supported", i, length, kMaxRank);
  return length;
}

// An attribute that names an element type; `fallback` when it is 0.
inline DType type_attribute(const InferContext& c, std::string_view name, DType fallback) {
  int64_t number = c.node().get_int(name);
  if (number == 0) return fallback;
  check_model(number > 0 && number < 256 && size_of(static_cast<DType>(number)) > 0,
              "attribute '{}' names element type {}, which is not supported", name, number);
  return static_cast<DType>(number);
}

}  // namespace lathe::ops
