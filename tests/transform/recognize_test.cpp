// Spellings of one function become one node, and give the same; what only looks like one stays.
#include "both_ways.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using testing::compare;
using testing::weights;

int count(const Graph& graph, std::string_view op) {
  const Plan plan = make_plan(graph);
  int found = 0;
  for (const Step& s : plan.steps) found += plan.graph[s.node].op->name == op;
  return found;
}

ValueId number(Graph& g, const Shape& shape, double value) {
  Tensor t(DType::kF32, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, value);
  return g.add_constant(t);
}

// Between two convolutions, so that the layout is that of pictures.
template <class F>
Graph between(F f) {
  Graph g;
  g.inputs = {g.add_input("x", DType::kF32, Shape{2, 8, 7, 5})};
  const ValueId x = g.add("Conv", {g.inputs[0], weights(g, {24, 8, 1, 1}, 1)});
  g.outputs = {g.add("Conv", {f(g, x), weights(g, {8, 24, 1, 1}, 2)})};
  return g;
}

TEST(Recognize, StarRelu) {
  for (bool power : {false, true})
    for (int parts : {0, 1, 2, 3})
      for (const Shape& scalar : {Shape{}, Shape{1}, Shape{1, 1, 1, 1}}) {
        const Graph g = between([&](Graph& g, ValueId x) {
          const ValueId r = g.add("Relu", {x});
          ValueId y = power ? g.add("Pow", {r, number(g, {}, 2)}) : g.add("Mul", {r, r});
          if (parts & 1) y = g.add("Mul", {number(g, scalar, -0.7), y});
          if (parts & 2) y = g.add("Add", {y, number(g, scalar, 0.3)});
          return y;
        });
        const std::string text = fmt::format("power {} parts {} scalar {}", power, parts, to_string(scalar));
        compare(g, text);
        EXPECT_EQ(count(g, "StarRelu"), 1) << text;
        EXPECT_EQ(count(g, "Mul") + count(g, "Add") + count(g, "Relu") + count(g, "Pow"), 0) << text;
      }
}

TEST(Recognize, WhatIsReadElsewhereIsNoStarRelu) {
  const Graph both = between([](Graph& g, ValueId x) {
    const ValueId r = g.add("Relu", {x});
    return g.add("Add", {g.add("Mul", {r, r}), r});
  });
  compare(both, "relu² + relu");
  EXPECT_EQ(count(both, "StarRelu"), 0);
  // A factor for each channel is no number.
  const Graph channels = between([](Graph& g, ValueId x) {
    const ValueId r = g.add("Relu", {x});
    return g.add("Mul", {g.add("Mul", {r, r}), weights(g, {24, 1, 1}, 3)});
  });
  compare(channels, "by channel");
  EXPECT_EQ(count(channels, "Mul"), 1);
}

TEST(Recognize, GroupNormalizationWrittenByInstances) {
  for (int64_t groups : {1, 4}) {
    const auto spelled = [&](double one, double epsilon) {
      return between([&](Graph& g, ValueId x) {
        ValueId y = g.add("Reshape", {x, g.add_constant(Tensor::of_i64({0, groups, -1}))});
        y = g.add("InstanceNormalization", {y, number(g, {groups}, one), number(g, {groups}, 0)}, {{"epsilon", static_cast<float>(epsilon)}});
        y = g.add("Reshape", {y, g.add_constant(Tensor::of_i64({2, 24, 7, 5}))});
        return g.add("Add", {g.add("Mul", {y, weights(g, {24, 1, 1}, 5)}), weights(g, {24, 1, 1}, 6)});
      });
    };
    const Graph g = spelled(1, 1e-3);
    const int transposes = compare(g, fmt::format("{} groups", groups));
    EXPECT_EQ(count(g, "InstanceNormalization") + count(g, "Mul") + count(g, "Add"), 0);
    // Of one group it is a norm of whole samples in any layout: only the graph's input and output are transposed.
    EXPECT_EQ(count(g, groups == 1 ? "LayerNormalization" : "GroupNormalization"), 1);
    if (groups == 1) { EXPECT_EQ(transposes, 2); }
    const Graph scaled = spelled(2, 1e-3);
    compare(scaled, "scaled instances");
    EXPECT_EQ(count(scaled, "InstanceNormalization"), 1);
  }
}

}  // namespace
}  // namespace lathe
