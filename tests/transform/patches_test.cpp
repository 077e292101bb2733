// Stages written out tile by tile compute what they computed whole.
#include "transform/patches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "onnxruntime.h"
#include "patch_networks.h"
#include "planner/plan.h"
#include "runtime/session.h"

namespace lathe {
namespace {

using testing::PatchNetwork;

std::vector<Tensor> run(const Graph& g, bool engine, const std::vector<Tensor>& inputs) {
  PlanOptions options;
  options.reference = !engine;
  options.fuse = engine;
  Session session(make_plan(g, options));
  std::vector<Tensor> copies;
  for (const Tensor& t : session.run(inputs)) copies.push_back(t.clone());
  return copies;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  if (a.shape() != b.shape()) return INFINITY;
  double most = 0;
  for (int64_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a.get(i) - b.get(i)) / std::max(1.0, std::abs(b.get(i))));
  return most;
}

// All networks of a set: 200 with LATHE_LONG_TESTS, else some of them.
int networks() { return std::getenv("LATHE_LONG_TESTS") ? 200 : 24; }

std::vector<PatchGrid> grids(uint64_t seed, const Shape& exit) {
  std::vector<PatchGrid> all;
  const bool every = std::getenv("LATHE_LONG_TESTS") != nullptr;
  std::mt19937_64 random(seed);
  for (int64_t rows = 1; rows <= 5; ++rows)
    for (int64_t columns = 1; columns <= 5; ++columns) {
      if (rows > exit[2] || columns > exit[3]) continue;
      const auto policy = static_cast<int>(random() % 4);
      if (every || random() % 6 == 0) all.push_back({rows, columns, (policy & 1) != 0, (policy & 2) != 0});
    }
  return all;
}

void compare_networks(bool quantized) {
  int cases = 0;
  for (int seed = 0; seed < networks(); ++seed) {
    const Graph g = PatchNetwork(static_cast<uint64_t>(seed) + (quantized ? 1000 : 0), quantized).make(2 + seed % 5);
    const std::vector<Tensor> inputs = random_inputs(g, static_cast<uint64_t>(seed));
    const Tensor whole = run(g, quantized, inputs)[0];
    const PatchPrefix prefix = patchable_prefix(g);
    ASSERT_TRUE(prefix.stop.empty()) << prefix.stop << "\n" << print(g);
    ASSERT_FALSE(prefix.ends.empty());
    for (const PatchGrid& grid : grids(static_cast<uint64_t>(seed), *g[prefix.whole.exit].shape)) {
      Graph patched = g;
      const size_t end = prefix.ends[static_cast<size_t>(cases++) % prefix.ends.size()];
      const PatchStage stage = prefix.stage(end);
      const Shape& exit = *g[stage.exit].shape;
      if (grid.rows > exit[2] || grid.columns > exit[3]) continue;
      run_in_patches(patched, stage, grid);
      verify(patched);
      const Tensor tiled = run(patched, quantized, inputs)[0];
      const std::string text = fmt::format("network {}, {} nodes, {}x{} tiles, cache {} {}", seed, end, grid.rows, grid.columns, grid.cache_rows, grid.cache_columns);
      if (quantized) {
        ASSERT_EQ(whole.shape(), tiled.shape()) << text;
        ASSERT_EQ(std::memcmp(whole.raw(), tiled.raw(), whole.bytes()), 0) << text << "\n" << print(g);
      } else {
        ASSERT_LE(largest_difference(tiled, whole), 1e-6) << text << "\n" << print(g);
      }
    }
  }
  EXPECT_GE(cases, networks());
}

TEST(Patches, RandomNetworksOfCodesHaveTheSameBits) { compare_networks(true); }
TEST(Patches, RandomNetworksAgree) { compare_networks(false); }

ValueId filter(Graph& g, Shape shape) { return g.add_constant(random_tensor(DType::kF32, shape, 3)); }

TEST(Patches, AverageAtTheBorderCountsTheMapAlone) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 1, 6, 6});
  g.outputs = {g.add("AveragePool", {x}, {{"kernel_shape", std::vector<int64_t>{3, 3}}, {"pads", std::vector<int64_t>{1, 1, 1, 1}}})};
  Graph patched = g;
  const PatchPrefix prefix = patchable_prefix(g);
  run_in_patches(patched, prefix.stage(1), {.rows = 3, .columns = 2});
  Tensor ones(DType::kF32, {1, 1, 6, 6});
  for (int64_t i = 0; i < ones.size(); ++i) ones.set(i, 1);
  const Tensor y = run(patched, false, {ones})[0];
  for (int64_t i = 0; i < y.size(); ++i) EXPECT_EQ(y.get(i), 1.0) << i;
}

TEST(Patches, NaNStaysWhereItsWindowsReach) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 1, 9, 9});
  g.outputs = {g.add("Conv", {x, filter(g, {1, 1, 3, 3})}, {{"pads", std::vector<int64_t>{1, 1, 1, 1}}})};
  Graph patched = g;
  run_in_patches(patched, patchable_prefix(g).stage(1), {.rows = 3, .columns = 3});
  Tensor picture = random_tensor(DType::kF32, {1, 1, 9, 9}, 1);
  picture.set(4 * 9 + 4, NAN);
  const Tensor a = run(g, false, {picture})[0], b = run(patched, false, {picture})[0];
  for (int64_t i = 0; i < a.size(); ++i) EXPECT_EQ(std::isnan(a.get(i)), std::isnan(b.get(i))) << i;
}

std::string stop_of(const std::function<ValueId(Graph&, ValueId)>& build, size_t nodes) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 4, 12, 12});
  x = g.add("Conv", {x, filter(g, {4, 4, 3, 3})});
  g.outputs = {build(g, x)};
  const PatchPrefix prefix = patchable_prefix(g);
  EXPECT_EQ(prefix.ends, nodes ? std::vector<size_t>{nodes} : std::vector<size_t>{}) << prefix.stop;
  return prefix.stop;
}

TEST(Patches, AStageEndsBeforeWhatSeesMoreThanAWindow) {
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("GlobalAveragePool", {x}); }, 1).find("whole map"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("ReduceMean", {x, g.add_constant(Tensor::of_i64({2, 3}))}); }, 1).find("whole map"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("Reshape", {x, g.add_constant(Tensor::of_i64({1, 4, 100, 1}))}); }, 1).find("another shape"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("Softmax", {x}, {{"axis", int64_t{3}}}); }, 1).find("far apart"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("MatMul", {x, filter(g, {10, 10})}); }, 1).find("far apart"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("Add", {x, filter(g, {4, 10, 10})}); }, 1).find("each place"), std::string::npos);
  EXPECT_NE(stop_of([](Graph& g, ValueId x) { return g.add("Conv", {x, filter(g, {4, 4, 1, 1})}, {{"pads", std::vector<int64_t>{2, 2, 2, 2}}}); }, 1).find("padding alone"),
            std::string::npos);
}

TEST(Patches, AStageHasOneExit) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 4, 12, 12});
  const ValueId a = g.add("Conv", {x, filter(g, {4, 4, 3, 3})}), b = g.add("Relu", {a});
  // The squeeze reads the map that is scaled: one map leaves, after one node or two.
  g.outputs = {g.add("Mul", {b, g.add("Sigmoid", {g.add("GlobalAveragePool", {b})})})};
  EXPECT_EQ(patchable_prefix(g).ends, (std::vector<size_t>{1, 2}));
  g.outputs = {a, b};
  EXPECT_EQ(patchable_prefix(g).ends, (std::vector<size_t>{1}));
  EXPECT_EQ(patchable_prefix(g).exits, (std::vector<ValueId>{a}));
  g.outputs = {g.add("Add", {g.add("Relu", {x}), x})};
  remove_dead(g);
  EXPECT_EQ(patchable_prefix(g).ends, (std::vector<size_t>{2}));
}

TEST(Patches, AStageEndsAfterRounding) {
  const Graph g = PatchNetwork(5, true).make(4);
  const PatchPrefix prefix = patchable_prefix(g);
  ASSERT_FALSE(prefix.ends.empty());
  for (ValueId exit : prefix.exits) {
    const std::string& op = g[g[exit].producer].op->name;
    EXPECT_TRUE(op == "QuantizeLinear" || op == "DequantizeLinear") << op;
  }
}

TEST(Patches, GridsThatDoNotFitAreRefused) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 1, 6, 6});
  g.outputs = {g.add("Conv", {x, filter(g, {1, 1, 3, 3})})};
  const PatchPrefix prefix = patchable_prefix(g);
  EXPECT_THROW(run_in_patches(g, prefix.stage(1), {.rows = 5}), Error);
  EXPECT_THROW(run_in_patches(g, prefix.stage(1), {.rows = 0}), Error);
  EXPECT_THROW((void)prefix.stage(2), Error);
  Graph open;
  open.outputs = {open.add("Relu", {open.add_input("x", DType::kF32, Shape{1, 3, kUnknownDim, 8})})};
  EXPECT_THROW((void)patchable_prefix(open), Error);
}

TEST(Patches, OnnxRuntimeRunsTheTiles) {
  if (!testing::have_onnxruntime()) GTEST_SKIP() << "ONNX Runtime is not there: npm ci in benchmarks/peers";
  for (bool quantized : {false, true}) {
    Graph g = PatchNetwork(77, quantized).make(4), patched = g;
    const PatchPrefix prefix = patchable_prefix(g);
    run_in_patches(patched, prefix.stage(prefix.ends.back()), {.rows = 3, .columns = 2, .cache_rows = true});
    const std::vector<Tensor> inputs = random_inputs(g, 4);
    EXPECT_LE(largest_difference(testing::run_onnxruntime(patched, inputs), testing::run_onnxruntime(g, inputs)), 1e-6);
  }
}

}  // namespace
}  // namespace lathe
