// MobileNets, EfficientNet-B0, LeNet-5 and TinyVGG: small forms against float64 code and in the engine; what they refuse.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"
#include "graph/op.h"
#include "same_padding.h"

namespace lathe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

double relu(double v) { return std::max(v, 0.0); }
double relu6(double v) { return std::clamp(v, 0.0, 6.0); }
double hard_swish(double v) { return v * std::clamp(v + 3, 0.0, 6.0) / 6; }
double hard_sigmoid(double v) { return std::clamp(v + 3, 0.0, 6.0) / 6; }
double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }
double same_value(double v) { return v; }
using Function = double (*)(double);

Map layer(const Map& x, const Weights& w, const std::string& scope, double epsilon, Function act, int64_t stride = 1, int64_t groups = 1) {
  return each(batch_norm(conv(x, w, scope, stride, w[scope + ".weight"].shape()[2] / 2, groups), w, scope + ".norm", epsilon), act);
}

// Expansion where there is one, depthwise, squeeze where there is one, projection, and the sum where sizes allow it.
Map inverted(const Map& x, const Weights& w, const std::string& scope, int64_t stride, double epsilon, Function act, Function squeeze_act = nullptr, Function gate = nullptr) {
  Map y = w.has(scope + "expand.weight") ? layer(x, w, scope + "expand", epsilon, act) : x;
  y = layer(y, w, scope + "depthwise", epsilon, act, stride, y.c);
  if (w.has(scope + "squeeze.reduce.weight")) {
    const Map g = each(conv(each(conv(mean(y), w, scope + "squeeze.reduce"), squeeze_act), w, scope + "squeeze.expand"), gate);
    for (int64_t c = 0; c < y.c; ++c)
      for (int64_t i = 0; i < y.h; ++i)
        for (int64_t j = 0; j < y.w; ++j) y.at(c, i, j) *= g.at(c, 0, 0);
  }
  y = layer(y, w, scope + "project", epsilon, same_value);
  return stride == 1 && x.c == y.c ? plus(y, x) : y;
}

Map mobilenet_v1(Map x, const Weights& w, bool small) {
  const auto same_layer = [&](const Map& v, const std::string& scope, int64_t stride, int64_t groups) {
    return each(batch_norm(conv(same(v, w[scope + ".weight"].shape()[2], stride), w, scope, stride, 0, groups), w, scope + ".norm", 1e-3), relu6);
  };
  x = same_layer(x, "stem", small ? 1 : 2, 1);
  for (int64_t i = 0; i < 13; ++i) {
    const bool halves = (i == 1 && !small) || i == 3 || i == 5 || i == 11;
    x = same_layer(x, fmt::format("blocks.{}.depthwise", i), halves ? 2 : 1, x.c);
    x = same_layer(x, fmt::format("blocks.{}.pointwise", i), 1, 1);
  }
  return linear(mean(x), w, "head", true);
}

Map mobilenet_v2(Map x, const Weights& w, bool small) {
  x = layer(x, w, "stem", 1e-5, relu6, small ? 1 : 2);
  const int64_t depths[] = {1, 2, 3, 4, 3, 3, 1}, strides[] = {1, small ? 1 : 2, 2, 2, 1, 2, 1};
  for (int64_t stage = 0; stage < 7; ++stage)
    for (int64_t i = 0; i < depths[stage]; ++i) x = inverted(x, w, fmt::format("stages.{}.blocks.{}.", stage, i), i == 0 ? strides[stage] : 1, 1e-5, relu6);
  return linear(mean(layer(x, w, "last", 1e-5, relu6)), w, "head", true);
}

Map mobilenet_v3(Map x, const Weights& w, bool large, bool small_stem) {
  x = layer(x, w, "stem", 1e-3, hard_swish, small_stem ? 1 : 2);
  const std::vector<int64_t> halving = large ? std::vector<int64_t>{1, 3, 6, 12} : std::vector<int64_t>{0, 1, 3, 8};
  for (int64_t i = 0; i < (large ? 15 : 11); ++i) {
    const bool halves = std::find(halving.begin(), halving.end(), i) != halving.end() && !(small_stem && i == halving[0]);
    x = inverted(x, w, fmt::format("blocks.{}.", i), halves ? 2 : 1, 1e-3, i < (large ? 6 : 3) ? relu : hard_swish, relu, hard_sigmoid);
  }
  return linear(each(linear(mean(layer(x, w, "last", 1e-3, hard_swish)), w, "head.features", true), hard_swish), w, "head", true);
}

Map efficientnet_b0(Map x, const Weights& w, bool small) {
  x = layer(x, w, "stem", 1e-5, silu, small ? 1 : 2);
  const int64_t depths[] = {1, 2, 2, 3, 3, 4, 1}, strides[] = {1, small ? 1 : 2, 2, 2, 1, 2, 1};
  for (int64_t stage = 0; stage < 7; ++stage)
    for (int64_t i = 0; i < depths[stage]; ++i) x = inverted(x, w, fmt::format("stages.{}.blocks.{}.", stage, i), i == 0 ? strides[stage] : 1, 1e-5, silu, silu, sigmoid);
  return linear(mean(layer(x, w, "last", 1e-5, silu)), w, "head", true);
}

// [2 × 2] windows side by side; what is left over at the end is left out.
template <class Take>
Map halved(const Map& x, Take take) {
  Map y(x.c, x.h / 2, x.w / 2);
  for (int64_t c = 0; c < y.c; ++c)
    for (int64_t i = 0; i < y.h; ++i)
      for (int64_t j = 0; j < y.w; ++j) y.at(c, i, j) = take(x.at(c, 2 * i, 2 * j), x.at(c, 2 * i, 2 * j + 1), x.at(c, 2 * i + 1, 2 * j), x.at(c, 2 * i + 1, 2 * j + 1));
  return y;
}
Map flat(Map x) {
  x.c = static_cast<int64_t>(x.v.size());
  x.h = x.w = 1;
  return x;
}

Map lenet5(Map x, const Weights& w, Function act, int64_t frame) {
  const auto average = [](double a, double b, double c, double d) { return (a + b + c + d) / 4; };
  x = halved(each(conv(x, w, "C1", 1, frame), act), average);
  x = flat(halved(each(conv(x, w, "C3"), act), average));
  x = each(linear(x, w, "C5", true), act);
  return linear(each(linear(x, w, "F6", true), act), w, "output", true);
}

Map tiny_vgg(Map x, const Weights& w) {
  for (const char* block : {"blocks.0.", "blocks.1."}) {
    for (const char* name : {"conv1", "conv2"}) x = each(conv(x, w, std::string(block) + name), relu);
    x = halved(x, [](double a, double b, double c, double d) { return std::max({a, b, c, d}); });
  }
  return linear(flat(x), w, "head", true);
}

Graph built(const char* name, const BuildOptions& o) {
  Graph g = build_model(name, o);
  randomize(g, 21);
  return g;
}

TEST(Standard, EqualFloat64) {
  for (const auto& [input, small] : {std::pair(Shape{3, 37, 44}, false), std::pair(Shape{1, 28, 28}, true)}) {
    const BuildOptions o{.classes = 5, .input = input, .width = 0.25, .more = small ? std::map<std::string, std::string>{{"stem", "small"}} : std::map<std::string, std::string>{}};
    for (const auto& [name, network] : std::map<const char*, std::function<Map(const Map&, const Weights&)>>{
             {"mobilenet_v1", [s = small](const Map& x, const Weights& w) { return mobilenet_v1(x, w, s); }},
             {"mobilenet_v2", [s = small](const Map& x, const Weights& w) { return mobilenet_v2(x, w, s); }},
             {"mobilenet_v3_large", [s = small](const Map& x, const Weights& w) { return mobilenet_v3(x, w, true, s); }},
             {"mobilenet_v3_small", [s = small](const Map& x, const Weights& w) { return mobilenet_v3(x, w, false, s); }},
             {"efficientnet_b0", [s = small](const Map& x, const Weights& w) { return efficientnet_b0(x, w, s); }}}) {
      const Graph g = built(name, o);
      const Weights w(g);
      expect_same(g, [&, f = network](const Map& x) { return f(x, w); }, name);
    }
  }
  for (const auto& [input, frame] : {std::pair(Shape{1, 28, 28}, 2), std::pair(Shape{1, 32, 32}, 0), std::pair(Shape{3, 41, 41}, 0)})
    for (const char* act : {"tanh", "relu"}) {
      const Graph g = built("lenet5", {.input = input, .more = {{"activation", act}}});
      const Weights w(g);
      const Function f = act == std::string("relu") ? &relu : +[](double v) { return std::tanh(v); };
      expect_same(g, [&, pad = frame](const Map& x) { return lenet5(x, w, f, pad); }, to_string(input));
    }
  for (const Shape& input : {Shape{3, 64, 64}, Shape{1, 28, 31}}) {
    const Graph g = built("tiny_vgg", {.input = input});
    const Weights w(g);
    expect_same(g, [&](const Map& x) { return tiny_vgg(x, w); }, to_string(input));
  }
}

TEST(Standard, TheEngineGivesTheSame) {
  for (const char* name : {"mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "lenet5", "tiny_vgg"}) {
    Graph g = built(name, {.classes = 10, .input = {3, 32, 36}});
    specialize(g, {{"input", {2, 3, 32, 36}}});
    compare(g, name);
  }
}

// The paper's pictures are 28×28 in a frame of 32×32: the same parameters.
TEST(Standard, TheFormsOfSmallPictures) {
  EXPECT_EQ(count_model(build_model("lenet5", {.input = {1, 32, 32}})).parameters, 61'706);
  EXPECT_EQ(count_model(build_model("lenet5")).macs, count_model(build_model("lenet5", {.input = {1, 32, 32}})).macs);
  for (const char* name : {"mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"}) {
    const ModelCounts small = count_model(build_model(name, {.input = {3, 32, 32}, .more = {{"stem", "small"}}, .draw = false})), large = count_model(build_model(name, {.input = {3, 32, 32}, .draw = false}));
    EXPECT_EQ(small.parameters, large.parameters) << name;
    EXPECT_GT(small.macs, 2 * large.macs) << name;
  }
}

TEST(Standard, EfficientNetDropsMoreTheDeeper) {
  const Graph g = build_model("efficientnet_b0", {.training = true, .draw = false});
  std::vector<float> rates;
  int dropouts = 0;
  for (NodeId id : g.order()) {
    if (g[id].op->name == "DropPath") rates.push_back(g[id].get_float("rate"));
    dropouts += g[id].op->name == "Dropout";
  }
  EXPECT_EQ(rates.size(), 9u);  // blocks with a sum
  EXPECT_TRUE(std::is_sorted(rates.begin(), rates.end()));
  EXPECT_FLOAT_EQ(rates[0], 0.2f * 2 / 16);
  EXPECT_FLOAT_EQ(rates.back(), 0.2f * 14 / 16);
  EXPECT_EQ(dropouts, 1);
}

TEST(Standard, WhatCannotBeBuiltIsNamed) {
  EXPECT_THAT(error_of("mobilenet_v2", {.more = {{"stem", "tiny"}}}), HasSubstr("mobilenet_v2: stem=tiny is none of published, small"));
  EXPECT_THAT(error_of("mobilenet_v1", {.depths = {1, 2}}), HasSubstr("stages are as published"));
  EXPECT_THAT(error_of("efficientnet_b0", {.depths = {1, 1, 1, 1, 1, 1, 1, 1}}), HasSubstr("has 7 stages"));
  EXPECT_THAT(error_of("lenet5", {.input = {1, 13, 28}}), HasSubstr("the side is at least 14"));
  EXPECT_THAT(error_of("lenet5", {.more = {{"activation", "gelu"}}}), HasSubstr("activation=gelu is none of tanh, relu"));
  EXPECT_THAT(error_of("tiny_vgg", {.input = {3, 9, 64}}), HasSubstr("too small for 2 blocks"));
  EXPECT_THAT(error_of("tiny_vgg", {.widths = {10, 10}}), HasSubstr("one width"));
}

}  // namespace
}  // namespace lathe
