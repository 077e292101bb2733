// Spellings of attention that end in heads being read and written in place, and Reshapes that stand in the way.
#include <gtest/gtest.h>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
constexpr int64_t kTokens = 13, kHeads = 3, kWidth = 8, kModel = kHeads * kWidth;

ValueId shape(Graph& g, const Ints& s) { return g.add_constant(Tensor::of_i64(s)); }
ValueId weights(Graph& g, const Shape& s, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, s, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return g.add_constant(t);
}
ValueId project(Graph& g, ValueId x, int64_t out, uint64_t seed) {
  return g.add("Add", {g.add("MatMul", {x, weights(g, {kModel, out}, seed)}), weights(g, {out}, seed + 1)});
}

double difference(const Graph& graph) {
  PlanOptions fast, slow;
  slow.reference = true;
  slow.fuse = false;
  Session quick(make_plan(graph, fast)), plain(make_plan(graph, slow));
  std::vector<Tensor> inputs = random_inputs(quick.plan().graph, 3);
  const Tensor &a = quick.run(inputs)[0], &b = plain.run(inputs)[0];
  EXPECT_EQ(a.shape(), b.shape());
  double worst = 0;
  for (int64_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a.get(i) - b.get(i)));
  return worst;
}

// How many of the plan's steps are of an operator ("Attention" counts those of ai.lathe alone).
int count(const Graph& graph, std::string_view op) {
  Plan plan = make_plan(graph);
  int found = 0;
  for (const Step& s : plan.steps) {
    const Node& n = plan.graph[s.node];
    found += n.op->name == op && (op != "Attention" || n.op->domain == kLatheDomain);
  }
  return found;
}

void expect_in_place(const Graph& g, int transposes = 0) {
  EXPECT_LT(difference(g), 1e-5) << print(g);
  EXPECT_EQ(count(g, "Attention"), 1) << print(g);
  EXPECT_EQ(count(g, "Transpose"), transposes);
  for (const char* op : {"Split", "Slice", "Gather", "Softmax", "Expand"}) EXPECT_EQ(count(g, op), 0) << op;
}

// softmax(q·kᵀ·scale)·v on [.., tokens, width]; `kt` is K transposed already.
ValueId attend(Graph& g, ValueId q, ValueId kt, ValueId v, float scale = 0.3f) {
  ValueId scores = g.add("MatMul", {q, kt});
  if (scale != 1) scores = g.add("Mul", {scores, g.add_constant(Tensor::scalar(scale))});
  return g.add("MatMul", {g.add("Softmax", {scores}, {{"axis", int64_t{-1}}}), v});
}

// Hugging Face's models: [batch, tokens, heads, width] and back, three projections.
TEST(PlaceHeads, SeparateProjections) {
  for (int64_t batch : {1, 2}) {
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{batch, kTokens, kModel});
    auto heads = [&](uint64_t seed, const Ints& perm) {
      return g.add("Transpose", {g.add("Reshape", {project(g, x, kModel, seed), shape(g, {batch, kTokens, kHeads, kWidth})})}, {{"perm", perm}});
    };
    ValueId y = attend(g, heads(1, {0, 2, 1, 3}), heads(3, {0, 2, 3, 1}), heads(5, {0, 2, 1, 3}));
    y = g.add("Reshape", {g.add("Transpose", {y}, {{"perm", Ints{0, 2, 1, 3}}}), shape(g, {batch, kTokens, kModel})});
    g.outputs = {g.add("Add", {project(g, y, kModel, 7), x})};
    expect_in_place(g);
  }
}

// One projection for all three, taken apart by Split, Slice or Gather on its own axis.
TEST(PlaceHeads, OneProjection) {
  for (const char* how : {"Split", "Slice", "Gather"}) {
    Graph g;
    const int64_t batch = 2;
    ValueId x = g.add_input("x", DType::kF32, Shape{batch, kTokens, kModel});
    ValueId all = project(g, x, 3 * kModel, 1);
    std::vector<ValueId> parts;
    if (how == std::string("Gather")) {  // timm: [3, batch, heads, tokens, width]
      ValueId t = g.add("Transpose", {g.add("Reshape", {all, shape(g, {batch, kTokens, 3, kHeads, kWidth})})}, {{"perm", Ints{2, 0, 3, 1, 4}}});
      for (int64_t i = 0; i < 3; ++i) {
        Tensor index(DType::kI64, {});
        index.set_int(0, i);
        parts.push_back(g.add("Gather", {t, g.add_constant(index)}, {{"axis", int64_t{0}}}));
      }
    } else {
      if (how == std::string("Split")) {
        Node n;
        n.op = &find_op("Split");
        n.inputs = {all, shape(g, {kModel, kModel, kModel})};
        n.attributes["axis"] = int64_t{2};
        for (int i = 0; i < 3; ++i) {
          Value v;
          v.name = "part" + std::to_string(i);
          n.outputs.push_back(g.add_value(v));
        }
        parts = n.outputs;
        g.add_node(n);
      } else {
        for (int64_t i = 0; i < 3; ++i)
          parts.push_back(g.add("Slice", {all, shape(g, {i * kModel}), shape(g, {(i + 1) * kModel}), shape(g, {2})}));
      }
      for (ValueId& p : parts)
        p = g.add("Transpose", {g.add("Reshape", {p, shape(g, {batch, kTokens, kHeads, kWidth})})}, {{"perm", Ints{0, 2, 1, 3}}});
    }
    ValueId y = attend(g, parts[0], g.add("Transpose", {parts[1]}, {{"perm", Ints{0, 1, 3, 2}}}), parts[2]);
    y = g.add("Reshape", {g.add("Transpose", {y}, {{"perm", Ints{0, 2, 1, 3}}}), shape(g, {batch, kTokens, kModel})});
    g.outputs = {project(g, y, kModel, 7)};
    expect_in_place(g);
  }
}

// torch's MultiheadAttention: tokens first, batch and heads one axis, Q scaled, Gemm behind.
TEST(PlaceHeads, BatchAndHeadsAsOneAxis) {
  for (int64_t batch : {1, 2}) {
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{batch, kTokens, kModel});
    ValueId t = g.add("Transpose", {x}, {{"perm", Ints{1, 0, 2}}});
    auto heads = [&](uint64_t seed) {
      return g.add("Transpose", {g.add("Reshape", {project(g, t, kModel, seed), shape(g, {kTokens, batch * kHeads, kWidth})})}, {{"perm", Ints{1, 0, 2}}});
    };
    ValueId q = g.add("Div", {heads(1), g.add_constant(Tensor::scalar(2.5f))});
    ValueId y = attend(g, q, g.add("Transpose", {heads(3)}, {{"perm", Ints{0, 2, 1}}}), heads(5), 1);
    y = g.add("Reshape", {g.add("Transpose", {y}, {{"perm", Ints{1, 0, 2}}}), shape(g, {kTokens * batch, kModel})});
    y = g.add("Gemm", {y, weights(g, {kModel, kModel}, 8), weights(g, {kModel}, 9)}, {{"transB", int64_t{1}}});
    y = g.add("Reshape", {y, shape(g, {kTokens, batch, kModel})});
    g.outputs = {g.add("Add", {g.add("Transpose", {y}, {{"perm", Ints{1, 0, 2}}}), x})};
    expect_in_place(g, batch == 1 ? 0 : 2);
    if (batch == 1) {
      EXPECT_EQ(count(g, "Add"), 0);  // the residual went into the product
    }
  }
}

// Llama's: fewer key heads than query heads, repeated before the product.
TEST(PlaceHeads, SharedKeyHeads) {
  Graph g;
  const int64_t batch = 2, groups = 2;
  ValueId x = g.add_input("x", DType::kF32, Shape{batch, kTokens, kModel});
  ValueId q = g.add("Transpose", {g.add("Reshape", {project(g, x, groups * kModel, 1), shape(g, {batch, kTokens, kHeads * groups, kWidth})})}, {{"perm", Ints{0, 2, 1, 3}}});
  auto repeated = [&](uint64_t seed) {
    ValueId k = g.add("Transpose", {g.add("Reshape", {project(g, x, kModel, seed), shape(g, {batch, kTokens, kHeads, kWidth})})}, {{"perm", Ints{0, 2, 1, 3}}});
    k = g.add("Expand", {g.add("Unsqueeze", {k, shape(g, {2})}), shape(g, {batch, kHeads, groups, kTokens, kWidth})});
    return g.add("Reshape", {k, shape(g, {batch, kHeads * groups, kTokens, kWidth})});
  };
  ValueId y = attend(g, q, g.add("Transpose", {repeated(3)}, {{"perm", Ints{0, 1, 3, 2}}}), repeated(5));
  y = g.add("Reshape", {g.add("Transpose", {y}, {{"perm", Ints{0, 2, 1, 3}}}), shape(g, {batch, kTokens, groups * kModel})});
  g.outputs = {g.add("MatMul", {y, weights(g, {groups * kModel, 5}, 7)})};
  expect_in_place(g);
}

// A mask per head of the one axis, an output that someone else reads, and a spread mask, which is not one of Attention.
TEST(PlaceHeads, MasksAndOtherReaders) {
  for (int kind = 0; kind < 3; ++kind) {
    Graph g;
    const int64_t batch = 2;
    ValueId x = g.add_input("x", DType::kF32, Shape{batch, kTokens, kModel});
    auto heads = [&](uint64_t seed) {
      ValueId t = g.add("Transpose", {g.add("Reshape", {project(g, x, kModel, seed), shape(g, {batch, kTokens, kHeads, kWidth})})}, {{"perm", Ints{0, 2, 1, 3}}});
      return g.add("Reshape", {t, shape(g, {batch * kHeads, kTokens, kWidth})});
    };
    ValueId scores = g.add("MatMul", {heads(1), g.add("Transpose", {heads(3)}, {{"perm", Ints{0, 2, 1}}})});
    const Shape masks[] = {{batch * kHeads, kTokens, kTokens}, {kTokens}, {kTokens, 1}};
    scores = g.add("Add", {scores, weights(g, masks[kind], 9)});
    ValueId y = g.add("MatMul", {g.add("Softmax", {scores}, {{"axis", int64_t{-1}}}), heads(5)});
    g.outputs = {g.add("Relu", {y}), g.add("Reshape", {y, shape(g, {batch, kHeads, kTokens, kWidth})})};
    EXPECT_LT(difference(g), 1e-5) << kind;
    EXPECT_EQ(count(g, "Attention"), kind == 2 ? 0 : 1) << kind;
  }
}

TEST(HoistReshapes, OnlyWhatKeepsTheLastAxisMoves) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{4, 6, 8});
  ValueId y = g.add("Gelu", {g.add("Add", {g.add("MatMul", {x, weights(g, {8, 10}, 1)}), weights(g, {10}, 2)})});
  y = g.add("Reshape", {y, shape(g, {24, 10})});                                   // moves before the product
  y = g.add("Reshape", {g.add("Mul", {y, weights(g, {10}, 3)}), shape(g, {24, 2, 5})});  // does not
  g.outputs = {g.add("MatMul", {y, weights(g, {5, 3}, 4)})};
  EXPECT_LT(difference(g), 1e-5);
  Graph moved = g;
  infer_shapes(moved);
  hoist_reshapes(moved);
  infer_shapes(moved);
  std::vector<std::string> ops;
  for (NodeId id : moved.order()) ops.push_back(moved[id].op->name);
  EXPECT_EQ(ops, (std::vector<std::string>{"Reshape", "MatMul", "Add", "Gelu", "Mul", "Reshape", "MatMul"}));
}

}  // namespace
}  // namespace lathe
