// Which values of a network are bf16 and which stay f32, and how weights are rounded.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/op.h"
#include "kernels/round_row.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "transform/passes.h"
#include "transform/round_weights.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

Tensor floats(const std::vector<float>& values) { return Tensor::of_f32({static_cast<int64_t>(values.size())}, values); }

class Network {
 public:
  ValueId input(const Shape& s) {
    ValueId x = g.add_input("x", DType::kF32, s);
    g.inputs.push_back(x);
    return x;
  }
  ValueId weights(const Shape& s) {
    std::normal_distribution<float> normal(0, 0.3f);
    Tensor t(DType::kF32, s);
    for (int64_t i = 0; i < t.size(); ++i) t.set(i, normal(random_));
    return g.add_constant(t);
  }
  ValueId conv(ValueId x, int64_t in, int64_t out, int64_t kernel, int64_t group = 1) {
    const int64_t pad = kernel / 2;
    ValueId y = g.add("Conv", {x, weights({out, in / group, kernel, kernel}), weights({out})}, {{"pads", Ints{pad, pad, pad, pad}}, {"group", group}});
    return g.add("Relu", {y});
  }
  ValueId ints(const Ints& values) { return g.add_constant(Tensor::of_i64(values)); }
  Plan plan(ValueId y) {
    g.outputs = {y};
    PlanOptions options;
    options.bf16 = true;
    return make_plan(g, options);
  }
  // The largest difference between bf16 and f32, over the range of f32.
  double difference(ValueId y) {
    Session half(plan(y)), full(make_plan(g, {}));
    std::vector<Tensor> inputs = random_inputs(full.plan().graph, 5);
    const Tensor &a = half.run(inputs)[0], &b = full.run(inputs)[0];
    EXPECT_EQ(a.shape(), b.shape());
    double worst = 0, least = INFINITY, most = -INFINITY;
    for (int64_t i = 0; i < a.size(); ++i) {
      worst = std::max(worst, std::abs(a.get(i) - b.get(i)));
      least = std::min(least, b.get(i));
      most = std::max(most, b.get(i));
    }
    return worst / (most - least);
  }

  Graph g;

 private:
  std::mt19937 random_{3};
};

// "Conv f32>bf16 …": operators and the types of the first input and output of each step.
std::string steps(const Plan& plan) {
  std::string text;
  for (const Step& s : plan.steps) {
    const Node& n = plan.graph[s.node];
    text += fmt::format("{} {}>{}, ", n.op->name, name_of(plan.graph[n.inputs[0]].dtype), name_of(plan.graph[n.outputs[0]].dtype));
  }
  return text;
}

TEST(Precision, ScoresAreF32) {
  Network n;
  ValueId x = n.input({1, 64, 9, 9});
  ValueId y = n.g.add("GlobalAveragePool", {n.conv(x, 64, 32, 1)});
  y = n.g.add("Gemm", {n.g.add("Flatten", {y}), n.weights({32, 10})});
  const Plan plan = n.plan(y);
  EXPECT_NE(steps(plan).find("MatMul bf16>f32"), std::string::npos) << steps(plan);
  EXPECT_LT(n.difference(y), 2e-2);
}

TEST(Precision, DepthwiseConvolutionsReadF32) {
  Network n;
  ValueId x = n.input({1, 16, 12, 12});
  ValueId y = n.conv(n.conv(n.conv(x, 16, 24, 1), 24, 24, 3, 24), 24, 16, 1);
  y = n.conv(y, 16, 16, 1);
  const Plan plan = n.plan(y);
  EXPECT_NE(steps(plan).find("Conv bf16>f32, Conv f32>bf16, Conv bf16>bf16, Conv bf16>f32"), std::string::npos) << steps(plan);
  EXPECT_LT(n.difference(y), 2e-2);
}

TEST(Precision, WhatOthersReadTooIsBf16) {
  Network n;
  ValueId x = n.input({1, 16, 12, 12});
  ValueId a = n.conv(x, 16, 24, 1);
  ValueId y = n.g.add("Add", {n.conv(a, 24, 24, 3, 24), a});
  y = n.conv(y, 24, 16, 1);
  const Plan plan = n.plan(y);
  EXPECT_EQ(steps(plan).find("Conv f32>bf16"), std::string::npos) << steps(plan);
  EXPECT_LT(n.difference(y), 2e-2);
}

TEST(Precision, FirstConvolutionsOfADepthwiseNetworkStayF32) {
  Network n;
  ValueId x = n.input({1, 3, 12, 12});
  ValueId y = n.conv(n.conv(n.conv(x, 3, 8, 3), 8, 8, 3, 8), 8, 16, 1);
  y = n.conv(y, 16, 16, 1);
  const Plan plan = n.plan(y);
  EXPECT_EQ(steps(plan), "PlanarConv f32>f32, Conv f32>f32, Conv f32>bf16, Conv bf16>f32, Transpose f32>f32, ");
  EXPECT_LT(n.difference(y), 2e-2);
}

TEST(Precision, ProductsOfFewInputsBetweenTheFirstDepthwiseOnesStayF32) {
  Network n;
  ValueId y = n.conv(n.conv(n.input({1, 3, 12, 12}), 3, 8, 3), 8, 8, 3, 8);
  y = n.conv(n.conv(y, 8, 40, 1), 40, 40, 3, 40);
  y = n.conv(n.conv(y, 40, 48, 1), 48, 48, 3, 48);
  y = n.conv(y, 48, 16, 1);
  const std::string text = steps(n.plan(y));
  const size_t first_half = text.find("bf16");
  EXPECT_NE(first_half, std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.begin() + static_cast<int64_t>(first_half), ','), 4) << text;  // two pairs, then the product of 40 inputs
  EXPECT_LT(n.difference(y), 2e-2);
}

TEST(Precision, FirstConvolutionsOfOthersWriteBf16) {
  Network n;
  ValueId y = n.conv(n.conv(n.input({1, 3, 12, 12}), 3, 16, 3), 16, 16, 1);
  const Plan plan = n.plan(y);
  EXPECT_TRUE(steps(plan).starts_with("PlanarConv f32>bf16, Conv bf16>f32")) << steps(plan);
}

// What stands between two products reads and writes bf16: the only cast is the input's.
TEST(Precision, OperatorsBetweenProductsNeedNoCasts) {
  struct Between {
    const char* name;
    ValueId (*make)(Network&, ValueId);
  };
  const Between cases[] = {
      {"Resize", [](Network& n, ValueId x) { return n.g.add("Resize", {x, {}, n.g.add_constant(floats({1, 1, 2, 2}))}); }},
      {"Pad", [](Network& n, ValueId x) { return n.g.add("Pad", {x, n.ints({0, 0, 1, 1, 0, 0, 2, 0})}); }},
      {"Pad with a value", [](Network& n, ValueId x) { return n.g.add("Pad", {x, n.ints({0, 0, 1, 1, 0, 0, 2, 0}), n.g.add_constant(Tensor::scalar(0.5f))}); }},
      {"ReduceMean", [](Network& n, ValueId x) { return n.g.add("ReduceMean", {x, n.ints({2, 3})}); }},
      {"ReduceMax", [](Network& n, ValueId x) { return n.g.add("ReduceMax", {x, n.ints({2, 3})}); }},
      {"ReduceL2", [](Network& n, ValueId x) { return n.g.add("ReduceL2", {x, n.ints({2})}); }},
      {"GlobalAveragePool", [](Network& n, ValueId x) { return n.g.add("GlobalAveragePool", {x}); }},
      {"MaxPool", [](Network& n, ValueId x) { return n.g.add("MaxPool", {x}, {{"kernel_shape", Ints{2, 2}}}); }},
      {"Concat", [](Network& n, ValueId x) { return n.g.add("Concat", {x, n.g.add("Sigmoid", {x})}, {{"axis", int64_t{2}}}); }},
      {"Slice", [](Network& n, ValueId x) { return n.g.add("Slice", {x, n.ints({1}), n.ints({7}), n.ints({2})}); }},
      {"Gather", [](Network& n, ValueId x) { return n.g.add("Gather", {x, n.ints({3, 1, 2})}, {{"axis", int64_t{2}}}); }},
      {"Softmax", [](Network& n, ValueId x) { return n.g.add("Softmax", {x}, {{"axis", int64_t{1}}}); }},
  };
  for (const Between& c : cases) {
    Network n;
    ValueId y = n.conv(c.make(n, n.conv(n.input({1, 16, 10, 10}), 16, 24, 1)), 24, 32, 1);
    const Plan plan = n.plan(y);
    int casts = 0;
    for (const Step& s : plan.steps) casts += plan.graph[s.node].op->name == "Cast";
    EXPECT_EQ(casts, 1) << c.name << ": " << steps(plan);
    EXPECT_LT(n.difference(y), 3e-2) << c.name;
  }
}

TEST(Precision, MomentsFollowBiasesAndActivations) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 4});
  g.inputs = {x};
  Tensor w(DType::kF32, {4, 3});
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, 0.5);
  ValueId y = g.add("ai.lathe::MatMul", {x, g.add_constant(w), g.add_constant(floats({-5, 0, 5}))}, {{"activation", std::string("Relu")}});
  const auto moments = expected_moments(g);
  const Moments& m = moments.at(y.index);
  ASSERT_EQ(m.mean.size(), 3u);
  EXPECT_NEAR(m.mean[0], 0, 1e-3);                        // five standard deviations below zero
  EXPECT_NEAR(m.mean[1], 1 / std::sqrt(2 * M_PI), 1e-2);  // of a half-normal distribution, with the zeros
  EXPECT_NEAR(m.variance[1], 0.5 - 0.5 / M_PI, 1e-2);
  EXPECT_NEAR(m.mean[2], 5, 1e-3);
  EXPECT_NEAR(m.variance[2], 1, 1e-2);
}

// ShuffleNet's moves: each channel takes its moments along.
TEST(Precision, MomentsFollowChannels) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 2, 2, 3});
  g.inputs = {x};
  ValueId y = g.add("ai.lathe::Conv", {x, g.add_constant(Tensor::of_f32({6, 3, 1, 1}, std::vector<float>(18, 0.0f))), g.add_constant(floats({0, 1, 2, 3, 4, 5}))},
                    {{"strides", Ints{1, 1}}, {"pads", Ints{0, 0, 0, 0}}, {"dilations", Ints{1, 1}}});
  ValueId shuffled = g.add("ai.lathe::ChannelShuffle", {y}, {{"axis", int64_t{-1}}, {"group", int64_t{2}}});
  Node split;
  split.op = &find_op("Split");
  split.inputs = {shuffled, g.add_constant(Tensor::of_i64({2, 4}))};
  split.attributes["axis"] = int64_t{3};
  for (const char* name : {"a", "b"}) {
    Value part;
    part.name = name;
    split.outputs.push_back(g.add_value(std::move(part)));
  }
  const std::vector<ValueId> parts = split.outputs;
  g.add_node(std::move(split));
  infer_shapes(g);
  const auto moments = expected_moments(g);
  EXPECT_EQ(moments.at(shuffled.index).mean, (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(moments.at(parts[0].index).mean, (std::vector<float>{0, 3}));
  EXPECT_EQ(moments.at(parts[1].index).mean, (std::vector<float>{1, 4, 2, 5}));
}

double error_along(const Tensor& w, const Tensor& rounded, int64_t row, int64_t count, int64_t start, int64_t step, const std::vector<float>& mean, int64_t taps) {
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = start + row * (step == 1 ? count : 1) + k * step;
    sum += (rounded.get(at) - w.get(at)) * mean[k / taps];
  }
  return sum;
}

TEST(RoundWeights, ErrorsOfARowCancel) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.1f);
  for (bool columns : {false, true})
    for (int64_t depth : {17, 64, 300}) {
      const int64_t out = 37, taps = columns ? 1 : 3;
      Tensor w(DType::kF32, columns ? Shape{depth, out} : Shape{out, depth, taps, 1});
      for (int64_t i = 0; i < w.size(); ++i) w.set(i, normal(random));
      std::vector<float> mean(static_cast<size_t>(depth));
      for (float& m : mean) m = std::abs(normal(random));
      const Tensor nearest = cast(w, DType::kBF16), rounded = round_weights(w, columns, 1, mean);
      ASSERT_EQ(rounded.shape(), w.shape());
      double before = 0, after = 0;
      for (int64_t n = 0; n < out; ++n) {
        before += std::pow(error_along(w, nearest, n, depth * taps, 0, columns ? out : 1, mean, taps), 2);
        after += std::pow(error_along(w, rounded, n, depth * taps, 0, columns ? out : 1, mean, taps), 2);
      }
      EXPECT_LT(after, before / (depth < 32 ? 5 : 20)) << depth;
      for (int64_t i = 0; i < w.size(); ++i)
        ASSERT_LE(std::abs(rounded.get(i) - w.get(i)), std::abs(w.get(i)) / 128) << "not one of the two neighbours";
    }
}

TEST(RoundWeights, KeepsWhatBf16Holds) {
  Tensor w(DType::kF32, {2, 40, 1, 1});
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, (static_cast<double>(i) - 40) / 64);
  const Tensor y = round_weights(w, false, 1, {});
  for (int64_t i = 0; i < w.size(); ++i) EXPECT_EQ(y.get(i), w.get(i));
}

TEST(RoundWeights, RowsThatAreNotFiniteAreRoundedToNearest) {
  for (float odd : {NAN, INFINITY, -INFINITY, 3.4e38f, 1e-40f}) {
    Tensor w(DType::kF32, {1, 33, 1, 1});
    for (int64_t i = 0; i < w.size(); ++i) w.set(i, 0.1 * static_cast<double>(i + 1));
    w.data<float>()[20] = odd;
    const Tensor y = round_weights(w, false, 1, {}), nearest = cast(w, DType::kBF16);
    EXPECT_EQ(std::isnan(y.get(20)), std::isnan(nearest.get(20)));
    if (!std::isnan(odd)) {
      EXPECT_EQ(y.get(20), nearest.get(20)) << odd;
    }
    if (!std::isfinite(nearest.get(20))) {
      for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(y.get(i), nearest.get(i));
    }
  }
  EXPECT_EQ(round_weights(Tensor(DType::kF32, {4, 0, 1, 1}), false, 1, {}).size(), 0);
  EXPECT_EQ(round_weights(Tensor(DType::kF32, {0, 4}), true, 1, {}).size(), 0);
}

TEST(RoundWeights, GroupsHaveTheirOwnMeans) {
  Tensor w(DType::kF32, {2, 64, 1, 1});
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.1f);
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, normal(random));
  std::vector<float> mean(128);
  for (size_t i = 0; i < mean.size(); ++i) mean[i] = i < 64 ? 1.0f : 1.0f + static_cast<float>(i % 7);
  const Tensor y = round_weights(w, false, 2, mean);
  for (int64_t n = 0; n < 2; ++n) {
    std::vector<uint16_t> row(64);
    round_row(w.data<float>() + n * 64, mean.data() + n * 64, 64, row.data());
    EXPECT_EQ(std::memcmp(row.data(), y.data<uint16_t>() + n * 64, 128), 0);
  }
}

}  // namespace
}  // namespace lathe
