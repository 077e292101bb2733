// Convolutions and maxima over volumes run on the kernels of pictures, and give the same.
#include "both_ways.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
using testing::compare;
using testing::weights;

TEST(LiftVolumes, Convolves) {
  const Ints ones{1, 1, 1}, twos{2, 2, 2};
  struct Case {
    Ints kernel, strides, pads, dilations;
    const char* auto_pad;
  };
  const Case cases[] = {{{3, 3, 3}, ones, Ints(6, 1), ones, "NOTSET"}, {{1, 1, 1}, ones, Ints(6, 0), ones, "NOTSET"}, {{3, 1, 2}, twos, {1, 0, 0, 0, 0, 1}, ones, "NOTSET"},
                        {{2, 3, 3}, {1, 2, 2}, {0, 1, 1, 1, 1, 1}, {2, 1, 1}, "NOTSET"}, {{3, 7, 7}, {1, 2, 2}, {1, 3, 3, 1, 3, 3}, ones, "NOTSET"},
                        {{3, 3, 3}, twos, {}, ones, "SAME_UPPER"}, {{4, 2, 2}, {3, 1, 1}, {}, ones, "VALID"}};
  for (const Case& c : cases)
    for (int64_t channels : {1, 3, 16})
      for (int64_t batch : {1, 2}) {
        Graph g;
        g.inputs = {g.add_input("x", DType::kF32, Shape{batch, channels, 6, 11, 9})};
        Attributes a{{"strides", c.strides}, {"dilations", c.dilations}, {"auto_pad", std::string(c.auto_pad)}};
        if (!c.pads.empty()) a["pads"] = c.pads;
        std::vector<ValueId> inputs{g.inputs[0], weights(g, {12, channels, c.kernel[0], c.kernel[1], c.kernel[2]}, 3)};
        if (batch == 2) inputs.push_back(weights(g, {12}, 4));
        g.outputs = {g.add("Relu", {g.add("Conv", inputs, a)})};
        compare(g, fmt::format("{} channels, window {} {}", channels, to_string(c.kernel), c.auto_pad));
      }
}

TEST(LiftVolumes, TakesMaxima) {
  for (const auto& [kernel, strides, pads] : {std::tuple{Ints{2, 2, 2}, Ints{2, 2, 2}, Ints(6, 0)}, {Ints{3, 3, 3}, Ints{2, 2, 2}, Ints(6, 1)}, {Ints{1, 2, 3}, Ints{1, 2, 1}, Ints{0, 0, 1, 0, 1, 1}}}) {
    Graph g;
    g.inputs = {g.add_input("x", DType::kF32, Shape{2, 5, 6, 9, 8})};
    g.outputs = {g.add("MaxPool", {g.inputs[0]}, {{"kernel_shape", kernel}, {"strides", strides}, {"pads", pads}})};
    compare(g, to_string(kernel));
  }
}

TEST(LiftVolumes, ConvolvesInGroups) {
  for (const auto& [groups, in, out, kernel, stride, pad] : {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>{4, 8, 12, 3, 1, 1}, {3, 9, 3, 3, 2, 1}, {8, 8, 8, 3, 1, 1}, {2, 6, 4, 1, 2, 0}, {32, 64, 64, 3, 2, 1}})
    for (int64_t batch : {1, 2}) {
      Graph g;
      g.inputs = {g.add_input("x", DType::kF32, Shape{batch, in, 5, 9, 8})};
      g.outputs = {g.add("Conv", {g.inputs[0], weights(g, {out, in / groups, kernel, kernel, kernel}, 3), weights(g, {out}, 4)}, {{"group", groups}, {"strides", Ints(3, stride)}, {"pads", Ints(6, pad)}})};
      compare(g, fmt::format("{} groups of {} to {}", groups, in, out));
    }
}

TEST(LiftVolumes, TakesAverages) {
  struct Case {
    Ints kernel, strides, pads;
    int64_t count_pad;
  };
  for (const Case& c : {Case{{2, 2, 2}, {2, 2, 2}, Ints(6, 0), 0}, Case{{3, 3, 3}, {2, 2, 2}, Ints(6, 1), 1}, Case{{1, 3, 2}, {1, 2, 1}, {0, 1, 0, 0, 1, 1}, 0}, Case{{3, 2, 3}, {1, 1, 2}, {0, 0, 1, 0, 1, 1}, 0}}) {
    Graph g;
    g.inputs = {g.add_input("x", DType::kF32, Shape{2, 5, 6, 9, 8})};
    g.outputs = {g.add("AveragePool", {g.inputs[0]}, {{"kernel_shape", c.kernel}, {"strides", c.strides}, {"pads", c.pads}, {"count_include_pad", c.count_pad}})};
    compare(g, to_string(c.kernel));
  }
  for (const Shape& x : {Shape{2, 5, 6, 9, 8}, Shape{1, 3, 1, 1, 1}, Shape{3, 17, 2, 1, 7}}) {
    Graph g;
    g.inputs = {g.add_input("x", DType::kF32, x)};
    g.outputs = {g.add("GlobalAveragePool", {g.inputs[0]})};
    compare(g, to_string(x));
  }
  // Pictures outside that do not count stay with the reference.
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{1, 2, 4, 4, 4})};
  g.outputs = {g.add("AveragePool", {g.inputs[0]}, {{"kernel_shape", Ints{3, 3, 3}}, {"pads", Ints(6, 1)}})};
  EXPECT_EQ(make_plan(g).steps.back().kernel_name, "reference");
}

// A residual block and a dense one: norms, sums and concatenations between convolutions move nothing either.
TEST(LiftVolumes, BlocksMoveNothing) {
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{2, 3, 6, 12, 11})};
  const auto conv = [&](ValueId x, int64_t in, int64_t out, int64_t kernel, uint64_t seed) {
    return g.add("Conv", {x, weights(g, {out, in, kernel, kernel, kernel}, seed), weights(g, {out}, seed + 1)}, {{"pads", Ints(6, kernel / 2)}});
  };
  const auto norm = [&](ValueId x, int64_t c, uint64_t seed) {
    Tensor variance(DType::kF32, {c});
    for (int64_t i = 0; i < c; ++i) variance.set(i, 0.5 + static_cast<double>(i % 3));
    return g.add("BatchNormalization", {x, weights(g, {c}, seed), weights(g, {c}, seed + 1), weights(g, {c}, seed + 2), g.add_constant(variance)});
  };
  ValueId y = g.add("Relu", {conv(g.inputs[0], 3, 16, 3, 1)});
  y = g.add("Relu", {g.add("Add", {conv(g.add("Relu", {conv(y, 16, 16, 3, 3)}), 16, 16, 3, 5), y})});
  y = g.add("Concat", {y, conv(g.add("Relu", {norm(y, 16, 7)}), 16, 8, 3, 10)}, {{"axis", int64_t{1}}});
  y = conv(g.add("Relu", {norm(y, 24, 12)}), 24, 8, 1, 15);
  y = g.add("AveragePool", {y}, {{"kernel_shape", Ints{2, 2, 2}}, {"strides", Ints{2, 2, 2}}});
  g.outputs = {g.add("Flatten", {g.add("GlobalAveragePool", {norm(y, 8, 17)})})};
  EXPECT_LE(compare(g, "blocks"), 1) << print_plan(make_plan(g));  // the input
}

// A volume that is an output, and one that two read, are whole.
TEST(LiftVolumes, WhatIsAskedForIsMade) {
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{1, 4, 3, 5, 6}), g.add_input("z", DType::kF32, Shape{1, 4, 3, 5, 6})};
  const ValueId y = g.add("Conv", {g.inputs[0], weights(g, {4, 4, 3, 3, 3}, 1)}, {{"pads", Ints(6, 1)}});
  const ValueId sum = g.add("Add", {g.inputs[1], y}), wide = g.add("Add", {y, weights(g, {4, 1, 1, 1}, 2)});
  g.outputs = {y, sum, g.add("Sigmoid", {sum}), wide, g.add("Add", {y, y})};
  compare(g, "outputs");
}

// A block of a network for clips: volumes stay channels-last between its convolutions.
TEST(LiftVolumes, ChainsMoveNothing) {
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{1, 3, 8, 20, 20})};
  auto conv = [&](ValueId x, int64_t in, int64_t out, uint64_t seed) {
    return g.add("Relu", {g.add("Conv", {x, weights(g, {out, in, 3, 3, 3}, seed), weights(g, {out}, seed + 1)}, {{"pads", Ints(6, 1)}})});
  };
  ValueId y = conv(conv(g.inputs[0], 3, 16, 1), 16, 16, 3);
  y = g.add("MaxPool", {y}, {{"kernel_shape", Ints{2, 2, 2}}, {"strides", Ints{2, 2, 2}}});
  y = conv(y, 16, 24, 5);
  g.outputs = {y};
  EXPECT_LE(compare(g, "a block"), 2);  // the input and the output
}

}  // namespace
}  // namespace lathe
