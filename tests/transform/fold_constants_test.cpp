// What folds and what does not.
#include <gtest/gtest.h>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Weights stored in a narrow type are constants for the planner, however many there are; other results that grow are
// left to be computed.
TEST(FoldConstants, WidensWeightsButGrowsNothingElse) {
  constexpr int64_t kCount = 700'000;  // as f32 more than a MiB above bf16
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, kCount});
  Tensor narrow(DType::kBF16, {1, kCount});
  for (int64_t i = 0; i < kCount; ++i) narrow.set(i, 0.5);
  ValueId wide = g.add("Cast", {g.add_constant(narrow)}, {{"to", static_cast<int64_t>(DType::kF32)}});
  ValueId one = g.add_constant(Tensor::of_f32({1, 1}, {3}));
  ValueId many = g.add("Expand", {one, g.add_constant(Tensor::of_i64({1, kCount}))});
  g.outputs = {g.add("Add", {g.add("Mul", {x, wide}), many})};
  fold_constants(g);
  EXPECT_TRUE(g[wide].is_constant());
  EXPECT_EQ(g[wide].constant.dtype(), DType::kF32);
  EXPECT_EQ(g[wide].constant.get(kCount - 1), 0.5);
  EXPECT_FALSE(g[many].is_constant());
}

}  // namespace
}  // namespace lathe
