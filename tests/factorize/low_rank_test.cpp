// Factors against what is known of them: the error that is left, the function that stays at full rank, the sizes.
#include "factorize/low_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "../quantize/networks.h"
#include "quantize/matrix.h"
#include "runtime/session.h"

namespace lathe {
namespace {

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor c(DType::kF32, {a.dim(0), b.dim(1)});
  for (int64_t i = 0; i < a.dim(0); ++i)
    for (int64_t j = 0; j < b.dim(1); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < a.dim(1); ++k) sum += static_cast<double>(a.data<float>()[i * a.dim(1) + k]) * static_cast<double>(b.data<float>()[k * b.dim(1) + j]);
      c.data<float>()[i * b.dim(1) + j] = static_cast<float>(sum);
    }
  return c;
}

double squared_distance(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a.data<float>()[i]) - static_cast<double>(b.data<float>()[i]), 2);
  return sum;
}

double squares(const Tensor& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a.data<float>()[i]), 2);
  return sum;
}

std::vector<float> run(const Graph& g, const Tensor& x) {
  Session session(make_plan(g, {.input_shapes = {{g[g.inputs[0]].name, x.shape()}}, .reference = true}));
  return session.run({x})[0].to_f32();
}

TEST(LowRank, TheErrorIsTheTailOfTheSquares) {
  for (const Shape& shape : {Shape{5, 9}, Shape{16, 16}, Shape{40, 7}, Shape{2, 33}}) {
    const Tensor w = random_weights(shape, 3);
    const int64_t full = std::min(shape[0], shape[1]);
    for (int64_t r = 1; r <= full; r += std::max<int64_t>(full / 4, 1)) {
      const LowRank l = low_rank(w, {}, [&](const auto&) { return r; });
      const double tail = std::accumulate(l.squares.begin() + r, l.squares.end(), 0.0), all = std::accumulate(l.squares.begin(), l.squares.end(), 0.0);
      EXPECT_NEAR(squared_distance(product(l.outer, l.inner), w), tail, 1e-4 * tail + 1e-8 * all) << to_string(shape) << " rank " << r;
      EXPECT_TRUE(std::is_sorted(l.squares.rbegin(), l.squares.rend()));
    }
  }
}

TEST(LowRank, WeightedLeavesLessOfTheOutput) {
  // Inputs that hardly vary in half of their directions.
  Tensor x = random_weights({200, 24}, 5, 1);
  for (int64_t i = 0; i < x.size(); ++i)
    if (i % 24 >= 12) x.data<float>()[i] *= 0.01f;
  const Tensor mixed = product(x, random_weights({24, 24}, 6, 1)), w = random_weights({18, 24}, 7);
  Products products;
  const Tensor moments = second_moments(mixed, products);
  const auto output_error = [&](const LowRank& l) { return squared_distance(product(mixed, transpose(product(l.outer, l.inner), {1, 0})), product(mixed, transpose(w, {1, 0}))); };
  for (int64_t r : {3, 6, 9}) {
    const auto rank = [&](const auto&) { return r; };
    const LowRank plain = low_rank(w, {}, rank), weighted = low_rank(w, moments, rank);
    EXPECT_LT(output_error(weighted), 0.8 * output_error(plain)) << r;
    const double all = squares(product(mixed, transpose(w, {1, 0})));
    EXPECT_NEAR(weighted.left_out(), output_error(weighted) / all, 2e-3) << r;
  }
}

TEST(Factorize, FullRankIsTheSameFunction) {
  for (const Graph& g : {small_network(), small_transformer()}) {
    const Factorized f = factorize(g, {.ratio = 1, .enlarge = true});
    const Tensor x = random_weights(*g[g.inputs[0]].shape, 11, 1);
    const std::vector<float> before = run(g, x), after = run(f.graph, x);
    ASSERT_EQ(before.size(), after.size());
    float range = 0, difference = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      range = std::max(range, std::abs(before[i]));
      difference = std::max(difference, std::abs(before[i] - after[i]));
    }
    EXPECT_LT(difference, 2e-5f * range);
    EXPECT_TRUE(std::any_of(f.layers.begin(), f.layers.end(), [](const LowRankLayer& l) { return l.rank > 0; }));
    EXPECT_EQ(g[g.outputs[0]].name, f.graph[f.graph.outputs[0]].name);
  }
}

TEST(Factorize, WhatGrowsStaysAndSaysSo) {
  const Factorized f = factorize(small_network(), {.ratio = 0.9});
  for (const LowRankLayer& l : f.layers) {
    const int64_t whole = l.layer.rows * l.layer.columns, rank = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(std::min(l.layer.rows, l.layer.columns)) * 0.9 + 1e-9), 1);
    if (l.rank == 0) {
      EXPECT_FALSE(l.why.empty()) << l.layer.name;
      EXPECT_EQ(l.weights, whole);
      EXPECT_TRUE(l.layer.group > 1 || rank * (l.layer.rows + l.layer.columns) >= whole) << l.layer.name;
    } else {
      EXPECT_EQ(l.rank, rank);
      EXPECT_LT(l.weights, whole);
    }
  }
}

TEST(Factorize, ByEnergyTheRankFollowsTheWeights) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{3, 20});
  // Of rank 4, and a little noise.
  const Tensor low = product(random_weights({20, 4}, 1, 1), random_weights({4, 30}, 2, 1));
  Tensor w = low.clone();
  const Tensor noise = random_weights({20, 30}, 3, 1e-4f);
  for (int64_t i = 0; i < w.size(); ++i) w.data<float>()[i] += noise.data<float>()[i];
  g.outputs = {g.add("MatMul", {x, g.add_constant(w)}, {}, "one")};
  const Factorized f = factorize(g, {.energy = 0.9999});
  ASSERT_EQ(f.layers.size(), 1u);
  EXPECT_EQ(f.layers[0].rank, 4);
  EXPECT_EQ(f.weights(), 4 * 50);
  EXPECT_EQ(f.layers[0].macs, 3 * 4 * 50);
  EXPECT_LT(f.layers[0].left_out, 1e-4);
}

TEST(Factorize, SamplesWeight) {
  const Graph g = small_network();
  const Samples samples{4, [](size_t i) { return std::vector<Tensor>{random_weights({1, 3, 16, 16}, 50 + i, 1)}; }};
  const Factorized plain = factorize(g, {.ratio = 0.4}), weighted = factorize(g, {.ratio = 0.4, .weighted = true}, samples);
  double error[2] = {};
  for (uint64_t i = 0; i < 4; ++i) {
    const Tensor x = random_weights({1, 3, 16, 16}, 50 + i, 1);
    const std::vector<float> whole = run(g, x);
    for (int k = 0; k < 2; ++k) {
      const std::vector<float> got = run((k == 0 ? plain : weighted).graph, x);
      for (size_t j = 0; j < whole.size(); ++j) error[k] += std::pow(static_cast<double>(got[j] - whole[j]), 2);
    }
  }
  EXPECT_LT(error[1], error[0]);
}

TEST(Factorize, RefusesWhatIsWrong) {
  const Graph g = small_network();
  const auto refused = [&](const LowRankOptions& o, const char* text) {
    try {
      factorize(g, o);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr(text));
    }
  };
  refused({.ratio = 1.5}, "a rank of 1.5");
  refused({}, "one of them");
  refused({.ratio = 0.5, .energy = 0.5}, "one of them");
  refused({.ratio = std::nan("")}, "one of them");
  refused({.ratio = 0.5, .weighted = true}, "needs samples");
  refused({.ratio = 0.5, .only = {"nothing*"}}, "nothing*");
  Graph bad = g;
  for (size_t i = 0; i < bad.value_count(); ++i) {
    Value& v = bad[ValueId{static_cast<int32_t>(i)}];
    if (v.is_constant() && v.constant.rank() == 4) v.constant.data<float>()[0] = std::nanf("");
  }
  EXPECT_THROW(factorize(bad, {.ratio = 0.5}), Error);
}

}  // namespace
}  // namespace lathe
