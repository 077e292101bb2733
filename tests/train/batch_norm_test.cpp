// Our own batch norms against libtorch's: outputs, all gradients and statistics, over channels and rows of many numbers.
#include "train/batch_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "graph/op.h"
#include "models/builder.h"
#include "through.h"

namespace lathe {
namespace {

constexpr double kLeast = 1e-3;  // what differences are measured by where numbers are smaller
constexpr float kNone = std::numeric_limits<float>::infinity();

enum class Act { kNothing, kRelu, kClip, kTwice };  // kTwice: the norm's output is read by another node too

Graph network(int64_t channels, Act act, size_t axes = 2) {
  Graph g;
  Shape shape(axes + 2, kUnknownDim);
  shape[1] = channels;
  const ValueId x = g.add_input("x", DType::kF32, shape);
  const auto parameter = [&](const char* name, float value) {
    Tensor t(DType::kF32, {channels});
    for (int64_t i = 0; i < channels; ++i) t.set(i, value + 0.3 * std::sin(static_cast<double>(7 * i + name[0])));
    return g.add_constant(t, name);
  };
  ValueId y = g.add("BatchNormalization", {x, parameter("gamma", 1), parameter("beta", 0), parameter("mean", 0), parameter("variance", 1)}, {{"epsilon", 1e-3f}, {"momentum", 0.9f}}, "norm");
  const ValueId norm = y;
  const auto number = [&](float v) { return g.add_constant(Tensor::scalar(v)); };
  if (act == Act::kRelu || act == Act::kTwice) y = g.add("Relu", {y});
  if (act == Act::kClip) y = g.add("Clip", {y, number(0), number(1)});
  if (act == Act::kTwice) y = g.add("Add", {y, norm});
  g.outputs = {y};
  infer_shapes(g);
  return g;
}

TEST(BatchNormKernels, EqualLibtorchs) {
  at::manual_seed(3);
  for (const int64_t channels : {8, 16, 24, 40, 64, 72, 200})
    for (const std::vector<int64_t>& picture : std::vector<std::vector<int64_t>>{{2, 1, 1}, {3, 5, 17}, {1, 16, 16}, {1, 1, 257}, {4, 20, 13}})
      for (const Act act : {Act::kNothing, Act::kRelu, Act::kClip, Act::kTwice})
        for (const bool batch : {true, false}) {
          const at::Tensor x = (at::randn({picture[0], channels, picture[1], picture[2]}) * 2 + 3).contiguous(at::MemoryFormat::ChannelsLast), g = at::randn_like(x);
          const Graph graph = network(channels, act);
          const Through own = through(graph, {x}, g, at::kFloat, batch), theirs = through(graph, {x}, g, at::kDouble, batch);
          const std::string what = fmt::format("{} channels, {} pictures of {}x{}, activation {}, batch {}", channels, picture[0], picture[1], picture[2], static_cast<int>(act), batch);
          // Two rows: a variance near 0 makes steep gradients.
          const double tolerance = picture[0] * picture[1] * picture[2] == 2 ? 1e-2 : 2e-5;
          expect_near(own.y, theirs.y, tolerance, what + ": y", kLeast);
          expect_near(own.inputs[0], theirs.inputs[0], tolerance, what + ": dx", kLeast);
          ASSERT_EQ(own.parameters.size(), 2u);
          for (size_t i = 0; i < 2; ++i) expect_near(own.parameters[i], theirs.parameters[i], tolerance, what + ": parameter " + std::to_string(i), kLeast);
          for (size_t i = 0; i < 2; ++i) expect_near(own.statistics[i], theirs.statistics[i], 1e-5, what + ": statistics " + std::to_string(i), kLeast);
        }
}

// Rows, sequences and volumes: where channels do not lie side by side libtorch's norms are taken.
TEST(BatchNormKernels, OtherNumbersOfAxes) {
  at::manual_seed(4);
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{9, 16}, {3, 16, 7}, {3, 16, 1}, {2, 16, 3, 4, 5}})
    for (const Act act : {Act::kNothing, Act::kRelu, Act::kClip}) {
      const at::Tensor x = at::randn(sizes) + 1, g = at::randn(sizes);
      const Graph graph = network(16, act, sizes.size() - 2);
      const Through own = through(graph, {x}, g, at::kFloat, true), theirs = through(graph, {x}, g, at::kDouble, true);
      const std::string what = fmt::format("{} axes, activation {}", sizes.size(), static_cast<int>(act));
      expect_near(own.y, theirs.y, 1e-4, what + ": y", kLeast);
      expect_near(own.inputs[0], theirs.inputs[0], 1e-4, what + ": dx", kLeast);
      for (size_t i = 0; i < 2; ++i) expect_near(own.parameters[i], theirs.parameters[i], 1e-4, what + ": parameter " + std::to_string(i), kLeast);
    }
}

// Where numbers are far from 0 and apart by little, sums of squares would lose it all.
TEST(BatchNormKernels, FarFromZero) {
  at::manual_seed(5);
  const at::Tensor x = (at::randn({4, 16, 32, 32}) + 10000).contiguous(at::MemoryFormat::ChannelsLast);
  std::vector<double> mean(16), variance(16);
  channel_moments({4 * 32 * 32, 16}, x.data_ptr<float>(), mean.data(), variance.data());
  const at::Tensor all = x.to(at::kDouble).permute({1, 0, 2, 3}).reshape({16, -1});
  for (int64_t c = 0; c < 16; ++c) {
    EXPECT_NEAR(mean[static_cast<size_t>(c)], all[c].mean().item<double>(), 1e-6);
    EXPECT_NEAR(variance[static_cast<size_t>(c)], all[c].var(false).item<double>(), 1e-4);
  }
}

TEST(BatchNormKernels, TheSameHoweverManyThreads) {
  at::manual_seed(7);
  const NormShape s{70'001, 24};
  const at::Tensor x = at::randn({s.rows, s.channels}), g = at::randn({s.rows, s.channels});
  const auto sums = [&](int threads) {
    const ThreadScope scope(threads);
    std::vector<double> all(96);
    channel_moments(s, x.data_ptr<float>(), &all[0], &all[24]);
    const std::vector<float> mean(24, 0.1f);
    norm_gradient_sums(s, g.data_ptr<float>(), x.data_ptr<float>(), x.data_ptr<float>(), {-1, 1}, mean.data(), &all[48], &all[72]);
    return all;
  };
  EXPECT_EQ(sums(1), sums(2));
  EXPECT_EQ(sums(1), sums(3));
}

TEST(BatchNormKernels, WhatIsNoNumberStaysSo) {
  at::Tensor x = at::zeros({1, 8, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast);
  x.fill_(1);
  x[0][3][0][0] = std::nanf("");
  const Through f = through(network(8, Act::kClip), {x}, at::ones_like(x), at::kFloat, true);
  EXPECT_TRUE(at::isnan(f.y[0][3]).all().item<bool>());
  EXPECT_FALSE(at::isnan(f.y[0][2]).any().item<bool>());
  const std::vector<float> one(8, 1.0f), none(8, 0.0f);
  std::vector<float> y(8);
  const std::vector<float> in = {-2, -1, 0, 0.5f, 1, 2, -kNone, kNone};
  scale_channels({1, 8}, in.data(), one.data(), none.data(), {-1, 1}, y.data());
  EXPECT_EQ(y, (std::vector<float>{-1, -1, 0, 0.5f, 1, 1, -1, 1}));
}

}  // namespace
}  // namespace lathe
