// ViT and ConvNeXt against float64 code written from the papers.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"

namespace lathe {
namespace {

using namespace testing;

// `stem` convolutions by steps of 2 before the one of the patches.
Map vit(Map x, const Weights& w, int64_t depth, int64_t heads, int64_t patch, int stem = 0) {
  for (int i = 0; i < stem; ++i) {
    const std::string scope = fmt::format("stem.{}", i);
    x = each(batch_norm(conv(x, w, scope, 2, 1), w, scope + ".norm", 1e-5), [](double v) { return std::max(v, 0.0); });
  }
  x = conv(x, w, "patches", patch);
  Map tokens(x.c, x.pixels() + 1, 1);
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t t = 0; t < tokens.h; ++t)
      tokens.at(c, t, 0) =
          (t == 0 ? w.get("class_token", c) : x.v[static_cast<size_t>(c * x.pixels() + t - 1)]) + w.get("positions", t * x.c + c);
  for (int64_t i = 0; i < depth; ++i) {
    const std::string scope = fmt::format("blocks.{}.", i);
    tokens = plus(tokens, attention(pixel_norm(tokens, w, scope + "norm1", 1e-6), w, scope + "attention", heads));
    tokens = plus(tokens, linear(each(linear(pixel_norm(tokens, w, scope + "norm2", 1e-6), w, scope + "mlp.fc1", false), gelu), w,
                                 scope + "mlp.fc2", false));
  }
  tokens = pixel_norm(tokens, w, "norm", 1e-6);
  Map first(tokens.c, 1, 1);
  for (int64_t c = 0; c < tokens.c; ++c) first.at(c, 0, 0) = tokens.at(c, 0, 0);
  return linear(first, w, "head", true);
}

Map convnext(Map x, const Weights& w, const std::vector<int64_t>& depths, int64_t patch) {
  x = pixel_norm(conv(x, w, "stem.conv", patch), w, "stem.norm", 1e-6);
  for (size_t stage = 0; stage < depths.size(); ++stage) {
    const std::string down = fmt::format("stages.{}.downsample", stage);
    if (stage > 0) x = conv(pixel_norm(x, w, down + ".norm", 1e-6), w, down + ".conv", 2);
    for (int64_t i = 0; i < depths[stage]; ++i) {
      const std::string scope = fmt::format("stages.{}.blocks.{}.", stage, i);
      Map y = pixel_norm(conv(x, w, scope + "depthwise", 1, 3, x.c), w, scope + "norm", 1e-6);
      y = conv(each(conv(y, w, scope + "fc1"), gelu), w, scope + "fc2");
      x = plus(x, times_channels(y, w, scope + "layer_scale"));
    }
  }
  return linear(pixel_norm(mean(x), w, "head.norm", 1e-6), w, "head.fc", true);
}

BuildOptions vit_form() {
  return {.classes = 7, .input = {3, 12, 20}, .depths = {3}, .widths = {24}, .more = {{"patch", "4"}, {"heads", "3"}}};
}
BuildOptions convnext_form() {
  return {.classes = 7, .input = {3, 26, 19}, .depths = {1, 2, 1}, .widths = {8, 16, 24}, .more = {{"stem", "2"}}};
}

TEST(Vit, EqualsFloat64) {
  Graph g = build_model("vit_s_16", vit_form());
  randomize(g, 2);
  const Weights w(g);
  expect_same(g, [&](const Map& x) { return vit(x, w, 3, 3, 4); }, "vit");
}

TEST(Vit, WithConvolutionsEqualsFloat64) {
  BuildOptions o = vit_form();
  o.more["stem"] = "convolutions";
  Graph g = build_model("deit_tiny", o);
  randomize(g, 2);
  const Weights w(g);
  EXPECT_EQ(w["stem.0.weight"].shape(), (Shape{12, 3, 3, 3}));
  EXPECT_EQ(w["stem.1.weight"].shape(), (Shape{24, 12, 3, 3}));
  EXPECT_EQ(w["patches.weight"].shape(), (Shape{24, 24, 1, 1}));
  expect_same(g, [&](const Map& x) { return vit(x, w, 3, 3, 1, 2); }, "vit");
}

TEST(ConvNeXt, EqualsFloat64) {
  Graph g = build_model("convnext_tiny", convnext_form());
  randomize(g, 2);
  const Weights w(g);
  expect_same(g, [&](const Map& x) { return convnext(x, w, {1, 2, 1}, 2); }, "convnext");
}

TEST(VitAndConvNeXt, TheEngineGivesTheSame) {
  for (int64_t batch : {1, 2}) {
    Graph v = build_model("vit_s_16", vit_form()), c = build_model("convnext_tiny", convnext_form());
    randomize(v, 3);
    randomize(c, 3);
    specialize(v, {{"input", {batch, 3, 12, 20}}});
    specialize(c, {{"input", {batch, 3, 26, 19}}});
    compare(v, "vit");
    compare(c, "convnext");
    int attentions = 0;
    const Plan plan = make_plan(v);
    for (const Step& s : plan.steps) attentions += s.kernel_name == "attention";
    EXPECT_EQ(attentions, 3);
  }
}

TEST(VitAndConvNeXt, WhatCannotBeBuiltIsNamed) {
  const auto refused = [](const char* model, const BuildOptions& o, const char* what) {
    EXPECT_THAT(error_of(model, o), ::testing::HasSubstr(what));
  };
  refused("vit_b_16", {.input = {3, 224, 220}}, "[3, 224, 220] is not made of patches of 16");
  refused("vit_b_16", {.depths = {6, 6}}, "one number as depth");
  refused("deit_tiny", {.more = {{"heads", "5"}}}, "192 channels cannot form 5 heads");
  refused("deit_tiny", {.input = {3, 28, 28}, .more = {{"patch", "7"}, {"stem", "convolutions"}}}, "patches of a power of 2");
  refused("deit_tiny", {.input = {3, 32, 32}, .widths = {36}, .more = {{"patch", "16"}, {"stem", "convolutions"}}}, "36 channels to halve");
  refused("deit_tiny", {.more = {{"stem", "pool"}}}, "stem=pool is none of patches, convolutions");
  refused("convnext_tiny", {.input = {3, 28, 28}}, "smaller than 32");
  refused("convnext_tiny", {.more = {{"drop_path", "-1"}}}, "drop_path=-1 is no number of 0 to 0.99");
}

}  // namespace
}  // namespace lathe
