// Networks on a scratchpad: executed from the schedule's text, in tiles, they give what the plain run gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "graph/op.h"
#include "planner/scratchpad/check.h"
#include "planner/scratchpad/picture.h"
#include "planner/scratchpad/program.h"
#include "planner/scratchpad/search.h"
#include "planner/scratchpad/simulate.h"
#include "planner/scratchpad/tiles.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

// Convolutions with all kinds of windows, pooling, sums of two, concatenations, upsampling by transposed convolutions, a mean in the end.
Graph random_network(std::mt19937_64& random) {
  Graph g;
  const auto draw = [&](int64_t count) { return static_cast<int64_t>(random() % static_cast<uint64_t>(count)); };
  const auto weights = [&](Shape shape) { return g.add_constant(random_tensor(DType::kF32, shape, random())); };
  const int64_t height = 17 + draw(20), width = 15 + draw(10), channels = 3 + draw(5);
  std::vector<ValueId> there = {g.add_input("x", DType::kF32, Shape{1, channels, height, width})};
  infer_shapes(g);
  for (int64_t i = 6 + draw(6); i > 0; --i) {
    const ValueId x = there[static_cast<size_t>(std::max<int64_t>(0, static_cast<int64_t>(there.size()) - 1 - draw(3)))];
    const Shape s = *g[x].shape;
    ValueId y;
    const int64_t k = 1 + draw(3), stride = s[2] > 8 && s[3] > 8 ? 1 + draw(2) : 1, pad = draw(k);
    switch (draw(7)) {
      case 0:
        y = g.add("MaxPool", {x}, {{"kernel_shape", std::vector<int64_t>{2, 2}}, {"strides", std::vector<int64_t>{stride, stride}}, {"pads", std::vector<int64_t>{0, 0, 1, 1}}});
        break;
      case 1:
        y = g.add("Conv", {x, weights({s[1], 1, 3, 3}), weights({s[1]})}, {{"group", s[1]}, {"pads", std::vector<int64_t>(4, 1)}, {"strides", std::vector<int64_t>{stride, stride}}});
        break;
      case 2:
        y = g.add("Relu", {x});
        for (ValueId other : there)
          if (other != x && *g[other].shape == s) y = g.add("Add", {x, other});
        break;
      case 3:
        y = g.add("Sigmoid", {x});
        for (ValueId other : there)
          if (const Shape& o = *g[other].shape; other != x && o[2] == s[2] && o[3] == s[3]) y = g.add("Concat", {x, other}, {{"axis", int64_t{1}}});
        break;
      case 4:
        y = s[2] < 30 ? g.add("ConvTranspose", {x, weights({s[1], 4, 2, 2}), weights({4})}, {{"strides", std::vector<int64_t>{2, 2}}}) : g.add("Tanh", {x});
        break;
      default:
        y = g.add("Conv", {x, weights({4 + draw(8), s[1], k, k})}, {{"strides", std::vector<int64_t>{stride, stride}}, {"pads", std::vector<int64_t>{pad, pad, pad, pad}}});
    }
    infer_shapes(g);
    there.push_back(y);
  }
  const ValueId mean = g.add("ReduceMean", {there.back(), g.add_constant(Tensor::of_i64({2, 3}))}, {{"keepdims", int64_t{0}}});
  infer_shapes(g);
  g.outputs = {g.add("MatMul", {mean, weights({(*g[mean].shape)[1], 5})}), there[there.size() - 2]};
  infer_shapes(g);
  return g;
}

double largest_error(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double range = 1e-30, error = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    range = std::max(range, std::fabs(a.get(i)));
    const double difference = std::fabs(a.get(i) - b.get(i));
    error = std::max(error, std::isnan(difference) ? INFINITY : difference);
  }
  return error / range;
}

TEST(ScratchpadNetwork, TilesGiveTheResultsOfThePlainRun) {
  std::mt19937_64 random(21);
  int64_t moved = 0, tiles = 0;
  int planned = 0;
  for (int i = 0; i < 24; ++i) {
    Graph g = random_network(random);
    const Graph low = lowered(g, {});
    Session session(make_plan(g));
    const std::vector<Tensor> x = random_inputs(g, static_cast<uint64_t>(i));
    const std::vector<Tensor>& expected = session.run(x);
    const int64_t enough = capacity_without_traffic(schedule_network(low, {.capacity = 1 << 30}).problem);
    for (double part : {0.45, 0.8}) {
      FittedNetwork fitted;
      try {
        fitted = fit_in_tiles(low, {.capacity = static_cast<int64_t>(part * static_cast<double>(enough))});
      } catch (const Error& e) {  // small as these are, an operator may be one that cannot be cut
        EXPECT_EQ(e.kind(), ErrorKind::kBudget) << e.what();
        continue;
      }
      ++planned;
      const ScratchSchedule s = schedule_scratchpad(fitted.network.problem);
      ScheduleRun run;
      const std::vector<Tensor> got = fitted.tiles.join(run_schedule(fitted.network, to_json(fitted.network.problem, s), fitted.tiles.cut(x), &run), low);
      EXPECT_EQ(run.load_bytes + run.store_bytes, s.other_bytes());
      for (size_t k = 0; k < got.size(); ++k) EXPECT_LE(largest_error(expected[k], got[k]), 1e-5) << i << " " << part << "\n" << print(low);
      moved += s.other_bytes();
      tiles += fitted.tiles.tiles;
    }
  }
  EXPECT_GT(planned, 8);  // of the others an operator is one that cannot be cut: transposes, mostly
  EXPECT_GT(tiles, 100);
  EXPECT_GT(moved, 0);
}

TEST(ScratchpadNetwork, WithoutTilesEveryBitIsThatOfThePlainRun) {
  std::mt19937_64 random(22);
  for (int i = 0; i < 20; ++i) {
    Graph g = random_network(random);
    const Graph low = lowered(g, {});
    Session session(make_plan(g));
    const std::vector<Tensor> x = random_inputs(g, static_cast<uint64_t>(i));
    const std::vector<Tensor>& expected = session.run(x);
    const int64_t least = least_capacity(schedule_network(low, {.capacity = 1 << 30}).problem);
    const ScheduleNetwork network = schedule_network(low, {.capacity = least});
    const ScratchSchedule s = schedule_scratchpad(network.problem, {.method = ScheduleMethod::kIlp, .time_limit = 5});
    const std::vector<Tensor> got = run_schedule(network, to_json(network.problem, s), x);
    for (size_t k = 0; k < got.size(); ++k) {
      ASSERT_EQ(got[k].bytes(), expected[k].bytes());
      EXPECT_EQ(std::memcmp(got[k].raw(), expected[k].raw(), got[k].bytes()), 0) << i << ", output " << k;
    }
  }
}

// Operators in a fixed order over tensors that come and go: sums fit, and sometimes no addresses do.
ScheduleProblem intervals(std::mt19937_64& random) {
  const int steps = 9;
  ScheduleProblem p;
  p.tensors.push_back({"x", 1, TensorKind::kInput});
  for (int t = 0; t < steps; ++t) {
    p.operators.push_back({fmt::format("op{}", t), {t}, {t + 1}, {{t, t + 1}}});  // one byte that forces the order
    p.tensors.push_back({fmt::format("chain{}", t), 1, t + 1 == steps ? TensorKind::kOutput : TensorKind::kIntermediate});
  }
  for (int i = 10; i > 0; --i) {
    const int first = static_cast<int>(random() % (steps - 1)), last = std::min(steps - 1, first + 1 + static_cast<int>(random() % 3)), e = static_cast<int>(p.tensors.size());
    p.tensors.push_back({fmt::format("t{}", i), 100 * (1 + static_cast<int64_t>(random() % 4)), TensorKind::kIntermediate});
    p.operators[static_cast<size_t>(first)].outputs.push_back(e);
    p.operators[static_cast<size_t>(last)].inputs.push_back(e);
  }
  p.capacity = 1000;
  p.capacity = capacity_without_traffic(p);
  return p;
}

TEST(ScratchpadNetwork, WhereAddressesBindTheProgramCutsUntilTheyFit) {
  std::mt19937_64 random(5);
  int bound = 0;
  for (int i = 0; i < 1000 && bound < 1; ++i) {
    const ScheduleProblem p = intervals(random);
    const ScheduleIndex index(p);
    SearchResult sizes = search_schedules(index, {});
    ASSERT_TRUE(sizes.found && sizes.cost == 0) << i;  // at the peak, sums need no traffic
    ScratchSchedule s = assemble(index, sizes.choices);
    if (place_schedule(index, s, 100, 1'000'000) != PackResult::kImpossible) continue;
    // With the order forced, no traffic means these residences: a tensor has to move.
    const ProgramRun run = solve_schedule_program(index, PlacementForm::kDecomposed, 10, nullptr);
    EXPECT_GT(run.cuts, 0);
    const ScratchSchedule best = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp, .time_limit = 5});
    EXPECT_GT(best.cost, 0);
    (void)check_schedule(to_json(p, best));
    if (run.optimal) { EXPECT_GE(best.cost, run.schedule->cost); }
    ++bound;
  }
  EXPECT_EQ(bound, 1);  // one in thousands is so tight
}

Graph one_convolution() {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 32, 32});
  g.outputs = {g.add("Conv", {x, g.add_constant(random_tensor(DType::kF32, {8, 3, 3, 3}, 1))}, {{"pads", std::vector<int64_t>(4, 1)}})};
  infer_shapes(g);
  return g;
}

TEST(ScratchpadNetwork, WhatDoesNotFitNamesTheOperatorAndTheWayOut) {
  const Graph low = lowered(one_convolution(), {});
  try {
    schedule_scratchpad(schedule_network(low, {.capacity = 4096}).problem);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBudget);
    EXPECT_THAT(e.what(), AllOf(HasSubstr("Conv"), HasSubstr("--tiles")));
  }
  EXPECT_THROW(fit_in_tiles(low, {.capacity = 100}), Error);
  Graph open;
  const ValueId x = open.add_input("x", DType::kF32, Shape{kUnknownDim, 4});
  open.outputs = {open.add("Relu", {x})};
  infer_shapes(open);
  EXPECT_THROW(schedule_network(open, {.capacity = 4096}), Error);
}

TEST(ScratchpadNetwork, DevicesSayHowLarge) {
  const Device d = read_device(std::string(LATHE_SOURCE) + "/devices/scratchpad-1m.json");
  EXPECT_EQ(scratchpad_of(d).capacity, 1 << 20);
  const Scratchpad timed = scratchpad_of(d, true);
  EXPECT_DOUBLE_EQ(timed.load_cost, 1e-9 / 4);
  const ScheduleNetwork n = schedule_network(lowered(one_convolution(), {}), timed);
  const ScratchSchedule s = schedule_scratchpad(n.problem);
  // 27 · 8 multiply-accumulates an element and one operation an element of the transpose, at 256e9; every byte at 4e9.
  EXPECT_NEAR(s.seconds, (2.0 * 27 * 8 * 1024 + (n.problem.operators.size() > 1 ? 8.0 * 1024 * static_cast<double>(n.problem.operators.size() - 1) : 0)) / 256e9 + static_cast<double>(s.compulsory_bytes) / 4e9, 1e-7);
  Device one = d;
  one.memory.resize(1);
  EXPECT_THROW(scratchpad_of(one), Error);
  Device slow = d;
  slow.memory[1].per_core = {};
  EXPECT_THROW(scratchpad_of(slow, true), Error);
}

TEST(ScratchpadNetwork, PicturesNameEveryTensorAndAreWellFormed) {
  const ScheduleNetwork n = schedule_network(lowered(one_convolution(), {}), {.capacity = 1 << 20});
  const ScratchSchedule s = schedule_scratchpad(n.problem);
  const std::string svg = schedule_svg(n.problem, s, "a <title> & \"more\"");
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("</svg>"), HasSubstr("&lt;title&gt; &amp; &quot;more&quot;")));
  for (const ScheduleTensor& t : n.problem.tensors) EXPECT_THAT(svg, HasSubstr(t.name));
  EXPECT_THAT(schedule_html(n.problem, s, "t"), AllOf(HasSubstr("<html"), HasSubstr("optimal"), HasSubstr("</html>")));
}

}  // namespace
}  // namespace lathe
