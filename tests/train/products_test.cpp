// Products of matrices in training against libtorch's in double: outputs and gradients, of one and of many, as they lie and transposed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/time.h>

#include <cmath>
#include <csignal>

#include "graph/op.h"
#include "kernels/product.h"
#include "through.h"

namespace lathe {
namespace {

// What is multiplied with what, and how the operands come: as they are, or by a Transpose of the last axes before.
struct Case {
  std::vector<int64_t> a, b;
  bool turn_a = false, turn_b = false;
};

Graph network(const Case& c) {
  Graph g;
  const auto operand = [&](const char* name, std::vector<int64_t> shape, bool turn) {
    if (turn) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
    const ValueId x = g.add_input(name, DType::kF32, Shape(shape.begin(), shape.end()));
    if (!turn) return x;
    std::vector<int64_t> axes(shape.size());
    for (size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int64_t>(i);
    std::swap(axes[axes.size() - 1], axes[axes.size() - 2]);
    return g.add("Transpose", {x}, {{"perm", axes}});
  };
  const ValueId a = operand("a", c.a, c.turn_a), b = operand("b", c.b, c.turn_b);
  g.outputs = {g.add("MatMul", {a, b})};
  infer_shapes(g);
  return g;
}

// In f32 and in double, within so many times 1e-6.
void expect_same(const Graph& g, const std::vector<at::Tensor>& inputs, const at::Tensor& gradient, double depth, const std::string& what) {
  const Through own = through(g, inputs, gradient, at::kFloat), theirs = through(g, inputs, gradient, at::kDouble);
  expect_within(own.y, theirs.y, 1e-6 * depth, what);
  for (size_t i = 0; i < inputs.size(); ++i) expect_within(own.inputs[i], theirs.inputs[i], 1e-6 * depth, what + ", input " + std::to_string(i));
}

TEST(Products, EqualLibtorchsInDouble) {
  at::manual_seed(3);
  const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> shapes = {
      {{1, 1}, {1, 1}},           {{5, 7}, {7, 3}},          {{1, 64}, {64, 10}},       {{33, 1}, {1, 17}},        {{200, 96}, {96, 288}},    {{4, 50, 32}, {32, 96}},
      {{2, 3, 9, 8}, {8, 5}},     {{6, 50, 32}, {6, 32, 50}}, {{3, 4, 7, 16}, {3, 4, 16, 7}}, {{2, 1, 1, 3}, {2, 1, 3, 1}}, {{3, 1, 7, 4}, {1, 2, 4, 5}}, {{0, 4}, {4, 3}},
      {{3, 4}, {4, 0}},           {{2, 0, 4}, {2, 4, 3}}};
  for (const auto& [a, b] : shapes)
    for (const bool turn_a : {false, true})
      for (const bool turn_b : {false, true}) {
        const Case c{a, b, turn_a, turn_b};
        const auto lying = [](std::vector<int64_t> shape, bool turn) {
          if (turn) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
          return at::randn(shape);
        };
        const std::vector<at::Tensor> in{lying(a, turn_a), lying(b, turn_b)};
        const Graph g = network(c);
        const at::Tensor gradient = at::randn(at::matmul(at::zeros(a), at::zeros(b)).sizes());
        const std::string what = fmt::format("{} by {}, turned {} {}", to_string(Shape(a.begin(), a.end())), to_string(Shape(b.begin(), b.end())), turn_a, turn_b);
        expect_same(g, in, gradient, 10 * std::sqrt(1.0 + static_cast<double>(a.back() + a[0] * 4)), what);
      }
}

TEST(Products, OfGemmWithItsFactors) {
  at::manual_seed(4);
  for (const int64_t transposed_a : {0, 1})
    for (const int64_t transposed_b : {0, 1})
      for (const float alpha : {1.0f, 0.5f})
        for (const int bias : {0, 1, 2}) {
          Graph g;
          std::vector<ValueId> inputs{g.add_input("a", DType::kF32, transposed_a ? Shape{20, 9} : Shape{9, 20}), g.add_input("b", DType::kF32, transposed_b ? Shape{13, 20} : Shape{20, 13})};
          if (bias) inputs.push_back(g.add_input("c", DType::kF32, bias == 1 ? Shape{13} : Shape{9, 1}));
          g.outputs = {g.add("Gemm", inputs, {{"transA", transposed_a}, {"transB", transposed_b}, {"alpha", alpha}, {"beta", bias == 2 ? 0.25f : 1.0f}})};
          infer_shapes(g);
          std::vector<at::Tensor> in;
          for (const ValueId v : g.inputs) in.push_back(at::randn(std::vector<int64_t>(g[v].shape->begin(), g[v].shape->end())));
          const at::Tensor gradient = at::randn({9, 13});
          expect_same(g, in, gradient, 20, fmt::format("{} {} {} {}", transposed_a, transposed_b, alpha, bias));
        }
}

TEST(Products, OfViewsWithHolesAndOfNothing) {
  if (!has_fast_product()) GTEST_SKIP() << "oneDNN is not there";
  const std::vector<float> a = {1, 2, 99, 3, 4, 99}, b = {1, 0, 2, 5, 1, 7};  // [2, 2] with a step of 3; [3, 2] transposed: [2, 3]
  std::vector<float> c(6, -1);
  fast_product(2, 3, 2, {a.data(), 3, false}, {b.data(), 2, true}, c.data());
  EXPECT_EQ(c, (std::vector<float>{1, 12, 15, 3, 26, 31}));
  fast_product(2, 3, 0, {a.data(), 3, false}, {b.data(), 3, false}, c.data());
  EXPECT_EQ(c, std::vector<float>(6, 0.0f));
  fast_product(0, 3, 2, {a.data(), 3, false}, {b.data(), 3, false}, nullptr);
  const std::vector<float> none = {std::nanf(""), 1};
  fast_product(1, 1, 2, {none.data(), 2, false}, {a.data(), 1, false}, c.data());
  EXPECT_TRUE(std::isnan(c[0]));
}

// oneDNN's kernels use the stack pointer as a register: a signal handled in the middle of one would write over the heap.
TEST(Products, BearSignals) {
  if (!has_fast_product()) GTEST_SKIP() << "oneDNN is not there";
  struct sigaction action = {}, before = {};
  static volatile std::sig_atomic_t handled;
  handled = 0;
  action.sa_handler = [](int) { handled = handled + 1; };
  action.sa_flags = SA_RESTART;
  ASSERT_EQ(::sigaction(SIGALRM, &action, &before), 0);
  const itimerval often{{0, 300}, {0, 300}}, never{};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &often, nullptr), 0);
  at::manual_seed(6);
  for (int i = 0; i < 60; ++i) {
    // The one long sum is where it happened within a few signals.
    const at::Tensor a = at::randn({1600, 64}), b = at::randn({1600, 192});
    at::Tensor first = at::empty({64, 192}), second = at::empty({64, 192});
    for (at::Tensor* c : {&first, &second}) fast_product(64, 192, 1600, {a.data_ptr<float>(), 64, true}, {b.data_ptr<float>(), 192, false}, c->data_ptr<float>());
    EXPECT_TRUE(at::equal(first, second));
  }
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  EXPECT_GT(handled, 5);
}

}  // namespace
}  // namespace lathe
