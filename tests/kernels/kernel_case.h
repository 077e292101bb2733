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
inline Case make_case(std::string_view op, std::vector<Tensor> inputs, const std::vector<bool>& constants, Attributes attributes, std::string text,
                      size_t outputs = 1) {
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
  const bool own = op.starts_with("ai.lathe::");
  Node node;
  node.op = own ? &find_op(op.substr(10), kLatheDomain) : &find_op(op);
  node.name = "tested";
  node.inputs = values;
  node.attributes = std::move(attributes);
  for (size_t i = 0; i < outputs; ++i) {
    Value y;
    y.name = "y" + std::to_string(i);
    node.outputs.push_back(c.graph.add_value(std::move(y)));
  }
  c.graph.outputs = node.outputs;
  c.graph.add_node(std::move(node));
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
  const std::vector<Tensor> expected = reference::run_node(node, c.inputs);
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
    Tensor scratch = guarded(static_cast<int64_t>(kernel->scratch_bytes()));
    std::vector<Tensor> memories, results;
    std::vector<Tensor*> out;
    for (const Tensor& e : expected) {
      memories.push_back(guarded(static_cast<int64_t>(e.bytes())));
      results.emplace_back(e.dtype(), e.shape(), memories.back().data<char>() + kGuard);
    }
    for (Tensor& t : results) out.push_back(&t);
    std::vector<const Tensor*> in;
    for (const Tensor& t : c.inputs) in.push_back(t.defined() ? &t : nullptr);
    kernel->run(in.data(), out.data(), scratch.data<char>() + kGuard);
    for (size_t i = 0; i < expected.size(); ++i) {
      // oneDNN's Relu and Clip make zero and the limit of what is not a number.
      const bool loses_nan = entry->name.find("onednn") != entry->name.npos && std::isnan(expected[i].get(0));
      if (!loses_nan) {
        EXPECT_LE(relative_error(results[i], expected[i], floor), tolerance) << entry->name << " of " << c.text << ", output " << i;
      }
      EXPECT_TRUE(intact(memories[i])) << entry->name << " writes beside its output: " << c.text;
    }
    EXPECT_TRUE(intact(scratch)) << entry->name << " writes beside its scratch: " << c.text;
    ++checked;
  }
}

}  // namespace lathe::testing
