// Dynamically quantized products as exporters spell them become one operator each, and give the same.
#include <gtest/gtest.h>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {
namespace {

Tensor codes(DType type, const Shape& shape, int step) {
  Tensor t(type, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, (i * step + i / 7) % 200 - (type == DType::kI8 ? 100 : 0));
  return t;
}

struct Spelling {
  bool by_column, scales_first, zero_point, bias;
};

// DynamicQuantizeLinear → MatMulInteger → Cast → Mul [→ Add].
Graph network(const Spelling& s) {
  constexpr int64_t kDepth = 36, kColumns = 21;
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{2, 5, kDepth});
  g.inputs = {x};
  Node quantize;
  quantize.op = &find_op("DynamicQuantizeLinear");
  quantize.name = "quantize";
  quantize.inputs = {x};
  for (const char* name : {"codes", "scale", "zero"}) {
    Value v;
    v.name = name;
    quantize.outputs.push_back(g.add_value(std::move(v)));
  }
  const std::vector<ValueId> q = quantize.outputs;
  g.add_node(std::move(quantize));
  infer_shapes(g);
  const DType type = s.zero_point ? DType::kU8 : DType::kI8;
  std::vector<ValueId> inputs{q[0], g.add_constant(codes(type, {kDepth, kColumns}, 11)), q[2]};
  if (s.zero_point) inputs.push_back(g.add_constant(s.by_column ? codes(type, {kColumns}, 5) : codes(type, {}, 5)));
  Tensor w_scale(DType::kF32, s.by_column ? Shape{kColumns} : Shape{});
  for (int64_t i = 0; i < w_scale.size(); ++i) w_scale.set(i, 0.01 * static_cast<double>(i + 1));
  const ValueId sum = g.add("Cast", {g.add("MatMulInteger", inputs)}, {{"to", static_cast<int64_t>(DType::kF32)}});
  const ValueId scales = g.add("Mul", {q[1], g.add_constant(w_scale)});
  ValueId y = s.scales_first ? g.add("Mul", {scales, sum}) : g.add("Mul", {sum, scales});
  if (s.bias) {
    Tensor b(DType::kF32, {kColumns});
    for (int64_t i = 0; i < kColumns; ++i) b.set(i, static_cast<double>(i) / 4 - 2);
    y = g.add("Add", {g.add_constant(b), y});
  }
  g.outputs = {y};
  return g;
}

TEST(DynamicInteger, ProductsBecomeOneOperator) {
  for (int i = 0; i < 16; ++i) {
    const Spelling s{(i & 1) != 0, (i & 2) != 0, (i & 4) != 0, (i & 8) != 0};
    PlanOptions slow;
    slow.reference = true;
    slow.fuse = false;
    Session fast(make_plan(network(s))), plain(make_plan(network(s), slow));
    ASSERT_EQ(fast.plan().steps.size(), 2u) << print_plan(fast.plan());
    EXPECT_EQ(fast.plan().graph[fast.plan().steps[1].node].op->name, "DynamicMatMul");
    EXPECT_EQ(fast.plan().steps[1].kernel_name, "integer.matmul.dynamic");
    const std::vector<Tensor> inputs = random_inputs(fast.plan().graph, 5);
    const Tensor &a = fast.run(inputs)[0], &b = plain.run(inputs)[0];
    ASSERT_EQ(a.shape(), b.shape());
    for (int64_t k = 0; k < a.size(); ++k) ASSERT_NEAR(a.get(k), b.get(k), 1e-5 * std::max(1.0, std::abs(b.get(k)))) << "spelling " << i;
  }
}

// Two dynamically quantized convolutions with a Relu between: channels stay last.
TEST(DynamicInteger, ConvolutionsToo) {
  for (int i = 0; i < 8; ++i) {
    const bool zero_point = i & 1, bias = i & 2, by_channel = i & 4;
    Graph g;
    ValueId y = g.add_input("x", DType::kF32, Shape{2, 3, 9, 8});
    for (int layer = 0; layer < 2; ++layer) {
      const int64_t in = layer ? 10 : 3, groups = layer && zero_point ? 2 : 1;
      Node quantize;
      quantize.op = &find_op("DynamicQuantizeLinear");
      quantize.name = "quantize" + std::to_string(layer);
      quantize.inputs = {y};
      for (const char* name : {"codes", "scale", "zero"}) {
        Value v;
        v.name = name + std::to_string(layer);
        quantize.outputs.push_back(g.add_value(std::move(v)));
      }
      const std::vector<ValueId> q = quantize.outputs;
      g.add_node(std::move(quantize));
      infer_shapes(g);
      const DType type = zero_point ? DType::kU8 : DType::kI8;
      std::vector<ValueId> inputs{q[0], g.add_constant(codes(type, {10, in / groups, 3, 3}, 13)), q[2]};
      if (zero_point) inputs.push_back(g.add_constant(codes(type, {}, 5)));
      Attributes a{{"pads", std::vector<int64_t>{1, 1, 0, 1}}, {"group", groups}};
      if (layer) a["strides"] = std::vector<int64_t>{2, 1};
      Tensor w_scale(DType::kF32, by_channel ? Shape{1, 10, 1, 1} : Shape{});
      for (int64_t k = 0; k < w_scale.size(); ++k) w_scale.set(k, 0.001 * static_cast<double>(k + 1));
      y = g.add("Mul", {g.add("Cast", {g.add("ConvInteger", inputs, a)}, {{"to", static_cast<int64_t>(DType::kF32)}}), g.add("Mul", {q[1], g.add_constant(w_scale)})});
      if (bias) {
        Tensor b(DType::kF32, {1, 10, 1, 1});
        for (int64_t k = 0; k < 10; ++k) b.set(k, static_cast<double>(k) / 4 - 1);
        y = g.add("Add", {y, g.add_constant(b)});
      }
      if (!layer) y = g.add("Relu", {y});
    }
    g.outputs = {y};
    PlanOptions slow;
    slow.reference = true;
    slow.fuse = false;
    Session fast(make_plan(g)), plain(make_plan(g, slow));
    int convolutions = 0, transposes = 0;
    for (const Step& step : fast.plan().steps) {
      convolutions += step.kernel_name == "integer.conv.dynamic";
      transposes += fast.plan().graph[step.node].op->name == "Transpose";
    }
    EXPECT_EQ(convolutions, 2) << print_plan(fast.plan());
    EXPECT_EQ(transposes, 2) << print_plan(fast.plan());
    const std::vector<Tensor> inputs = random_inputs(fast.plan().graph, 5);
    const Tensor &a = fast.run(inputs)[0], &b = plain.run(inputs)[0];
    ASSERT_EQ(a.shape(), b.shape());
    // A rounding on the other side of a tie moves a code of the second layer: by 1/255 of its range.
    double largest = 0;
    for (int64_t k = 0; k < b.size(); ++k) largest = std::max(largest, std::abs(b.get(k)));
    for (int64_t k = 0; k < a.size(); ++k) ASSERT_NEAR(a.get(k), b.get(k), 1e-2 * largest) << "form " << i;
  }
}

// What others read, too, stays.
TEST(DynamicInteger, SumsThatAreReadTwiceStay) {
  Graph g = network({false, false, false, false});
  for (NodeId id : g.order())
    if (g[id].op->name == "MatMulInteger") g.outputs.push_back(g[id].outputs[0]);
  Plan plan = make_plan(std::move(g));
  bool found = false;
  for (const Step& step : plan.steps) found |= plan.graph[step.node].op->name == "MatMulInteger" && step.kernel_name == "integer.matmul.dynamic";
  EXPECT_TRUE(found) << print_plan(plan);
}

}  // namespace
}  // namespace lathe
