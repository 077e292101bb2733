// The search as such, on problems whose answer is known.
#include "optimize/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace lathe {
namespace {

TEST(Search, DominationAndRanks) {
  EXPECT_TRUE(dominates({1, 1}, {1, 2}));
  EXPECT_FALSE(dominates({1, 2}, {1, 2}));
  EXPECT_FALSE(dominates({0, 3}, {1, 2}));
  EXPECT_EQ(domination_ranks({{1, 3}, {3, 1}, {2, 4}, {4, 4}, {1, 3}}), (std::vector<int>{0, 0, 1, 2, 0}));
}

// By hand, and against a count of the cells of a fine grid.
TEST(Search, HypervolumeIsExact) {
  EXPECT_EQ(hypervolume({}, {1, 1}), 0);
  EXPECT_DOUBLE_EQ(hypervolume({{0.5}}, {2}), 1.5);
  EXPECT_DOUBLE_EQ(hypervolume({{1, 2}, {2, 1}}, {3, 3}), 3);
  EXPECT_DOUBLE_EQ(hypervolume({{1, 2}, {2, 1}, {2, 2}, {4, 0}}, {3, 3}), 3);
  EXPECT_DOUBLE_EQ(hypervolume({{1, 1, 1}, {0, 2, 2}}, {3, 3, 3}), 8 + 1);
  std::vector<Objectives> points = {{1, 5, 3}, {2, 2, 4}, {4, 1, 1}, {3, 3, 2}, {5, 5, 0}};
  int64_t cells = 0;
  for (int x = 0; x < 6; ++x)
    for (int y = 0; y < 6; ++y)
      for (int z = 0; z < 6; ++z)
        cells += std::any_of(points.begin(), points.end(), [&](const Objectives& p) { return p[0] <= x && p[1] <= y && p[2] <= z; });
  EXPECT_DOUBLE_EQ(hypervolume(points, {6, 6, 6}), static_cast<double>(cells));
}

// Layers with a gain and a price of their own: the front is a knapsack's.
SearchProblem knapsack(size_t layers, int* calls = nullptr) {
  SearchProblem p;
  for (size_t i = 0; i < layers; ++i) p.dimensions.push_back({"layer" + std::to_string(i), 2});
  p.evaluate = [calls](const Point& x) -> std::optional<Evaluated> {
    if (calls) ++*calls;
    double time = 10, loss = 0.01;
    for (size_t i = 0; i < x.size(); ++i) {
      double gain = 1 / (1.0 + static_cast<double>((i * 7) % 10)), price = static_cast<double>((i * 3) % 7 + 1) / 7;
      time -= x[i] * gain;
      loss += x[i] * price * price;
    }
    return Evaluated{x, {time, loss}, loss < 1};
  };
  return p;
}

TEST(Search, BeatsRandomOnAKnapsack) {
  SearchProblem p = knapsack(14);
  const Objectives reference = {10.1, 6};
  double guided = 0, random = 0;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    guided += hypervolume(objectives_of(search(p, {40, seed})), reference);
    random += hypervolume(objectives_of(random_search(p, {40, seed})), reference);
  }
  EXPECT_GT(guided, 1.15 * random);
}

TEST(Search, IsTheSameForTheSameSeedAndMeasuresNothingTwice) {
  int calls = 0;
  SearchProblem p = knapsack(10, &calls);
  std::vector<Evaluated> a = search(p, {25, 3});
  EXPECT_EQ(calls, 25);
  std::set<Point> points;
  for (const Evaluated& e : a) EXPECT_TRUE(points.insert(e.point).second);
  std::vector<Evaluated> b = search(p, {25, 3});
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].point, b[i].point);
}

TEST(Search, EndsWhenNothingIsLeftOrNoTime) {
  SearchProblem p = knapsack(3);
  EXPECT_EQ(search(p, {100, 1}).size(), 8u);
  p.known = {{{0, 0, 0}, {10, 0.01}, true}};
  EXPECT_EQ(search(p, {100, 1}).size(), 7u);
  int left = 4;
  auto evaluate = p.evaluate;
  p.evaluate = [&](const Point& x) { return left-- > 0 ? evaluate(x) : std::nullopt; };
  EXPECT_EQ(search(p, {100, 1}).size(), 4u);
}

TEST(Search, RepairedPointsAreTheOnlyOnes) {
  SearchProblem p = knapsack(8);
  p.repair = [](Point x) {
    if (x[0]) x[1] = 0;
    return x;
  };
  for (const Evaluated& e : search(p, {40, 1})) EXPECT_FALSE(e.point[0] && e.point[1]);
  p.evaluate = [](const Point& x) -> std::optional<Evaluated> { return Evaluated{x, {}, false}; };  // nothing can be measured
  EXPECT_EQ(search(p, {10, 1}).size(), 10u);
}

// What is known of single layers takes the place of trying them.
TEST(Search, EffectsSaveTrials) {
  SearchProblem blind = knapsack(20), told = knapsack(20);
  for (size_t i = 0; i < 20; ++i) {
    Point p(20, 0);
    Objectives base = told.evaluate(p)->objectives;
    p[i] = 1;
    Objectives one = told.evaluate(p)->objectives;
    told.effects.push_back({i, 1, {one[0] - base[0], one[1] - base[1]}});
  }
  const Objectives reference = {10.1, 8};
  double with = 0, without = 0;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    with += hypervolume(objectives_of(search(told, {12, seed})), reference);
    without += hypervolume(objectives_of(search(blind, {12, seed})), reference);
  }
  EXPECT_GT(with, without);
}

}  // namespace
}  // namespace lathe
