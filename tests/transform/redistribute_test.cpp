// Kernels move from the stage to what follows it, and the network sees as far as before.
#include "transform/redistribute.h"

#include <gtest/gtest.h>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

// Depthwise 3×3 convolutions with strides 1, 2, 1, 2, 1, 1 and 1×1 ones between them.
Graph network() {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 4, 64, 64});
  uint64_t seed = 1;
  for (int64_t stride : {1, 2, 1, 2, 1, 1}) {
    x = g.add("Conv", {x, g.add_constant(random_tensor(DType::kF32, {4, 1, 3, 3}, seed++))}, {{"group", int64_t{4}}, {"strides", Ints{stride, stride}}, {"pads", Ints(4, 1)}});
    x = g.add("Conv", {x, g.add_constant(random_tensor(DType::kF32, {4, 4, 1, 1}, seed++))});
  }
  g.outputs = {g.add("GlobalAveragePool", {x})};
  return g;
}

TEST(Redistribution, HalvesWhatIsDoneTwiceAndSeesAsFar) {
  Graph g = network();
  const PatchPrefix prefix = patchable_prefix(g);
  EXPECT_EQ(receptive_field(g, prefix), 1 + 2 + 2 + 4 + 4 + 8 + 8);
  Graph probe = network();
  const Redistribution none = redistribute(probe, {.nodes = 8, .grid = {3, 3}, .overhead = 100});
  EXPECT_TRUE(none.changes.empty());
  EXPECT_EQ(none.overhead, none.overhead_before);
  const Redistribution done = redistribute(g, {.nodes = 8, .grid = {3, 3}, .overhead = none.overhead / 2});
  EXPECT_LE(done.overhead, none.overhead / 2);
  EXPECT_GE(done.field, done.field_before);
  EXPECT_EQ(done.field, receptive_field(g, patchable_prefix(g)));
  verify(g);
  bool smaller = false, larger = false;
  for (const Redistribution::Change& c : done.changes) {
    smaller |= c.in_stage && c.after < c.before;
    larger |= !c.in_stage && c.after > c.before;
    EXPECT_EQ(c.in_stage, c.after < c.before);
  }
  EXPECT_TRUE(smaller && larger);
  Graph inferred = g;
  infer_shapes(inferred);  // sizes stay
  EXPECT_EQ(*inferred[inferred.outputs[0]].shape, (Shape{1, 4, 1, 1}));
}

TEST(Redistribution, LargerKernelsComputeTheSameAtFirst) {
  // Everything behind the stage grows, nothing in it changes: the same answers.
  Graph g = network(), before = g;
  const PatchPrefix prefix = patchable_prefix(g);
  const int64_t field = receptive_field(g, prefix);
  Graph probe = g;
  const double overhead = redistribute(probe, {.nodes = 4, .grid = {2, 2}, .overhead = 100}).overhead;
  const Redistribution done = redistribute(g, {.nodes = 4, .grid = {2, 2}, .overhead = 0.99 * overhead});  // the first kernel becomes 1×1
  ASSERT_FALSE(done.changes.empty());
  EXPECT_EQ(done.changes[0].after, 1);
  EXPECT_GE(done.field, field);
  // Its middle alone in the original is what the first kernel is now.
  const NodeId first = prefix.whole.nodes[0].node;
  Tensor middle = before[before[first].inputs[1]].constant.clone();
  for (int64_t i = 0; i < middle.size(); ++i)
    if (i % 9 != 4) middle.set(i, 0);
  const ValueId weights = before.add_constant(middle);
  before[first].inputs[1] = weights;
  Session a(make_plan(g)), b(make_plan(before));
  const std::vector<Tensor> x = random_inputs(a.plan(), 2);
  const Tensor y = a.run(x)[0].clone();
  const Tensor& z = b.run(x)[0];
  for (int64_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y.get(i), z.get(i), 1e-4 * std::abs(z.get(i)));
}

TEST(Redistribution, SaysWhatCannotBeReached) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 4, 32, 32});
  x = g.add("Conv", {x, g.add_constant(random_tensor(DType::kF32, {4, 4, 3, 3}, 1))}, {{"pads", Ints(4, 1)}});
  g.outputs = {g.add("Conv", {x, g.add_constant(random_tensor(DType::kF32, {4, 4, 3, 3}, 2))}, {{"pads", Ints(4, 1)}})};
  try {
    redistribute(g, {.nodes = 2, .grid = {3, 3}, .overhead = 0.001});
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBudget);
    EXPECT_NE(std::string(e.what()).find("no depthwise kernel"), std::string::npos);
  }
  EXPECT_THROW(redistribute(g, {.nodes = 7, .grid = {3, 3}}), Error);
}

}  // namespace
}  // namespace lathe
