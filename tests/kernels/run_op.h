// For tests of single operators: build a node, run its reference kernel, look at the elements.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "kernels/reference/reference.h"

namespace lathe::testing {

using Ints = std::vector<int64_t>;

inline std::vector<Tensor> run_op(std::string_view op, std::vector<Tensor> inputs, Attributes attributes = {},
                                  int outputs = 1) {
  Node node;
  node.op = &find_op(op);
  node.name = "n";
  node.attributes = std::move(attributes);
  int32_t next = 0;
  for (const Tensor& t : inputs) node.inputs.push_back(t.defined() ? ValueId{next++} : ValueId{});
  for (int i = 0; i < outputs; ++i) node.outputs.push_back(ValueId{next++});
  return reference::run_node(node, std::move(inputs));
}

// Elements start, start + 1, … of a shape.
inline Tensor iota(DType type, Shape shape, int64_t start = 0) {
  Tensor t(type, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, start + i);
  return t;
}

inline Tensor of(DType type, Shape shape, const std::vector<double>& values) {
  Tensor t(type, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, values[i]);
  return t;
}

inline Tensor ints(const Ints& values) { return Tensor::of_i64(values); }

inline std::vector<double> elements(const Tensor& t) {
  std::vector<double> values(t.size());
  for (int64_t i = 0; i < t.size(); ++i) values[i] = t.get(i);
  return values;
}

inline ErrorKind error_of(std::string_view op, std::vector<Tensor> inputs, Attributes attributes = {}, int outputs = 1) {
  try {
    run_op(op, std::move(inputs), std::move(attributes), outputs);
  } catch (const Error& e) {
    return e.kind();
  }
  ADD_FAILURE() << op << " did not fail";
  return ErrorKind::kInternal;
}

using Values = std::vector<double>;

}  // namespace lathe::testing
