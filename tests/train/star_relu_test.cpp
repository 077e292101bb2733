// StarReLU at once against its operators one by one: outputs and all gradients, on numbers of many lengths and layouts.
#include "train/star_relu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/parallel.h"
#include "graph/op.h"
#include "through.h"

namespace lathe {
namespace {

// `apart`: the square is read by another node too, so that no step may take it in.
Graph network(size_t axes, bool apart) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape(axes, kUnknownDim));
  const auto parameter = [&](const char* name, float value) {
    Tensor t(DType::kF32, {1});
    t.set(0, value);
    return g.add_constant(t, name);
  };
  const ValueId r = g.add("Relu", {x}), square = g.add("Mul", {r, r});
  ValueId y = g.add("Add", {parameter("bias", -0.4f), g.add("Mul", {square, parameter("scale", 0.9f)})});
  if (apart) y = g.add("Add", {y, square});
  g.outputs = {y};
  infer_shapes(g);
  return g;
}

TEST(StarReluKernels, EqualItsOperators) {
  at::manual_seed(3);
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{1}, {63}, {64}, {65}, {4096}, {4097}, {3, 100'003}, {2, 5, 7, 9}, {4, 24, 31, 33}})
    for (const bool last : {false, true})
      for (const bool apart : {false, true}) {
        if (last && sizes.size() != 4) continue;
        at::Tensor x = at::randn(sizes) * 2, g = at::randn(sizes);
        if (last) x = x.contiguous(at::MemoryFormat::ChannelsLast);  // gradients come in another layout
        const Graph graph = network(sizes.size(), apart);
        const Through own = through(graph, {x}, g, at::kFloat), theirs = through(graph, {x}, g, at::kDouble);
        const std::string what = fmt::format("{} numbers, {} axes, channels last {}, read elsewhere {}", x.numel(), sizes.size(), last, apart);
        expect_near(own.y, theirs.y, 1e-6, what + ": y");
        expect_near(own.inputs[0], theirs.inputs[0], 1e-6, what + ": dx");
        ASSERT_EQ(own.parameters.size(), 2u);
        for (size_t i = 0; i < 2; ++i) expect_near(own.parameters[i], theirs.parameters[i], 2e-6 * std::sqrt(static_cast<double>(x.numel())), what + ": parameter " + std::to_string(i));
      }
}

TEST(StarReluKernels, TheSameHoweverManyThreads) {
  at::manual_seed(7);
  const at::Tensor x = at::randn({300'001}), g = at::randn({300'001});
  const auto sums = [&](int threads) {
    const ThreadScope scope(threads);
    const StarReluGradient s = star_relu_gradient(x.numel(), g.data_ptr<float>(), x.data_ptr<float>(), 0.9f, nullptr);
    return std::pair(s.scale, s.bias);
  };
  EXPECT_EQ(sums(1), sums(2));
  EXPECT_EQ(sums(1), sums(3));
}

TEST(StarReluKernels, WhatIsNoNumberStaysSo) {
  const std::vector<float> x = {-1, std::nanf(""), 2, -INFINITY, INFINITY};
  std::vector<float> y(x.size());
  star_relu(5, x.data(), 2, 1, y.data());
  EXPECT_EQ(y[0], 1);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], 9);
  EXPECT_EQ(y[3], 1);
  EXPECT_EQ(y[4], INFINITY);
  star_relu(0, nullptr, 1, 0, nullptr);
  EXPECT_EQ(star_relu_gradient(0, nullptr, nullptr, 1, nullptr).bias, 0);
}

}  // namespace
}  // namespace lathe
