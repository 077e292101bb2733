// Convolutions and pooling along one axis run on the kernels of pictures, and give the same.
#include "both_ways.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
using testing::compare;
using testing::weights;

struct Window {
  int64_t kernel, stride, begin, end, dilation, groups;
  const char* auto_pad;
};

TEST(LiftSequences, ConvolvesAlongOneAxis) {
  const Window windows[] = {{1, 1, 0, 0, 1, 1, "NOTSET"}, {3, 1, 1, 1, 1, 1, "NOTSET"}, {3, 2, 1, 0, 1, 1, "NOTSET"}, {5, 1, 4, 4, 2, 1, "NOTSET"}, {3, 1, 1, 1, 1, 6, "NOTSET"},
                            {4, 2, 0, 0, 1, 1, "SAME_UPPER"}, {4, 3, 0, 0, 1, 2, "SAME_LOWER"}, {80, 7, 0, 0, 1, 1, "VALID"}, {3, 1, 4, 0, 2, 6, "NOTSET"}, {7, 2, 3, 3, 1, 6, "NOTSET"}};
  for (const Window& w : windows)
    for (int64_t channels : {6, 1, 18})
      for (bool bias : {false, true}) {
        const int64_t groups = channels == 1 ? 1 : w.groups;
        Graph g;
        g.inputs = {g.add_input("x", DType::kF32, Shape{2, channels, 113})};
        std::vector<ValueId> inputs{g.inputs[0], weights(g, {12, channels / groups, w.kernel}, 3)};
        if (bias) inputs.push_back(weights(g, {12}, 4));
        Attributes a{{"strides", Ints{w.stride}}, {"dilations", Ints{w.dilation}}, {"group", groups}, {"auto_pad", std::string(w.auto_pad)}};
        if (std::string_view(w.auto_pad) == "NOTSET") a["pads"] = Ints{w.begin, w.end};
        g.outputs = {g.add("Relu", {g.add("Conv", inputs, a)})};
        compare(g, fmt::format("{} channels, window {}/{} dilation {} groups {} {}", channels, w.kernel, w.stride, w.dilation, groups, w.auto_pad));
      }
}

// Windows as long as those of a Fourier transform, over few positions.
TEST(LiftSequences, ConvolvesWithLongWindows) {
  for (int64_t length : {576, 2000})
    for (int64_t taps : {256, 400}) {
      Graph g;
      g.inputs = {g.add_input("x", DType::kF32, Shape{1, 1, length})};
      g.outputs = {g.add("Conv", {g.inputs[0], weights(g, {34, 1, taps}, 3)}, {{"strides", Ints{128}}})};
      compare(g, fmt::format("{} taps over {}", taps, length));
    }
}

// A block as networks for sound have them: norm, pooling, a shortcut, joined channels and an upsampling convolution.
TEST(LiftSequences, WhatStandsBetweenFollows) {
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{1, 8, 40})};
  auto conv = [&](ValueId x, int64_t in, int64_t out, uint64_t seed) {
    return g.add("Conv", {x, weights(g, {out, in, 3}, seed), weights(g, {out}, seed + 1)}, {{"pads", Ints{1, 1}}});
  };
  Tensor variance(DType::kF32, {16});
  for (int64_t i = 0; i < 16; ++i) variance.set(i, 1 + static_cast<double>(i) / 8);
  const ValueId first = conv(g.inputs[0], 8, 16, 1);
  const ValueId norm = g.add("BatchNormalization", {g.add("Sigmoid", {first}), weights(g, {16}, 5), weights(g, {16}, 6), weights(g, {16}, 7), g.add_constant(variance)});
  const ValueId sum = g.add("Add", {g.add("LeakyRelu", {conv(norm, 16, 16, 8)}), norm});
  const ValueId scaled = g.add("Mul", {g.add("PRelu", {sum, weights(g, {16, 1}, 11)}), weights(g, {1, 16, 1}, 12)});
  const ValueId pooled = g.add("MaxPool", {g.add("Concat", {scaled, first}, {{"axis", int64_t{1}}})}, {{"kernel_shape", Ints{2}}, {"strides", Ints{2}}});
  const ValueId means = g.add("AveragePool", {pooled}, {{"kernel_shape", Ints{3}}, {"strides", Ints{1}}, {"pads", Ints{1, 1}}});
  const ValueId up = g.add("ConvTranspose", {means, weights(g, {32, 4, 4}, 13)}, {{"strides", Ints{2}}, {"pads", Ints{1, 1}}});
  const ValueId joined = g.add("Concat", {up, g.add("Add", {up, weights(g, {40}, 14)})}, {{"axis", int64_t{-1}}});
  g.outputs = {g.add("Add", {joined, g.add_constant(Tensor::scalar(0.25f))}), g.add("Flatten", {g.add("GlobalAveragePool", {pooled})}), sum};
  compare(g, "a block");
}

}  // namespace
}  // namespace lathe
