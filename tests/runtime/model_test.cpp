#include "runtime/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "graph/op.h"
#include "runtime/inspect.h"
#include "runtime/load.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// y = relu(x · w) with an open batch; z is y under another shape, sharing its buffer.
Graph open_model() {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{kUnknownDim, 3});
  g[x].dim_names = {"N", ""};
  ValueId w = g.add_constant(Tensor::of_f32({3, 2}, {1, -1, 2, 0.5f, -3, 1}), "w");
  ValueId y = g.add("Relu", {g.add("MatMul", {x, w})}, {}, "y");
  g[y].name = "y";
  ValueId z = g.add("Unsqueeze", {y, g.add_constant(Tensor::of_i64({0}))}, {}, "z");
  g[z].name = "z";
  g.outputs = {y, z};
  infer_shapes(g);
  return g;
}

Tensor rows(int64_t count) { return random_tensor(DType::kF32, {count, 3}, static_cast<uint64_t>(count)); }

std::vector<float> expected(const Tensor& x) {
  const float w[3][2] = {{1, -1}, {2, 0.5f}, {-3, 1}};
  std::vector<float> y;
  for (int64_t i = 0; i < x.dim(0); ++i)
    for (int j = 0; j < 2; ++j) {
      float sum = 0;
      for (int k = 0; k < 3; ++k) sum += x.data<float>()[i * 3 + k] * w[k][j];
      y.push_back(std::max(sum, 0.0f));
    }
  return y;
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << i;
}

template <class Body>
std::string error_of(ErrorKind kind, Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(CompiledModel, PlansEachShapeOnceAndKeepsTheLastFew) {
  CompiledModel model(open_model(), {.cached_plans = 2});
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { model.session(); }), HasSubstr("nothing is planned"));
  for (int64_t n : {1, 5, 1}) {
    Tensor x = rows(n);
    auto& y = model.run(std::map<std::string, Tensor>{{"x", x}});
    expect_near(y[0].to_f32(), expected(x));
    EXPECT_EQ(y[1].shape(), (Shape{1, n, 2}));
  }
  EXPECT_EQ(model.cached_plans(), 2u);
  const Session* one = &model.session();
  model.run({rows(5)});
  model.run({rows(1)});
  EXPECT_EQ(one, &model.session()) << "a kept plan was made again";
  model.run({rows(7)});  // takes the place of 5, used longest ago
  EXPECT_EQ(model.cached_plans(), 2u);
  model.run({rows(1)});
  EXPECT_EQ(one, &model.session());
}

TEST(CompiledModel, KnownShapesArePlannedAtOnce) {
  CompiledModel given(open_model(), {.plan = {.input_shapes = {{"x", {4, 3}}}}});
  EXPECT_GT(given.session().plan().steps.size(), 0u);
  Tensor x = rows(4);
  expect_near(given.run({x})[0].to_f32(), expected(x));
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { given.run({rows(3)}); }), HasSubstr("[4, 3]"));
  CompiledModel batch(open_model(), {.batch = 2});
  EXPECT_EQ(batch.session().plan().graph[batch.session().plan().graph.inputs[0]].shape, (Shape{2, 3}));
  CompiledModel defaults(open_model(), {.default_shapes = true});
  defaults.run({rows(1)});
}

TEST(CompiledModel, NamesWhatIsWrong) {
  CompiledModel model(open_model(), {});
  auto run = [&](std::map<std::string, Tensor> inputs) { model.run(inputs); };
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { run({{"q", rows(1)}}); }), HasSubstr("it has 'x'"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { run({}); }), HasSubstr("'x' is not given"));
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { run({{"x", Tensor::of_i64({1, 2, 3})}}); }), HasSubstr("i64"));
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { run({{"x", Tensor(DType::kF32, {2, 4})}}); }), HasSubstr("x"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [] { CompiledModel(open_model(), {.threads = 0}); }), HasSubstr("threads"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [] { CompiledModel(open_model(), {.plan = {.input_shapes = {{"w", {1}}}}}); }),
              HasSubstr("no input"));
  run({{"x", rows(2)}});  // and is none the worse for it
}

TEST(CompiledModel, WritesOutputsIntoTheCallersMemory) {
  CompiledModel model(open_model(), {});
  // Exactly as large as the result and at an odd place, so that a sanitizer sees every byte too many.
  std::vector<float> memory(5 * 2 + 1), other(5 * 2);
  Tensor bound(DType::kF32, {5, 2}, memory.data() + 1);
  model.bind_output(0, bound);
  Tensor x = rows(5);
  auto& y = model.run({x});
  EXPECT_EQ(y[0].raw(), bound.raw());
  EXPECT_EQ(y[1].raw(), bound.raw()) << "the view of a bound output lies there too: nothing was copied";
  expect_near(bound.to_f32(), expected(x));
  // Both outputs in memory of their own: one is computed in place, the other copied.
  Tensor second(DType::kF32, {1, 5, 2}, other.data());
  model.bind_output(1, second);
  x = random_tensor(DType::kF32, {5, 3}, 99);
  auto& both = model.run({x});
  EXPECT_EQ(both[1].raw(), second.raw());
  expect_near(bound.to_f32(), expected(x));
  expect_near(second.to_f32(), expected(x));
  // Unbound again, the caller's memory is left alone.
  model.bind_output(0, {});
  model.bind_output(1, {});
  std::fill(memory.begin(), memory.end(), -1.0f);
  EXPECT_NE(model.run({x})[0].raw(), bound.raw());
  EXPECT_THAT(memory, testing::Each(-1.0f));
  expect_near(model.run({x})[0].to_f32(), expected(x));
}

TEST(CompiledModel, RefusesMemoryThatDoesNotFitOrOverlaps) {
  CompiledModel model(open_model(), {});
  std::vector<float> memory(64);
  auto at = [&](int64_t offset, Shape shape) { return Tensor(DType::kF32, std::move(shape), memory.data() + offset); };
  model.bind_output(0, at(0, {4, 2}));
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { model.run({rows(5)}); }), HasSubstr("'y'"));
  model.bind_output(0, at(0, {5, 2}));
  model.bind_output(1, at(9, {1, 5, 2}));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { model.run({rows(5)}); }), HasSubstr("overlaps that for"));
  model.bind_output(1, {});
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { model.run({at(8, {5, 3})}); }), HasSubstr("overlaps input 'x'"));
  // Two outputs that change places must not be taken for an overlap on the way.
  model.bind_output(0, at(0, {5, 2}));
  model.bind_output(1, at(20, {1, 5, 2}));
  model.run({rows(5)});
  model.bind_output(0, at(20, {5, 2}));
  model.bind_output(1, at(0, {1, 5, 2}));
  Tensor x = rows(5);
  model.run({x});
  expect_near(at(20, {5, 2}).to_f32(), expected(x));
  expect_near(at(0, {5, 2}).to_f32(), expected(x));
}

// A constant, an input and a result of unknown shape are outputs that no step writes into the arena.
TEST(CompiledModel, CopiesWhatIsNotComputedInTheArena) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{4});
  ValueId c = g.add_constant(Tensor::of_f32({2}, {5, 6}), "c");
  ValueId nonzero = g.add("NonZero", {x});
  g.outputs = {x, c, nonzero};
  infer_shapes(g);
  CompiledModel model(g, {});
  std::vector<float> one(4), two(2);
  std::vector<int64_t> three(2), four(3);
  model.bind_output(0, Tensor(DType::kF32, {4}, one.data()));
  model.bind_output(1, Tensor(DType::kF32, {2}, two.data()));
  model.bind_output(2, Tensor(DType::kI64, {1, 2}, three.data()));
  model.run({Tensor::of_f32({4}, {0, 7, 0, 8})});
  EXPECT_THAT(one, testing::ElementsAre(0, 7, 0, 8));
  EXPECT_THAT(two, testing::ElementsAre(5, 6));
  EXPECT_THAT(three, testing::ElementsAre(1, 3));
  model.bind_output(2, Tensor(DType::kI64, {1, 3}, four.data()));
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { model.run({Tensor::of_f32({4}, {0, 7, 0, 8})}); }), HasSubstr("became"));
}

TEST(CompiledModel, KeepsTheLimitsOfADevice) {
  Device device;
  device.name = "a small one";
  device.compute.push_back({});
  device.limits.memory_bytes = 1;
  auto compile = [&] {
    CompiledModel::Options options;
    options.batch = 64;
    options.device = device;
    CompiledModel(open_model(), options);
  };
  EXPECT_THAT(error_of(ErrorKind::kBudget, compile), HasSubstr("a small one has 1 bytes of memory"));
  device.limits.memory_bytes = 1 << 20;
  compile();
  device.limits.flash_bytes = 3;
  EXPECT_THAT(error_of(ErrorKind::kBudget, compile), HasSubstr("flash"));
}

TEST(Inspect, CountsAndSaysWhatCannotRun) {
  Model model{.graph = open_model(), .ir_version = 8, .opsets = {{"", 23}}, .producer = "test", .metadata = {}, .problems = {}};
  Inspection found = inspect(model);
  EXPECT_TRUE(found.summary.runnable());
  EXPECT_EQ(found.summary.parameters, 6);
  EXPECT_EQ(found.summary.macs, 6);
  EXPECT_EQ(found.summary.operators.at("MatMul"), 1);
  EXPECT_EQ(shape_text(model.graph[model.graph.inputs[0]]), "[N, 3]");
  Node odd;
  odd.own_op = make_unknown_op("Frobnicate", "some.where");
  odd.op = odd.own_op.get();
  odd.name = "n7";
  odd.inputs = {model.graph.inputs[0]};
  odd.outputs = {model.graph.add_value({.name = "o", .dtype = {}, .shape = {}, .dim_names = {}, .constant = {}, .producer = {}})};
  model.graph.add_node(odd);
  found = inspect(model);
  ASSERT_EQ(found.summary.problems.size(), 1u);
  EXPECT_EQ(found.summary.problems[0], "node 'n7': operator some.where::Frobnicate is not supported");
}

// Whole networks with every output bound, at the alignment of their elements only.
TEST(CompiledModel, RealModelsWriteIntoUnalignedMemory) {
  fs::path folder = fs::path(LATHE_ASSETS) / "models";
  if (!fs::exists(folder)) GTEST_SKIP() << "no models at " << folder;
  for (const char* name : {"mlperf_tiny_ic", "mlperf_tiny_kws", "mlperf_tiny_vww", "resnet20_cifar10", "face_rfb_320", "mlperf_tiny_ad"}) {
    CompiledModel model = CompiledModel::open((folder / (std::string(name) + ".onnx")).string(), {.default_shapes = true});
    std::vector<Tensor> inputs = random_inputs(model.session().plan().graph, 3);
    std::vector<std::vector<float>> plain;
    for (const Tensor& t : model.run(inputs)) plain.push_back(t.to_f32());
    std::vector<std::vector<float>> memory;
    for (size_t i = 0; i < plain.size(); ++i) {
      memory.emplace_back(plain[i].size() + 1);
      const Graph& g = model.session().plan().graph;
      model.bind_output(i, Tensor(DType::kF32, *g[g.outputs[i]].shape, memory[i].data() + 1));
    }
    model.run(inputs);
    for (size_t i = 0; i < plain.size(); ++i)
      EXPECT_EQ(std::vector<float>(memory[i].begin() + 1, memory[i].end()), plain[i]) << name << " output " << i;
  }
}

}  // namespace
}  // namespace lathe
