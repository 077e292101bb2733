// Which islands of a quantized network become integer operators, which stay in float, and that the answers are those
// of the network as it was written: within one code, since float sums round where integer ones do not.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

struct Scale {
  float scale;
  int zero;
  DType type = DType::kU8;
};

// Builds networks as exporters write them.
class Builder {
 public:
  Graph g;

  ValueId input(Shape shape) { return g.add_input("x" + std::to_string(g.inputs.size()), DType::kF32, std::move(shape)); }
  ValueId scalar(float value) { return g.add_constant(Tensor::scalar(value)); }
  ValueId code(DType type, int value) {
    Tensor t(type, {});
    t.set_int(0, value);
    return g.add_constant(t);
  }
  ValueId quantize(ValueId x, Scale s) { return g.add("QuantizeLinear", {x, scalar(s.scale), code(s.type, s.zero)}); }
  ValueId dequantize(ValueId q, Scale s) { return g.add("DequantizeLinear", {q, scalar(s.scale), code(s.type, s.zero)}); }
  ValueId both(ValueId x, Scale s) { return dequantize(quantize(x, s), s); }
  Tensor codes(DType type, const Shape& shape) {
    Tensor t(type, shape);
    for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, type == DType::kU8 ? static_cast<int64_t>(random_() % 256) : static_cast<int64_t>(random_() % 255) - 127);
    return t;
  }
  // i8 weights; per channel of axis 0, or one scale for all.
  ValueId weights(const Shape& shape, bool per_channel, DType type = DType::kI8, int zero = 0) {
    ValueId q = g.add_constant(codes(type, shape));
    if (!per_channel) return g.add("DequantizeLinear", {q, scalar(0.01f), code(type, zero)});
    Tensor scales(DType::kF32, {shape[0]}), zeros(type, {shape[0]});
    for (int64_t i = 0; i < shape[0]; ++i) {
      scales.set(i, 0.005 + 0.001 * static_cast<double>(i % 7));
      zeros.set_int(i, zero);
    }
    return g.add("DequantizeLinear", {q, g.add_constant(scales), g.add_constant(zeros)}, {{"axis", int64_t{0}}});
  }
  ValueId bias(int64_t channels, float unit) {
    Tensor t(DType::kI32, {channels});
    for (int64_t i = 0; i < channels; ++i) t.set_int(i, static_cast<int64_t>(random_() % 4001) - 2000);
    return g.add("DequantizeLinear", {g.add_constant(t), scalar(unit)});
  }
  ValueId float_bias(int64_t channels) {
    std::vector<float> values;
    for (int64_t i = 0; i < channels; ++i) values.push_back(static_cast<float>(random_() % 200) / 100 - 1);
    return g.add_constant(Tensor::of_f32({channels}, values));
  }

 private:
  std::mt19937 random_{3};
};

std::map<std::string, int> operators(const Plan& plan) {
  std::map<std::string, int> count;
  for (const Step& s : plan.steps) ++count[plan.graph[s.node].op->name];
  return count;
}

// Runs the network in integers and as it is written; outputs may differ by `quantum`, its last scale. Returns how often
// each operator stands in the plan.
std::map<std::string, int> check(const Graph& g, float quantum, double amplitude = 2) {
  PlanOptions plain;
  plain.fuse = false;
  plain.reference = true;
  Plan plan = make_plan(g);
  auto count = operators(plan);
  Session fast(std::move(plan)), slow(make_plan(g, plain));
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, static_cast<float>(amplitude));
  std::vector<Tensor> inputs;
  for (ValueId v : g.inputs) {
    Tensor t(g[v].dtype, *g[v].shape);
    for (int64_t i = 0; i < t.size(); ++i) {
      if (is_float(t.dtype())) t.set(i, normal(random));
      else t.set_int(i, static_cast<int64_t>(random() % 256));
    }
    inputs.push_back(t);
  }
  const std::vector<Tensor>&found = fast.run(inputs), &expected = slow.run(inputs);
  EXPECT_EQ(found.size(), expected.size());
  for (size_t o = 0; o < found.size(); ++o) {
    EXPECT_EQ(found[o].shape(), expected[o].shape());
    EXPECT_EQ(found[o].dtype(), expected[o].dtype());
    int64_t other = 0;
    for (int64_t i = 0; i < found[o].size(); ++i) {
      const double difference = std::fabs(found[o].get(i) - expected[o].get(i));
      EXPECT_LE(difference, quantum * 1.001) << "element " << i << " of output " << o;
      other += difference > quantum * 0.5;
    }
    EXPECT_LE(static_cast<double>(other), 1 + 0.03 * static_cast<double>(found[o].size()));  // ties and near ties
  }
  return count;
}

const Scale kIn{0.04f, 120}, kOut{0.06f, 111};

TEST(IntegerIslands, ConvolutionsOfEveryKind) {
  for (DType type : {DType::kU8, DType::kI8})
    for (int64_t groups : {1, 2, 8})
      for (bool per_channel : {false, true}) {
        Builder b;
        const Scale in{0.04f, type == DType::kU8 ? 120 : -9, type}, out{0.06f, type == DType::kU8 ? 111 : -20, type};
        ValueId x = b.both(b.input({1, 8, 7, 9}), in);
        ValueId y = b.g.add("Conv", {x, b.weights({8, 8 / groups, 3, 3}, per_channel), per_channel ? b.float_bias(8) : b.bias(8, 0.04f * 0.01f)},
                            {{"pads", Ints{1, 1, 1, 1}}, {"group", groups}});
        b.g.outputs = {b.both(b.g.add("Relu", {y}), out)};
        auto count = check(b.g, out.scale);
        EXPECT_EQ(count["IntegerConv"], 1) << groups;
        EXPECT_EQ(count["Conv"] + count["Relu"], 0);
        EXPECT_EQ(count["QuantizeLinear"], 1);
        EXPECT_EQ(count["DequantizeLinear"], 1);
        EXPECT_LE(count["Transpose"], 2);  // to channels-last, and back
      }
}

TEST(IntegerIslands, WeightsQuantizedOnTheWay) {
  Builder b;
  Tensor w = Tensor::of_f32({4, 3, 1, 1}, {1, -1, 0.5f, 0.25f, 0.125f, 1, 1, 1, 0, -0.5f, 0.3f, 0.7f});
  ValueId x = b.both(b.input({1, 3, 5, 5}), kIn), weights = b.both(b.g.add_constant(w), {1.0f / 127, 0, DType::kI8});
  b.g.outputs = {b.both(b.g.add("Conv", {x, weights}), kOut)};
  EXPECT_EQ(check(b.g, kOut.scale)["IntegerConv"], 1);
}

TEST(IntegerIslands, AsymmetricWeights) {
  for (int zero : {0, 3, 128, 255})
    for (int64_t groups : {1, 4}) {
      Builder b;
      ValueId x = b.both(b.input({1, 4, 6, 6}), kIn);
      b.g.outputs = {b.both(b.g.add("Conv", {x, b.weights({4, 4 / groups, 3, 3}, true, DType::kU8, zero)}, {{"group", groups}}), {0.5f, 100})};
      EXPECT_EQ(check(b.g, 0.5f)["IntegerConv"], 1) << zero;
    }
}

TEST(IntegerIslands, LimitsBeforeTheRounding) {
  for (float high : {6.0f, 3.0f, 100.0f}) {
    Builder b;
    ValueId x = b.both(b.input({1, 3, 5, 5}), kIn);
    ValueId y = b.g.add("Conv", {x, b.weights({8, 3, 3, 3}, true), b.float_bias(8)});
    y = b.g.add("Clip", {y, b.scalar(-0.5f), b.scalar(high)});
    b.g.outputs = {b.both(b.g.add("Relu", {y}), kOut)};
    auto count = check(b.g, kOut.scale);
    EXPECT_EQ(count["IntegerConv"], 1);
    EXPECT_EQ(count["Clip"] + count["Relu"], 0);
  }
}

TEST(IntegerIslands, ProductsOfMatrices) {
  Builder b;
  ValueId x = b.both(b.input({5, 12}), kIn);
  ValueId gemm = b.g.add("Gemm", {x, b.weights({9, 12}, true), b.bias(9, 0.0004f)}, {{"transB", int64_t{1}}});
  ValueId hidden = b.both(b.g.add("Relu", {gemm}), kOut);
  ValueId w = b.g.add("DequantizeLinear", {b.g.add_constant(b.codes(DType::kI8, {9, 4})), b.scalar(0.02f)});
  ValueId sum = b.g.add("Add", {b.g.add("MatMul", {hidden, w}), b.float_bias(4)});
  b.g.outputs = {b.both(sum, {0.1f, 128})};
  auto count = check(b.g, 0.1f);
  EXPECT_EQ(count["IntegerMatMul"], 2);
  EXPECT_EQ(count["QuantizeLinear"], 1);
}

// A table that alone reads a product's codes is part of it.
TEST(IntegerIslands, TablesBehindProducts) {
  Builder b;
  ValueId x = b.both(b.input({1, 8, 7, 9}), kIn);
  ValueId sums = b.both(b.g.add("Conv", {x, b.weights({16, 8, 3, 3}, true), b.float_bias(16)}, {{"pads", Ints{1, 1, 1, 1}}}), {0.2f, 128});
  ValueId y = b.both(b.g.add("HardSwish", {sums}), {0.15f, 3});
  ValueId gate = b.both(b.g.add("Sigmoid", {b.both(b.g.add("Conv", {y, b.weights({16, 1, 3, 3}, true)}, {{"group", int64_t{16}}}), {0.2f, 100})}), {1.0f / 256, 0});
  b.g.outputs = {gate};
  auto count = check(b.g, 0.2f);  // a code of the first convolution is many of the second
  EXPECT_EQ(count["IntegerConv"], 2);
  EXPECT_EQ(count["Table"], 0);
  b.g.outputs = {gate, sums};  // which others read: it stays
  count = check(b.g, 0.2f);
  EXPECT_EQ(count["IntegerConv"], 2);
  EXPECT_EQ(count["Table"], 1);
}

TEST(IntegerIslands, PlansSayWhatStaysReal) {
  Builder b;
  ValueId x = b.both(b.input({1, 8, 7, 9}), kIn);
  ValueId y = b.g.add("Conv", {x, b.weights({8, 1, 3, 3}, true)}, {{"group", int64_t{8}}});
  b.g.outputs = {b.g.add("Add", {y, b.g.add("CumSum", {b.both(y, kOut), b.g.add_constant(Tensor::of_i64({1}).reshaped({}))})})};
  const std::string text = print_plan(make_plan(b.g));
  EXPECT_NE(text.find("1 Conv in float"), std::string::npos) << text;
  EXPECT_NE(text.find("1 CumSum in float"), std::string::npos) << text;
  EXPECT_NE(text.find("has no form on codes"), std::string::npos) << text;
}

// Results that nothing rounds to codes are sums of codes, scaled to f32, with bias and row factors in them.
TEST(IntegerIslands, ProductsToFloat) {
  Builder b;
  ValueId x = b.both(b.input({5, 12}), kIn), residual = b.input({5, 9});
  ValueId w = b.g.add("DequantizeLinear", {b.g.add_constant(b.codes(DType::kI8, {12, 9})), b.scalar(0.02f)});
  ValueId sum = b.g.add("Mul", {b.g.add("Add", {b.g.add("MatMul", {x, w}), b.float_bias(9)}), b.float_bias(9)});
  b.g.outputs = {b.g.add("Add", {b.g.add("Gelu", {sum}), residual})};
  auto count = check(b.g, 0.01f);
  EXPECT_EQ(count["IntegerMatMul"], 1);
  EXPECT_EQ(count["MatMul"] + count["Mul"], 0);
  EXPECT_EQ(count["Add"], 1);
  for (int64_t groups : {1, 2, 8}) {
    Builder c;
    x = c.both(c.input({1, 8, 7, 9}), kIn);
    c.g.outputs = {c.g.add("Sigmoid", {c.g.add("Conv", {x, c.weights({8, 8 / groups, 3, 3}, true), c.bias(8, 0.04f * 0.01f)}, {{"pads", Ints{1, 1, 1, 1}}, {"group", groups}})})};
    count = check(c.g, 0.01f);
    EXPECT_EQ(count["IntegerConv"], groups < 8);  // of one channel each, f32 is as fast
    EXPECT_EQ(count["Conv"], groups == 8);
  }
}

TEST(IntegerIslands, TransposedWeights) {
  Builder b;
  ValueId x = b.both(b.input({5, 12}), kIn);
  ValueId w = b.g.add("Transpose", {b.weights({9, 12}, false)}, {{"perm", Ints{1, 0}}});
  b.g.outputs = {b.both(b.g.add("MatMul", {x, w}), kOut)};
  EXPECT_EQ(check(b.g, kOut.scale)["IntegerMatMul"], 1);
}

TEST(IntegerIslands, SumsProductsMeansAndPools) {
  Builder b;
  ValueId x = b.both(b.input({2, 6, 8, 8}), kIn), y = b.both(b.input({2, 6, 8, 8}), {0.02f, 100});
  ValueId sum = b.both(b.g.add("Relu", {b.g.add("Add", {x, y})}), kOut);
  ValueId gate = b.both(b.g.add("Sigmoid", {b.both(b.g.add("GlobalAveragePool", {sum}), {0.03f, 60})}), {1.0f / 256, 0});
  ValueId scaled = b.both(b.g.add("Mul", {sum, gate}), kOut);
  ValueId pooled = b.both(b.g.add("AveragePool", {scaled}, {{"kernel_shape", Ints{2, 2}}, {"strides", Ints{2, 2}}}), kOut);
  ValueId most = b.g.add("MaxPool", {pooled}, {{"kernel_shape", Ints{3, 3}}, {"pads", Ints{1, 1, 1, 1}}});
  b.g.outputs = {b.both(most, kOut)};
  auto count = check(b.g, kOut.scale * 2);
  EXPECT_EQ(count["IntegerAdd"], 1);
  EXPECT_EQ(count["IntegerMul"], 1);
  EXPECT_EQ(count["IntegerPool"], 2);
  EXPECT_EQ(count["Table"], 1);
  EXPECT_EQ(count["Pool"], 1);  // of codes
  EXPECT_EQ(count["QuantizeLinear"], 2);
  EXPECT_EQ(count["DequantizeLinear"], 1);
}

TEST(IntegerIslands, FunctionsOfOneElementAreTables) {
  Builder b;
  ValueId x = b.both(b.input({3, 40}), kIn);
  ValueId y = b.g.add("HardSwish", {b.g.add("Add", {x, b.scalar(0.3f)})});
  ValueId z = b.both(b.g.add("Sub", {b.scalar(1.5f), y}), {0.05f, 90});
  b.g.outputs = {b.both(z, {0.04f, 3, DType::kI8})};  // another scale and type: also a table
  auto count = check(b.g, 0);
  EXPECT_EQ(count["Table"], 2);
  EXPECT_EQ(count["HardSwish"], 0);
}

TEST(IntegerIslands, SoftmaxAndConcat) {
  Builder b;
  ValueId x = b.both(b.input({3, 10}), kIn), y = b.both(b.input({3, 6}), {0.02f, 100});
  ValueId all = b.both(b.g.add("Concat", {x, y}, {{"axis", int64_t{1}}}), kIn);
  b.g.outputs = {b.both(b.g.add("Softmax", {all}, {{"axis", int64_t{-1}}}), {1.0f / 256, 0})};
  auto count = check(b.g, 1.0f / 256);
  EXPECT_EQ(count["IntegerSoftmax"], 1);
  EXPECT_EQ(count["Concat"], 1);
  EXPECT_EQ(count["Table"], 1);  // brings the second part to the scale of the whole
}

TEST(IntegerIslands, MovesOfCodes) {
  Builder b;
  ValueId x = b.both(b.input({1, 4, 6, 6}), kIn);
  ValueId padded = b.g.add("Pad", {x, b.g.add_constant(Tensor::of_i64({0, 0, 1, 1, 0, 0, 1, 2}))});
  ValueId y = b.both(b.g.add("Conv", {padded, b.weights({4, 1, 3, 3}, true)}, {{"group", int64_t{4}}}), kOut);
  ValueId flat = b.g.add("Reshape", {y, b.g.add_constant(Tensor::of_i64({1, -1}))});
  ValueId part = b.g.add("Slice", {flat, b.g.add_constant(Tensor::of_i64({4})), b.g.add_constant(Tensor::of_i64({104})), b.g.add_constant(Tensor::of_i64({1}))});
  b.g.outputs = {b.both(b.g.add("Gemm", {part, b.weights({7, 100}, false)}, {{"transB", int64_t{1}}}), {0.3f, 128})};
  auto count = check(b.g, 0.3f);
  EXPECT_EQ(count["IntegerConv"], 1);
  EXPECT_EQ(count["IntegerMatMul"], 1);
  EXPECT_EQ(count["Pad"], 0);  // the convolution's own
  EXPECT_EQ(count["QuantizeLinear"] + count["DequantizeLinear"], 2);
}

TEST(IntegerIslands, PadsThatAreNotZeroOrNotOfThePictureStay) {
  for (bool channel : {false, true}) {
    Builder b;
    ValueId x = b.both(b.input({1, 4, 6, 6}), kIn);
    ValueId pads = b.g.add_constant(Tensor::of_i64({0, channel ? 1 : 0, 1, 1, 0, 0, 1, 2}));
    ValueId padded = b.g.add("Pad", {x, pads, b.scalar(channel ? 0.0f : 1.0f)});
    b.g.outputs = {b.both(b.g.add("Conv", {padded, b.weights({4, channel ? 5 : 4, 3, 3}, true)}), {0.3f, 100})};
    EXPECT_EQ(check(b.g, 0.3f)["Pad"], 1);
  }
}

// What others read stays: a real-valued output before the rounding, codes as an output of the network.
TEST(IntegerIslands, ValuesOfOthersAreKept) {
  Builder b;
  ValueId x = b.both(b.input({1, 3, 5, 5}), kIn);
  ValueId y = b.g.add("Conv", {x, b.weights({4, 3, 1, 1}, true)});
  ValueId q = b.quantize(y, kOut);
  b.g.outputs = {y, q, b.dequantize(q, kOut), x};
  auto count = check(b.g, 1);
  EXPECT_EQ(count["IntegerConv"], 1);  // to f32
  EXPECT_EQ(count["QuantizeLinear"], 2);
  Builder c;
  x = c.both(c.input({1, 3, 5, 5}), kIn);
  q = c.quantize(c.g.add("Conv", {x, c.weights({4, 3, 1, 1}, true)}), kOut);
  c.g.outputs = {q, c.dequantize(q, kOut)};
  EXPECT_EQ(check(c.g, 1)["IntegerConv"], 1);
}

TEST(IntegerIslands, WhatHasNoIntegerFormStaysInFloat) {
  Builder b;  // 16-bit codes; a scale per channel of the input; a product of two computed factors
  Scale wide{0.001f, 3000, DType::kU16};
  ValueId x = b.both(b.input({4, 4}), wide);
  ValueId y = b.both(b.g.add("MatMul", {x, b.weights({4, 4}, false)}), wide);
  Tensor scales = Tensor::of_f32({4}, {0.1f, 0.2f, 0.1f, 0.3f});
  ValueId s = b.g.add_constant(scales);
  ValueId p = b.g.add("DequantizeLinear", {b.g.add("QuantizeLinear", {y, s}, {{"axis", int64_t{1}}}), s}, {{"axis", int64_t{1}}});
  ValueId product = b.g.add("MatMul", {b.both(p, kIn), b.both(y, kIn)});
  b.g.outputs = {b.both(product, {0.5f, 128})};
  auto count = check(b.g, 0.5f, 0.5);
  EXPECT_EQ(count["IntegerMatMul"], 0);
  EXPECT_EQ(count["CodedMatMul"], 1);  // few rows by weights of 8 bits: those stay codes, the input is f32
  EXPECT_EQ(count["MatMul"], 1);
}

// The standard's own integer operators come to the same.
TEST(IntegerIslands, QLinearOperators) {
  Builder b;
  ValueId x = b.quantize(b.input({1, 3, 6, 6}), kIn);
  Tensor scales = Tensor::of_f32({4}, {0.01f, 0.02f, 0.005f, 0.01f}), zeros(DType::kI8, {4}), bias(DType::kI32, {4});
  for (int64_t i = 0; i < 4; ++i) {
    zeros.set_int(i, 0);
    bias.set_int(i, 300 * i - 500);
  }
  ValueId y = b.g.add("QLinearConv", {x, b.scalar(kIn.scale), b.code(DType::kU8, kIn.zero), b.g.add_constant(b.codes(DType::kI8, {4, 3, 3, 3})), b.g.add_constant(scales),
                                      b.g.add_constant(zeros), b.scalar(kOut.scale), b.code(DType::kU8, kOut.zero), b.g.add_constant(bias)});
  ValueId flat = b.g.add("Reshape", {y, b.g.add_constant(Tensor::of_i64({4, 16}))});
  ValueId z = b.g.add("QLinearMatMul", {flat, b.scalar(kOut.scale), b.code(DType::kU8, kOut.zero), b.g.add_constant(b.codes(DType::kI8, {16, 5})), b.scalar(0.01f),
                                        b.code(DType::kI8, 0), b.scalar(0.2f), b.code(DType::kU8, 128)});
  b.g.outputs = {z};
  auto count = check(b.g, 1);
  EXPECT_EQ(count["IntegerConv"], 1);
  EXPECT_EQ(count["IntegerMatMul"], 1);
}

TEST(IntegerIslands, TheOptionTurnsThemOff) {
  Builder b;
  ValueId x = b.both(b.input({1, 3, 5, 5}), kIn);
  b.g.outputs = {b.both(b.g.add("Conv", {x, b.weights({4, 3, 1, 1}, true)}), kOut)};
  PlanOptions off;
  off.integer = false;
  auto count = operators(make_plan(b.g, off));
  EXPECT_EQ(count["IntegerConv"], 0);
  EXPECT_EQ(count["PlanarConv"], 1);
}

}  // namespace
}  // namespace lathe
