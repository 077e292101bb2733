// Norms and attention of codes become operators on whole numbers, and answer as the network does as it was written.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/op.h"
#include "kernels/reference/reference.h"
#include "planner/plan.h"
#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

struct Scale {
  float scale;
  int zero;
  DType type;
};

class Network {
 public:
  Graph g;
  ValueId both(ValueId x, Scale s) {
    const ValueId scale = g.add_constant(Tensor::scalar(s.scale)), zero = code(s);
    return g.add("DequantizeLinear", {g.add("QuantizeLinear", {x, scale, zero}), scale, zero});
  }
  ValueId row(int64_t count, float middle, float spread) {
    Tensor t(DType::kF32, {count});
    for (int64_t i = 0; i < count; ++i) t.data<float>()[i] = middle + spread * draw_(random_);
    return g.add_constant(t);
  }
  ValueId weights(int64_t in, int64_t out) {
    Tensor t(DType::kI8, {in, out}), scales(DType::kF32, {out}), zeros(DType::kI8, {out});
    for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, static_cast<int64_t>(random_() % 255) - 127);
    for (int64_t i = 0; i < out; ++i) scales.set(i, 0.002 + 0.0001 * static_cast<double>(i % 5)), zeros.set_int(i, 0);
    return g.add("DequantizeLinear", {g.add_constant(t), g.add_constant(scales), g.add_constant(zeros)}, {{"axis", int64_t{1}}});
  }

 private:
  ValueId code(Scale s) {
    Tensor t(s.type, {});
    t.set_int(0, s.zero);
    return g.add_constant(t);
  }
  std::mt19937 random_{7};
  std::normal_distribution<float> draw_;
};

// A block's first half as exporters write it: norm, one product to queries, keys and values, attention. `mask`: added to the scores.
Graph block(int64_t batch, int64_t tokens, int64_t width, int64_t heads, DType type, bool mask = false) {
  const int zero = type == DType::kU8 ? 128 : 3;
  Network n;
  ValueId x = n.both(n.g.add_input("x", DType::kF32, Shape{batch, tokens, width}), {0.03f, zero, type});
  x = n.both(n.g.add("LayerNormalization", {x, n.row(width, 1, 0.2f), n.row(width, 0, 0.3f)}, {{"epsilon", 1e-5f}}, "norm"), {0.04f, zero - 1, type});
  x = n.both(n.g.add("Add", {n.g.add("MatMul", {x, n.weights(width, 3 * width)}), n.row(3 * width, 0, 0.1f)}), {0.05f, zero + 2, type});
  const ValueId all = n.g.add("Transpose", {n.g.add("Reshape", {x, n.g.add_constant(Tensor::of_i64({0, tokens, 3, heads, width / heads}))})}, {{"perm", Ints{2, 0, 3, 1, 4}}});
  const auto part = [&](int64_t i) {
    Tensor at(DType::kI64, {});
    at.set_int(0, i);
    return n.g.add("Gather", {all, n.g.add_constant(at)}, {{"axis", int64_t{0}}});
  };
  const ValueId scaled = n.g.add("Mul", {part(0), n.g.add_constant(Tensor::scalar(1 / std::sqrt(static_cast<float>(width / heads))))});
  ValueId scores = n.g.add("MatMul", {scaled, n.g.add("Transpose", {part(1)}, {{"perm", Ints{0, 1, 3, 2}}})});
  if (mask) scores = n.g.add("Add", {scores, n.row(tokens, 0, 1)});
  const ValueId mixed = n.g.add("MatMul", {n.g.add("Softmax", {scores}, {{"axis", int64_t{-1}}}), part(2)});
  const ValueId y = n.g.add("Reshape", {n.g.add("Transpose", {mixed}, {{"perm", Ints{0, 2, 1, 3}}}), n.g.add_constant(Tensor::of_i64({0, tokens, width}))});
  n.g.outputs = {n.both(y, {0.04f, zero - 4, type})};
  infer_shapes(n.g);
  return n.g;
}

// As the planner does it, with tokens in whole numbers.
Graph integers(Graph g) {
  lower(g, {.input_shapes = {}, .tokens = true});
  verify(g);
  return g;
}

int count(const Graph& g, std::string_view op) {
  int found = 0;
  for (NodeId id : g.order()) found += g[id].op->name == op;
  return found;
}

TEST(IntegerTokens, NormAndAttentionAreWithinOneStep) {
  for (DType type : {DType::kU8, DType::kI8})
    for (auto [batch, tokens, width, heads] : {std::array<int64_t, 4>{1, 1, 8, 1}, {1, 5, 24, 3}, {2, 17, 64, 4}, {1, 65, 96, 2}}) {
      const Graph g = block(batch, tokens, width, heads, type), whole = integers(g);
      EXPECT_EQ(count(whole, "IntegerLayerNorm"), 1);
      EXPECT_EQ(count(whole, "IntegerAttention"), 1);
      EXPECT_EQ(count(whole, "IntegerMatMul"), 1);
      EXPECT_EQ(count(whole, "Softmax") + count(whole, "Attention") + count(whole, "LayerNormalization"), 0);
      std::mt19937 random(1);
      std::normal_distribution<float> draw;
      Tensor x(DType::kF32, {batch, tokens, width});
      for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = 1.5f * draw(random);
      const Tensor a = reference::run_graph(g, {x})[0], b = reference::run_graph(whole, {x})[0];
      // One step of the norm is up to one step of the product behind it, and of what attention makes of it.
      double largest = 0, mean = 0;
      for (int64_t i = 0; i < a.size(); ++i) {
        const double d = std::abs(a.get(i) - b.get(i)) / 0.04;
        largest = std::max(largest, d);
        mean += d / static_cast<double>(a.size());
      }
      EXPECT_LE(largest, 2.01) << tokens << " tokens of " << width;
      EXPECT_LE(mean, 0.15) << tokens << " tokens of " << width;
    }
}

TEST(IntegerTokens, WithoutTheOptionTheyStayInFloat) {
  Graph g = block(1, 5, 24, 3, DType::kU8);
  expand_quantized(g);
  clean_up(g, true);
  to_integer(g);
  EXPECT_EQ(count(g, "IntegerLayerNorm") + count(g, "IntegerAttention"), 0);
}

TEST(IntegerTokens, AMaskStaysInFloat) {
  const Graph whole = integers(block(1, 5, 24, 3, DType::kU8, true));
  EXPECT_EQ(count(whole, "IntegerLayerNorm"), 1);
}

TEST(IntegerTokens, WrongAttributesAreRefused) {
  Graph g = integers(block(1, 5, 24, 3, DType::kU8));
  for (const auto& [op, attribute, value] : {std::tuple<const char*, const char*, Attribute>{"IntegerAttention", "value_ratio", int64_t{0}}, {"IntegerAttention", "keys", int64_t{1} << 40},
                                             {"IntegerAttention", "score_unit", -1.0f}, {"IntegerLayerNorm", "epsilon", int64_t{-1}}, {"IntegerLayerNorm", "y_zero_point", int64_t{300}}}) {
    Graph bad = g;
    for (NodeId id : bad.order())
      if (bad[id].op->name == op) bad[id].attributes[attribute] = value;
    EXPECT_THROW(infer_shapes(bad), Error) << op << " " << attribute;
  }
}

}  // namespace
}  // namespace lathe
