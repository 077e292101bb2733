#include "run_op.h"

namespace lathe::testing {
namespace {

std::vector<Tensor> run_control(std::string_view op, std::vector<Tensor> inputs, Attributes attributes, int outputs,
                                std::vector<Tensor> captures = {}) {
  Node node;
  node.op = &find_op(op);
  node.attributes = std::move(attributes);
  node.inputs.assign(inputs.size(), ValueId{});
  for (int i = 0; i < outputs; ++i) node.outputs.push_back({i});
  node.captures.assign(captures.size(), ValueId{0});
  return reference::run_node(node, std::move(inputs), std::move(captures));
}

Tensor boolean(bool value) { return of(DType::kBool, {}, {value ? 1.0 : 0.0}); }

// carried ← carried + captured, while the new value is below 10; also gives it out each time.
std::shared_ptr<Graph> count_up() {
  auto body = std::make_shared<Graph>();
  body->add_input("trip", DType::kI64, Shape{});
  body->add_input("condition", DType::kBool, Shape{});
  ValueId x = body->add_input("x", DType::kF32, Shape{});
  Value captured;
  captured.name = "step";
  captured.dtype = DType::kF32;
  captured.shape = Shape{};
  ValueId step = body->add_value(captured);
  body->captured = {step};
  ValueId sum = body->add("Add", {x, step});
  body->outputs = {body->add("Less", {sum, body->add_constant(Tensor::scalar(10))}), sum, sum};
  return body;
}

TEST(Loop, StopsByConditionOrCount) {
  Attributes attributes = {{"body", count_up()}};
  auto y = run_control("Loop", {Tensor(), Tensor(), Tensor::scalar(1)}, attributes, 2, {Tensor::scalar(4)});
  EXPECT_EQ(elements(y[0]), Values{13});
  EXPECT_EQ(elements(y[1]), (Values{5, 9, 13}));
  y = run_control("Loop", {ints({1}), boolean(true), Tensor::scalar(1)}, attributes, 2, {Tensor::scalar(4)});
  EXPECT_EQ(elements(y[1]), Values{5});
  y = run_control("Loop", {ints({5}), boolean(false), Tensor::scalar(1)}, attributes, 2, {Tensor::scalar(4)});
  EXPECT_EQ(elements(y[0]), Values{1});
  EXPECT_EQ(y[1].shape(), Shape{0});
  EXPECT_THROW(run_control("Loop", {ints({5}), boolean(true)}, attributes, 2, {Tensor::scalar(4)}), Error);
}

TEST(Loop, GrowingValueHasNoShape) {
  auto body = std::make_shared<Graph>();
  body->add_input("trip", DType::kI64, Shape{});
  ValueId condition = body->add_input("condition", DType::kBool, Shape{});
  ValueId x = body->add_input("x", DType::kF32, Shape{2, 3});
  body->outputs = {condition, body->add("Concat", {x, x}, {{"axis", int64_t{0}}})};
  Graph g;
  ValueId start = g.add_input("x", DType::kF32, Shape{2, 3});
  ValueId y = g.add("Loop", {ValueId{}, ValueId{}, start}, {{"body", body}});
  g.outputs = {y};
  verify(g);
  EXPECT_EQ(g[y].dtype, DType::kF32);
  EXPECT_EQ(g[y].shape, (Shape{kUnknownDim, 3}));
}

std::shared_ptr<Graph> branch(std::string_view op, const Shape& shape, std::vector<ValueId> extra = {}) {
  auto graph = std::make_shared<Graph>();
  Value value;
  value.dtype = DType::kF32;
  value.shape = shape;
  ValueId x = graph->add_value(value);
  graph->captured = {x};
  std::vector<ValueId> inputs = {x};
  inputs.insert(inputs.end(), extra.begin(), extra.end());
  graph->outputs = {graph->add(op, inputs)};
  return graph;
}

TEST(If, CapturesFollowAttributeNames) {
  Attributes attributes = {{"then_branch", branch("Neg", {2})}, {"else_branch", branch("Abs", {2})}};
  std::vector<Tensor> captures = {of(DType::kF32, {2}, {-1, -2}), of(DType::kF32, {2}, {3, 4})};  // else, then
  EXPECT_EQ(elements(run_control("If", {boolean(true)}, attributes, 1, captures)[0]), (Values{-3, -4}));
  EXPECT_EQ(elements(run_control("If", {boolean(false)}, attributes, 1, captures)[0]), (Values{1, 2}));
  EXPECT_THROW(run_control("If", {ints({1})}, attributes, 1, captures), Error);
}

TEST(If, BranchesOfDifferentShape) {
  Graph g;
  ValueId condition = g.add_input("c", DType::kBool, Shape{});
  ValueId a = g.add_input("a", DType::kF32, Shape{2, 3}), b = g.add_input("b", DType::kF32, Shape{4, 3});
  Node node;
  node.op = &find_op("If");
  node.inputs = {condition};
  node.captures = {a, b};
  node.attributes = {{"then_branch", branch("Neg", {4, 3})}, {"else_branch", branch("Abs", {2, 3})}};
  ValueId y = g.add_value({});
  node.outputs = {y};
  g.add_node(node);
  infer_shapes(g);
  EXPECT_EQ(g[y].shape, (Shape{kUnknownDim, 3}));
}

TEST(Scan, DirectionsAndAxes) {
  auto body = std::make_shared<Graph>();
  ValueId sum = body->add_input("sum", DType::kF32, Shape{2});
  ValueId x = body->add_input("x", DType::kF32, Shape{2});
  ValueId next = body->add("Add", {sum, x});
  body->outputs = {next, next};
  Attributes attributes = {{"body", body}, {"num_scan_inputs", int64_t{1}}, {"scan_input_axes", Ints{1}},
                           {"scan_input_directions", Ints{1}}, {"scan_output_axes", Ints{-1}},
                           {"scan_output_directions", Ints{1}}};
  auto y = run_control("Scan", {of(DType::kF32, {2}, {0, 0}), iota(DType::kF32, {2, 3})}, attributes, 2);
  EXPECT_EQ(elements(y[0]), (Values{3, 12}));
  EXPECT_EQ(y[1].shape(), (Shape{2, 3}));
  EXPECT_EQ(elements(y[1]), (Values{3, 3, 2, 12, 9, 5}));
}

}  // namespace
}  // namespace lathe::testing
