// SpaRTAN against float64 code written from the paper: both mixers, ties of the strongest channel, groups of both kinds.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"

namespace lathe {
namespace {

using namespace testing;

class Float64 {
 public:
  Float64(const Weights& w, std::vector<int64_t> depths, bool waves) : w_(w), depths_(std::move(depths)), waves_(waves) {}

  Map run(Map x) {
    x = each(layer(x, "stem.conv1", 1, 1), gelu);
    x = each(layer(x, "stem.conv2", 1, 1), gelu);
    for (size_t stage = 0; stage < depths_.size(); ++stage) {
      const std::string scope = fmt::format("stages.{}.", stage);
      if (stage > 0) x = each(layer(x, scope + "downsample", 2, 0), silu);
      for (int64_t i = 0; i < depths_[stage]; ++i) {
        const std::string block = scope + fmt::format("blocks.{}.", i);
        x = plus(x, times_channels(space(whole_norm(x, w_, block + "norm1", 1e-6), block + "space.", stage), w_, block + "layer_scale1"));
        x = plus(x, times_channels(channel(whole_norm(x, w_, block + "norm2", 1e-6), block + "channel.", stage), w_, block + "layer_scale2"));
      }
    }
    return linear(mean(x), w_, "head", true);
  }

 private:
  Map layer(const Map& x, const std::string& scope, int64_t stride, int64_t pad, int64_t groups = 1, int64_t dilation = 1) {
    return batch_norm(conv(x, w_, scope + ".conv", stride, pad, groups, dilation), w_, scope + ".norm", 1e-6);
  }
  Map excited(Map x, const std::string& scope) {
    const Map squeezed = each(conv(mean(x), w_, scope + ".squeeze"), [](double v) { return std::max(v, 0.0); });
    const Map gate = each(conv(squeezed, w_, scope + ".excite"), [](double v) { return 1 / (1 + std::exp(-v)); });
    for (int64_t c = 0; c < x.c; ++c)
      for (int64_t i = 0; i < x.pixels(); ++i) x.v[static_cast<size_t>(c * x.pixels() + i)] *= gate.at(c, 0, 0);
    return x;
  }
  Map space(const Map& x, const std::string& scope, size_t stage) {
    Map y = conv(x, w_, scope + "reduce");
    const Map m = mean(y);
    for (int64_t c = 0; c < y.c; ++c)
      for (int64_t i = 0; i < y.pixels(); ++i) {
        double& v = y.v[static_cast<size_t>(c * y.pixels() + i)];
        v += w_.get(scope + "gamma", c) * (v - m.at(c, 0, 0));
      }
    const int64_t groups = stage < 2 ? 1 : y.c;
    const Map near = excited(each(layer(y, scope + "near", 1, 1, groups), gelu), scope + "near_scale");
    const Map far =
        excited(each(layer(conv(y, w_, scope + "far1", 1, 2, groups, 2), scope + "far2", 1, 2, groups, 2), gelu), scope + "far_scale");
    Map both(2 * near.c, near.h, near.w);
    std::copy(near.v.begin(), near.v.end(), both.v.begin());
    std::copy(far.v.begin(), far.v.end(), both.v.begin() + static_cast<std::ptrdiff_t>(near.v.size()));
    return conv(both, w_, scope + "expand");
  }
  Map channel(const Map& x, const std::string& scope, size_t stage) {
    const Map phase = each(conv(x, w_, scope + "phase"), gelu), amplitude = conv(x, w_, scope + "amplitude");
    Map f(phase.c, x.h, x.w);
    for (int64_t i = 0; i < x.h; ++i)
      for (int64_t j = 0; j < x.w; ++j) {
        int64_t strongest = 0;
        for (int64_t c = 1; c < x.c; ++c)
          if (x.at(c, i, j) > x.at(strongest, i, j)) strongest = c;
        const double add = waves_ ? amplitude.at(strongest, i, j) * phase.at(strongest, i, j) : 0;
        for (int64_t k = 0; k < f.c / 2; ++k) {
          const double real = amplitude.at(2 * k, i, j) * phase.at(2 * k, i, j) + add,
                       imaginary = amplitude.at(2 * k + 1, i, j) * phase.at(2 * k + 1, i, j) + add;
          const double c = waves_ ? w_.get(scope + "wave_real", k) : 1, d = waves_ ? w_.get(scope + "wave_imaginary", k) : 0;
          f.at(2 * k, i, j) = real * c - imaginary * d;
          f.at(2 * k + 1, i, j) = real * d + imaginary * c;
        }
      }
    const Map y = excited(each(layer(f, scope + "mix", 1, 1, stage < 2 ? f.c : x.c), gelu), scope + "scale");
    return conv(y, w_, scope + "project");
  }

  const Weights& w_;
  std::vector<int64_t> depths_;
  bool waves_;
};

BuildOptions form(std::vector<int64_t> depths, std::vector<int64_t> widths, Shape input, std::map<std::string, std::string> more = {}) {
  more["stem"] = "small";
  return {.classes = 10,
          .input = std::move(input),
          .depths = std::move(depths),
          .widths = std::move(widths),
          .more = std::move(more),
          .seed = 4};
}

TEST(Spartan, EqualsFloat64OnOddSizes) {
  for (const char* waves : {"1", "0"})
    for (const Shape& input : {Shape{3, 9, 13}, Shape{1, 8, 8}, Shape{3, 17, 10}}) {
      Graph g = build_model("spartan", form({1, 1, 2, 1}, {16, 24, 32, 40}, input, {{"waves", waves}}));
      randomize(g, 6);
      const Weights w(g);
      expect_same(
          g,
          [&](const Map& x) {
            return Float64(w, {1, 1, 2, 1}, *waves == '1').run(x);
          },
          fmt::format("{} waves {}", to_string(input), waves));
    }
}

TEST(Spartan, TheEngineGivesTheSame) {
  for (int64_t batch : {1, 2}) {
    Graph g = build_model("spartan", form({1, 1, 2, 1}, {16, 32, 64, 128}, {1, 28, 28}));
    randomize(g, 7);
    specialize(g, {{"input", {batch, 1, 28, 28}}});
    compare(g, fmt::format("batch {}", batch));
  }
}

// Of equal channels the lowest counts: on a picture of one value all channels of a norm without a shift are equal.
TEST(Spartan, TiesTakeTheLowestChannel) {
  Graph g = build_model("spartan", form({1}, {8}, {1, 4, 4}));
  randomize(g, 8);
  NodeId arg{};
  for (NodeId id : g.order())
    if (g[id].op->name == "ArgMax") arg = id;
  ASSERT_TRUE(arg);
  Tensor x(DType::kF32, {1, 8, 1, 2});
  for (int64_t i = 0; i < 16; ++i) x.set(i, i % 2 == 0 ? 0.5 : i >= 6 ? 2 : 1);
  const Tensor index = reference::run_node(g[arg], {x})[0];
  EXPECT_EQ(index.get_int(0), 0);
  EXPECT_EQ(index.get_int(1), 3);
}

TEST(Spartan, PartsCountAsInThePaper) {
  const Graph g = build_model("spartan", {.draw = false});
  std::map<std::string, int64_t> parts;
  for (ValueId v : parameters_of(g).trained) {
    const std::string& name = g[v].name;
    size_t end = name.find('.');
    if (name.starts_with("stages.")) {
      end = name.find('.', 7);
      if (name.compare(end, 8, ".blocks.") == 0) end = name.find('.', end + 8);
      else end = name.size();
    }
    parts[name.starts_with("stages.") && end == name.size() ? name.substr(0, 9) + "downsample" : name.substr(0, end)] += g[v].constant.size();
  }
  EXPECT_EQ(parts["stem"], 5'136);
  EXPECT_EQ(parts["stages.0.blocks.0"], 25'360);
  EXPECT_EQ(parts["stages.1.blocks.2"], 96'800);
  EXPECT_EQ(parts["stages.2.blocks.11"], 152'832);
  EXPECT_EQ(parts["stages.3.blocks.1"], 592'384);
  EXPECT_EQ(parts["stages.1.downsample"], 8'320);
  EXPECT_EQ(parts["stages.2.downsample"], 33'024);
  EXPECT_EQ(parts["stages.3.downsample"], 131'584);
  EXPECT_EQ(parts["head"], 257'000);
}

TEST(Spartan, WhatCannotBeBuiltIsNamed) {
  const auto refused = [](const BuildOptions& o, const char* what) { EXPECT_THAT(error_of("spartan", o), ::testing::HasSubstr(what)); };
  refused({.widths = {32, 60, 128, 256}}, "60 channels of stage 2 are no multiple of 8");
  refused({.more = {{"ratios", "4,4,2,1"}}}, "ratios=4,4,2,1 holds an expansion of 1");
  refused({.more = {{"ratios", "4,4"}}}, "ratios=4,4 is not 4 numbers");
  refused({.input = {3, 16, 256}}, "smaller than 32");
  refused({.more = {{"stem", "big"}}}, "stem=big is none of published, small");
}

// Rates of drop path divide by all blocks, not by all but one.
TEST(Spartan, DropPathDividesByAllBlocks) {
  float last = 0;
  const Graph g = build_model("spartan", {.training = true, .draw = false});
  for (NodeId id : g.order())
    if (g[id].op->name == "DropPath") last = g[id].get_float("rate");
  EXPECT_FLOAT_EQ(last, 0.1f * 19 / 20);
}

}  // namespace
}  // namespace lathe
