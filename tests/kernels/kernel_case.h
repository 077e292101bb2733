// One node against its reference kernel: every kernel that claims it is run between guards, and compared.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "graph/op.h"
#include "kernels/kernel.h"
#include "kernels/reference/reference.h"

namespace lathe::testing {

inline Tensor random_tensor(DType type, const Shape& shape, std::mt19937& random, float low = -1, float high = 1) {
  Tensor t(DType::kF32, shape);
  std::uniform_real_distribution<float> uniform(low, high);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, uniform(random));
  return type == DType::kF32 ? t : cast(t, type);
}

struct Case {
  Graph graph;
  std::vector<Tensor> inputs;  // constants too
  std::string text;
};

// `constants`: which inputs are; undefined tensors are left out.
inline Case make_case(std::string_view op, std::vector<Tensor> inputs, const std::vector<bool>& constants, Attributes attributes, std::string text) {
  Case c;
  c.text = std::move(text);
  std::vector<ValueId> values;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) {
      values.push_back({});
    } else if (constants[i]) {
      values.push_back(c.graph.add_constant(inputs[i]));
    } else {
      values.push_back(c.graph.add_input("x" + std::to_string(i), inputs[i].dtype(), inputs[i].shape()));
      c.graph.inputs.push_back(values.back());
    }
  }
  c.inputs = std::move(inputs);
  c.graph.outputs.push_back(c.graph.add(op, values, std::move(attributes)));
  infer_shapes(c.graph);
  return c;
}

// The largest difference over the largest expected element, or over `floor` when that is larger; infinite when NaNs
// or infinities differ.
inline double relative_error(const Tensor& found, const Tensor& expected, double floor) {
  double largest = floor, error = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    double f = found.get(i), e = expected.get(i);
    if (std::isnan(f) || std::isnan(e)) {
      if (std::isnan(f) != std::isnan(e)) return INFINITY;
      continue;
    }
    if (std::isinf(f) || std::isinf(e)) {
      if (f != e) return INFINITY;
      continue;
    }
    largest = std::max(largest, std::abs(e));
    error = std::max(error, std::abs(f - e));
  }
  return error / largest;
}

inline int checked = 0;

inline void check(Case& c, double tolerance, double floor = 1e-6) {
  const Node& node = c.graph[c.graph.order()[0]];
  KernelRequest request{c.graph, node};
  auto kernels = kernels_for(request);
  if (kernels.empty()) return;
  Tensor expected = reference::run_node(node, c.inputs).at(0);
  for (const KernelEntry* entry : kernels) {
    std::unique_ptr<Kernel> kernel;
    try {
      kernel = entry->make(request);
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {
      continue;  // oneDNN refuses some types on small instruction sets, and the planner takes the next kernel
    }
    // Results, and the scratch that a kernel says it needs, stand between guards that must stay as they are.
    constexpr int64_t kGuard = 256;
    auto guarded = [](int64_t bytes) {
      Tensor t(DType::kU8, {bytes + 2 * kGuard});
      std::memset(t.raw(), 0xA5, t.bytes());
      return t;
    };
    auto intact = [](const Tensor& t) {
      for (int64_t i = 0; i < kGuard; ++i)
        if (t.data<uint8_t>()[i] != 0xA5 || t.data<uint8_t>()[t.size() - 1 - i] != 0xA5) return false;
      return true;
    };
    Tensor out_memory = guarded(static_cast<int64_t>(expected.bytes())), scratch = guarded(static_cast<int64_t>(kernel->scratch_bytes()));
    Tensor y(expected.dtype(), expected.shape(), out_memory.data<char>() + kGuard);
    std::vector<const Tensor*> in;
    for (const Tensor& t : c.inputs) in.push_back(t.defined() ? &t : nullptr);
    Tensor* out = &y;
    kernel->run(in.data(), &out, scratch.data<char>() + kGuard);
    // oneDNN's Relu and Clip make zero and the limit of what is not a number.
    const bool loses_nan = entry->name.find("onednn") != entry->name.npos && std::isnan(expected.get(0));
    if (!loses_nan) {
      EXPECT_LE(relative_error(y, expected, floor), tolerance) << entry->name << " of " << c.text;
    }
    EXPECT_TRUE(intact(out_memory)) << entry->name << " writes beside its output: " << c.text;
    EXPECT_TRUE(intact(scratch)) << entry->name << " writes beside its scratch: " << c.text;
    ++checked;
  }
}

}  // namespace lathe::testing
