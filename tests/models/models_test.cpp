// The model families: counts as published, networks that check, run and refuse what they cannot do.
#include "models/models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "error_of.h"
#include "formats/onnx.h"
#include "graph/op.h"
#include "kernels/reference/reference.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using testing::error_of;

TEST(Models, EveryNetworkCountsAsPublished) {
  for (const ModelEntry& m : all_models()) EXPECT_THAT(check_counts(m).wrong, ::testing::IsEmpty()) << m.name;
}

TEST(Models, NamesAreUnique) {
  std::set<std::string> names;
  for (const ModelEntry& m : all_models()) {
    EXPECT_TRUE(names.insert(m.name).second) << m.name;
    EXPECT_FALSE(m.source.empty()) << m.name;
    EXPECT_TRUE(m.counts.parameters > 0 && m.counts.macs > 0) << m.name;
  }
}

TEST(Models, RoundingOfPublishedFigures) {
  EXPECT_TRUE(rounds_to(11'689'512, "11.69M"));
  EXPECT_TRUE(rounds_to(11'915'176, "11.9M"));
  EXPECT_FALSE(rounds_to(11'955'000, "11.9M"));
  EXPECT_TRUE(rounds_to(563'638'816, "564M"));
  EXPECT_TRUE(rounds_to(11'590'708'992, "11.6G"));
  EXPECT_FALSE(rounds_to(11'533'320'192, "11.6G"));
  EXPECT_TRUE(rounds_to(450'595'776, "0.45B"));
}

TEST(Models, AParameterIsAConstantThatIsNoLiteral) {
  BuildOptions options;
  Builder b("net", options);
  ValueId x = b.input({4, 5, 5});
  {
    auto scope = b.scope("norm");
    x = b.batch_norm(x);
  }
  {
    auto scope = b.scope("group");
    x = b.group_norm(x, 1e-5, false);
  }
  x = b.add(b.relu6(x), b.literal(2));
  Tensor fixed(DType::kF32, {4, 1, 1});
  std::fill_n(fixed.data<float>(), 4, 1.0f);
  x = b.mul(x, b.frozen("mask", fixed));
  const Graph g = b.finish({x}, {"y"});
  const Parameters p = parameters_of(g);
  const auto names = [&](const std::vector<ValueId>& values) {
    std::vector<std::string> list;
    for (ValueId v : values) list.push_back(g[v].name);
    return list;
  };
  EXPECT_THAT(names(p.trained), ::testing::UnorderedElementsAre("norm.weight", "norm.bias", "group.weight"));
  EXPECT_THAT(names(p.frozen), ::testing::UnorderedElementsAre("group.bias.frozen", "mask.frozen"));
  EXPECT_THAT(names(p.statistics), ::testing::UnorderedElementsAre("norm.mean", "norm.variance"));
}

TEST(Models, ASeedGivesTheSameFile) {
  const auto bytes = [](uint64_t seed) { return onnx_bytes(build_model("resnet18", {.classes = 10, .input = {3, 32, 32}, .width = 0.125, .seed = seed})); };
  EXPECT_EQ(bytes(1), bytes(1));
  EXPECT_NE(bytes(1), bytes(2));
  const Graph again = import_onnx_bytes(bytes(1)).graph;
  EXPECT_EQ(count_model(again).parameters, count_model(build_model("resnet18", {.classes = 10, .input = {3, 32, 32}, .width = 0.125})).parameters);
}

// A clip's scores are the mean of those of its frames, each alone.
TEST(Models, ResNetsTakeClipsFrameByFrame) {
  BuildOptions o{.classes = 5, .input = {3, 4, 17, 16}, .width = 0.125, .more = {{"stem", "small"}}, .seed = 2};
  const Graph clips = build_model("resnet18", o);
  o.input = {3, 17, 16};
  const Graph pictures = build_model("resnet18", o);
  EXPECT_EQ(count_model(clips).parameters, count_model(pictures).parameters);
  EXPECT_EQ(*clips[clips.outputs[0]].shape, (Shape{kUnknownDim, 5}));
  const int64_t plane = 17 * 16;
  Tensor clip(DType::kF32, {2, 3, 4, 17, 16});
  for (int64_t i = 0; i < clip.size(); ++i) clip.data<float>()[i] = static_cast<float>(i * 2654435761u % 1000) / 500 - 1;
  const auto run = [](Graph g, const Tensor& x) {
    specialize(g, {{"input", x.shape()}});
    return reference::run_graph(g, {x})[0];
  };
  const Tensor scores = run(clips, clip);
  ASSERT_EQ(scores.shape(), (Shape{2, 5}));
  for (int64_t n = 0; n < 2; ++n) {
    std::vector<double> mean(5, 0);
    for (int64_t t = 0; t < 4; ++t) {
      Tensor frame(DType::kF32, {1, 3, 17, 16});
      for (int64_t c = 0; c < 3; ++c) std::copy_n(clip.data<float>() + ((n * 3 + c) * 4 + t) * plane, plane, frame.data<float>() + c * plane);
      const Tensor y = run(pictures, frame);
      for (int64_t k = 0; k < 5; ++k) mean[static_cast<size_t>(k)] += y.get(k) / 4;
    }
    for (int64_t k = 0; k < 5; ++k) EXPECT_NEAR(scores.get(n * 5 + k), mean[static_cast<size_t>(k)], 1e-4 * std::max(1.0, std::abs(mean[static_cast<size_t>(k)])));
  }
}

TEST(Models, WhatCannotBeBuiltIsNamed) {
  EXPECT_THAT(error_of("resnet1", {}), ::testing::AllOf(::testing::HasSubstr("no model resnet1; there are "), ::testing::HasSubstr(" resnet18,")));
  EXPECT_THAT(error_of("resnet18", {.classes = -1}), ::testing::HasSubstr("-1 classes"));
  EXPECT_THAT(error_of("resnet18", {.input = {3, 32}}), ::testing::HasSubstr("[3, 32]"));
  EXPECT_THAT(error_of("mobilenet_v2", {.input = {3, 4, 32, 32}}), ::testing::HasSubstr("[3, 4, 32, 32]"));
  EXPECT_THAT(error_of("resnet18", {.input = {3, 0, 32}}), ::testing::HasSubstr("[3, 0, 32]"));
  EXPECT_THAT(error_of("resnet18", {.width = 0}), ::testing::HasSubstr("width 0"));
  EXPECT_THAT(error_of("resnet18", {.depths = {1, 0}}), ::testing::HasSubstr("0 blocks"));
  EXPECT_THAT(error_of("resnet18", {.more = {{"steam", "small"}}}), ::testing::HasSubstr("no option steam; it has stem"));
}

}  // namespace
}  // namespace lathe
