// The model families: counts as published, networks that check, run and refuse what they cannot do.
#include "models/models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "error_of.h"
#include "formats/onnx.h"
#include "graph/op.h"

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

TEST(Models, WhatCannotBeBuiltIsNamed) {
  EXPECT_THAT(error_of("resnet1", {}), ::testing::HasSubstr("no model resnet1; there are resnet18"));
  EXPECT_THAT(error_of("resnet18", {.classes = -1}), ::testing::HasSubstr("-1 classes"));
  EXPECT_THAT(error_of("resnet18", {.input = {3, 32}}), ::testing::HasSubstr("[3, 32]"));
  EXPECT_THAT(error_of("resnet18", {.input = {3, 0, 32}}), ::testing::HasSubstr("[3, 0, 32]"));
  EXPECT_THAT(error_of("resnet18", {.width = 0}), ::testing::HasSubstr("width 0"));
  EXPECT_THAT(error_of("resnet18", {.depths = {1, 0}}), ::testing::HasSubstr("0 blocks"));
  EXPECT_THAT(error_of("resnet18", {.more = {{"steam", "small"}}}), ::testing::HasSubstr("no option steam; it has stem"));
}

}  // namespace
}  // namespace lathe
