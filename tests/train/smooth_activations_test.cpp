// GELU and SiLU of our own against exact ones, alone and in networks.
#include "train/smooth_activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "graph/op.h"
#include "through.h"

namespace lathe {
namespace {

struct Exact {
  double value, slope;
};
Exact exact(Smooth f, double x) {
  if (f == Smooth::kSilu) {
    const double s = 1 / (1 + std::exp(-x));
    return {x * s, s * (1 + x / (1 + std::exp(x)))};
  }
  const double below = 0.5 * std::erfc(-x / std::numbers::sqrt2);
  return {x * below, below + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi)};
}

TEST(SmoothActivations, AreWithinAFewUnitsOfTheLastPlace) {
  for (const Smooth f : {Smooth::kGelu, Smooth::kSilu}) {
    std::vector<float> x;
    for (int i = -200'000; i <= 200'000; ++i) x.push_back(static_cast<float>(i) * 1e-4f);
    for (const float v : {-0.0f, 1e-30f, -1e-30f, 90.0f, -90.0f, 1e4f, -1e4f, 1e18f, -1e18f}) x.push_back(v);
    std::vector<float> y(x.size()), slope(x.size()), alone(x.size());
    smooth_activation(f, static_cast<int64_t>(x.size()), x.data(), y.data(), slope.data());
    smooth_activation(f, static_cast<int64_t>(x.size()), x.data(), alone.data(), nullptr);
    EXPECT_EQ(y, alone);
    for (size_t i = 0; i < x.size(); ++i) {
      const Exact e = exact(f, x[i]);
      ASSERT_NEAR(y[i], e.value, 3e-7 * (1 + std::abs(e.value))) << x[i];
      ASSERT_NEAR(slope[i], e.slope, 4e-7) << x[i];
    }
  }
}

TEST(SmoothActivations, WhatIsNoNumberStaysSo) {
  for (const Smooth f : {Smooth::kGelu, Smooth::kSilu}) {
    const std::vector<float> x(70, std::nanf(""));
    std::vector<float> y(70), slope(70);
    smooth_activation(f, 70, x.data(), y.data(), slope.data());
    for (size_t i = 0; i < 70; ++i) EXPECT_TRUE(std::isnan(y[i]) && std::isnan(slope[i])) << i;
    smooth_activation(f, 0, nullptr, nullptr, nullptr);
  }
}

Graph network(const std::string& form, size_t axes) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape(axes, kUnknownDim));
  Tensor two(DType::kF32, {1});
  two.set(0, 2);
  const ValueId in = g.add("Mul", {x, g.add_constant(two, "two")});
  ValueId y;
  if (form == "gelu") y = g.add("Gelu", {in});
  if (form == "tanh") y = g.add("Gelu", {in}, {{"approximate", std::string("tanh")}});
  if (form == "silu") y = g.add("Mul", {in, g.add("Sigmoid", {in})});
  if (form == "turned") y = g.add("Mul", {g.add("Sigmoid", {in}), in});
  if (form == "other") y = g.add("Mul", {x, g.add("Sigmoid", {in})});  // no SiLU: another factor
  if (form == "read") {                                               // the sigmoid is read twice
    const ValueId s = g.add("Sigmoid", {in});
    y = g.add("Add", {g.add("Mul", {in, s}), s});
  }
  g.outputs = {y};
  infer_shapes(g);
  return g;
}

TEST(SmoothActivations, OfNetworksEqualLibtorchsInDouble) {
  at::manual_seed(5);
  for (const char* form : {"gelu", "tanh", "silu", "turned", "other", "read"})
    for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{1}, {67}, {9, 50}, {2, 5, 7, 9}, {4, 24, 31, 33}})
      for (const bool last : {false, true}) {
        if (last && sizes.size() != 4) continue;
        at::Tensor x = at::randn(sizes), g = at::randn(sizes);
        if (last) x = x.contiguous(at::MemoryFormat::ChannelsLast);
        const Graph graph = network(form, sizes.size());
        const Through own = through(graph, {x}, g, at::kFloat), theirs = through(graph, {x}, g, at::kDouble);
        expect_near(own.y, theirs.y, 3e-6, form);
        expect_near(own.inputs[0], theirs.inputs[0], 3e-6, form);
        expect_near(own.parameters[0], theirs.parameters[0], 3e-6, form, std::sqrt(static_cast<double>(x.numel())));
        for (const auto& [type, y] : {std::pair{at::kFloat, own.y}, {at::kDouble, theirs.y}}) {
          const torch::NoGradGuard without;
          EXPECT_TRUE(at::equal(TorchNetwork(graph, {.type = type}).forward({x.to(type)}, {.training = true, .batch_statistics = false, .progress = 0, .generator = {}})[0], y)) << form;
        }
      }
}

}  // namespace
}  // namespace lathe
