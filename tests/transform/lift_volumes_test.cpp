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
