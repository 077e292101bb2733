// If: branches that are known go into the graph; others get plans of their own, run on fast kernels and allocate nothing
// that stays unused.
#include <gtest/gtest.h>

#include <algorithm>

#include "graph/op.h"
#include "planner/packed.h"
#include "runtime/load.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

ValueId weights(Graph& g, const Shape& shape, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, shape, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return g.add_constant(t);
}

// A branch that captures `x`: MatMul with weights of its own, then an operator.
std::shared_ptr<Graph> branch(const Value& x, int64_t columns, const char* op, uint64_t seed) {
  auto g = std::make_shared<Graph>();
  g->captured = {g->add_input("x", x.dtype, x.shape)};
  g->inputs.clear();
  g->outputs = {g->add(op, {g->add("MatMul", {g->captured[0], weights(*g, {x.shape->back(), columns}, seed)})})};
  return g;
}

ValueId add_if(Graph& g, ValueId condition, ValueId x, std::shared_ptr<Graph> then, std::shared_ptr<Graph> other) {
  Node n;
  n.op = &find_op("If");
  n.name = "choice";
  n.inputs = {condition};
  n.captures = {x, x};  // else_branch, then_branch: in the order of their names
  n.attributes = {{"then_branch", std::move(then)}, {"else_branch", std::move(other)}};
  Value y;
  y.name = "y";
  n.outputs = {g.add_value(std::move(y))};
  const ValueId out = n.outputs[0];
  g.add_node(std::move(n));
  infer_shapes(g);
  return out;
}

// c decides; the other branch has `columns` columns.
Graph choice(int64_t columns, bool known = false) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{3, 20});
  g.inputs = {x};
  ValueId c;
  if (known) {
    Tensor yes(DType::kBool, {});
    yes.set_int(0, 0);
    c = g.add_constant(yes);
  } else {
    c = g.add_input("c", DType::kBool, Shape{});
  }
  const ValueId t = g.add("Tanh", {x});
  const ValueId y = add_if(g, c, t, branch(g[t], 8, "Relu", 1), branch(g[t], columns, "Sigmoid", 2));
  g.outputs = {g.add("Neg", {y})};
  return g;
}

void expect_same(Session& fast, Session& plain, const std::vector<Tensor>& inputs) {
  const Tensor a = fast.run(inputs)[0].clone(), b = plain.run(inputs)[0].clone();
  ASSERT_EQ(a.shape(), b.shape());
  for (int64_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a.get(i), b.get(i), 1e-5);
}

PlanOptions reference_only() {
  PlanOptions o;
  o.reference = true;
  o.fuse = false;
  return o;
}

std::vector<Tensor> inputs_of(const Graph& g, bool condition) {
  std::vector<Tensor> inputs = random_inputs(g, 3);
  if (inputs.size() > 1) inputs[1].set_int(0, condition);
  return inputs;
}

TEST(Branches, RunAsPlansOfTheirOwn) {
  for (int64_t columns : {8, 5}) {  // of one shape, and of two
    Session fast(make_plan(choice(columns))), plain(make_plan(choice(columns), reference_only()));
    const auto& steps = fast.plan().steps;
    auto step = std::find_if(steps.begin(), steps.end(), [](const Step& s) { return s.kernel_name == "branches"; });
    ASSERT_NE(step, steps.end()) << print_plan(fast.plan());
    EXPECT_EQ(step->dynamic, columns != 8);
    for (bool condition : {true, false, false, true}) expect_same(fast, plain, inputs_of(fast.plan().graph, condition));
    EXPECT_GT(fast.plan().scratch_bytes, 0);
  }
}

TEST(Branches, AKnownConditionLeavesOneBranch) {
  Session fast(make_plan(choice(8, true))), plain(make_plan(choice(8, true), reference_only()));
  for (const Step& s : fast.plan().steps) EXPECT_NE(fast.plan().graph[s.node].op->name, "If");
  expect_same(fast, plain, inputs_of(fast.plan().graph, true));
  Graph standard = choice(8, true);
  clean_up(standard);
  for (NodeId id : standard.order()) EXPECT_NE(standard[id].op->name, "If");
  EXPECT_NO_THROW(verify(standard));
}

// A branch of a branch that hangs on a shape alone: known once the captured shape is.
TEST(Branches, NestedOnesAreResolved) {
  auto nested = [] {
    Graph g;
    const ValueId x = g.add_input("x", DType::kF32, Shape{3, 20}), c = g.add_input("c", DType::kBool, Shape{});
    g.inputs = {x, c};
    auto outer = std::make_shared<Graph>();
    outer->captured = {outer->add_input("x", DType::kF32, Shape{3, 20})};
    outer->inputs.clear();
    const ValueId rows = outer->add("Gather", {outer->add("Shape", {outer->captured[0]}), outer->add_constant(Tensor::of_i64({0}))});
    const ValueId few = outer->add("Squeeze", {outer->add("Less", {rows, outer->add_constant(Tensor::of_i64({10}))})});
    outer->outputs = {add_if(*outer, few, outer->captured[0], branch((*outer)[outer->captured[0]], 8, "Relu", 1), branch((*outer)[outer->captured[0]], 6, "Exp", 2))};
    g.outputs = {add_if(g, c, x, outer, branch(g[x], 8, "Sigmoid", 3))};
    return g;
  };
  Session fast(make_plan(nested())), plain(make_plan(nested(), reference_only()));
  for (bool condition : {true, false}) expect_same(fast, plain, inputs_of(fast.plan().graph, condition));
  for (const Step& s : fast.plan().steps) EXPECT_FALSE(s.kernel_name.starts_with("reference")) << print_plan(fast.plan());
}

// A branch that these shapes make impossible is an error only when it is taken.
TEST(Branches, AnImpossibleOneIsRefusedWhenTaken) {
  auto half = [] {
    Graph g;
    const ValueId x = g.add_input("x", DType::kF32, Shape{3, 20}), c = g.add_input("c", DType::kBool, Shape{});
    g.inputs = {x, c};
    auto impossible = branch(g[x], 8, "Relu", 4);
    for (NodeId id : impossible->order())
      if ((*impossible)[id].op->name == "MatMul") (*impossible)[id].inputs[1] = weights(*impossible, {19, 8}, 5);
    g.outputs = {add_if(g, c, x, branch(g[x], 8, "Sigmoid", 3), impossible)};
    return g;
  };
  Session fast(make_plan(half())), plain(make_plan(half(), reference_only()));
  expect_same(fast, plain, inputs_of(fast.plan().graph, true));
  EXPECT_THROW(fast.run(inputs_of(fast.plan().graph, false)), Error);
  expect_same(fast, plain, inputs_of(fast.plan().graph, true));
}

TEST(Branches, ArePlannedAgainFromARecord) {
  Plan plan = make_plan(choice(5));
  Graph graph = plan.graph;
  const PlanRecord record = record_of(plan);
  // Nodes in the order of the steps, as a file has them.
  Plan again = restore_plan(std::move(graph), record);
  Session fast(std::move(again)), plain(make_plan(choice(5), reference_only()));
  for (bool condition : {true, false}) expect_same(fast, plain, inputs_of(fast.plan().graph, condition));
}

}  // namespace
}  // namespace lathe
