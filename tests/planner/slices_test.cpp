// A batch in several runs of one plan: only where images stay apart, and with the same answers.
#include "planner/slices.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "planner/packed.h"
#include "runtime/load.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

Tensor filled(Shape shape, uint64_t seed) { return random_tensor(DType::kF32, shape, seed); }

using Build = std::function<ValueId(Graph&, ValueId)>;

Graph network(const Build& build, Shape shape) {
  Graph g;
  shape[0] = kUnknownDim;
  g.outputs = {build(g, g.add_input("x", DType::kF32, shape))};
  return g;
}

// What choose_slices asks, for batches of 6 and 2.
bool apart(const Build& build, Shape shape = {1, 4, 8, 8}) {
  Graph both[2];
  for (int64_t batch : {6, 2}) {
    Graph& g = both[batch == 2];
    g = network(build, shape);
    shape[0] = batch;
    specialize(g, {{"x", shape}});
    clean_up(g);
  }
  return same_apart(both[0], both[1]);
}

ValueId ints(Graph& g, const std::vector<int64_t>& values) { return g.add_constant(Tensor::of_i64(values)); }

TEST(Slices, OperatorsOfImagesKeepThemApart) {
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Conv", {x, g.add_constant(filled({4, 4, 3, 3}, 1))}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Softmax", {x}, {{"axis", int64_t{1}}}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Add", {x, g.add_constant(filled({4, 1, 1}, 1))}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("ReduceMean", {x, ints(g, {2, 3})}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Reshape", {x, ints(g, {-1, 256})}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Reshape", {x, ints(g, {0, 2, 128})}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) { return g.add("Concat", {x, g.add("Relu", {x})}, {{"axis", int64_t{1}}}); }));
  EXPECT_TRUE(apart([](Graph& g, ValueId x) {
    ValueId t = g.add("Transpose", {x}, {{"perm", std::vector<int64_t>{2, 0, 3, 1}}});
    t = g.add("MatMul", {t, g.add_constant(filled({4, 5}, 1))});
    return g.add("Transpose", {t}, {{"perm", std::vector<int64_t>{1, 0, 2, 3}}});
  }));
}

TEST(Slices, WhatMixesImagesIsFound) {
  EXPECT_FALSE(apart([](Graph& g, ValueId x) { return g.add("Softmax", {x}, {{"axis", int64_t{0}}}); }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) { return g.add("Sub", {x, g.add("ReduceMean", {x, ints(g, {0})})}); }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) { return g.add("CumSum", {x, g.add_constant(Tensor::of_i64({0}).reshaped({}))}); }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) {  // every image times every other
    ValueId a = g.add("Reshape", {x, ints(g, {-1, 256})});
    return g.add("MatMul", {g.add("MatMul", {a, g.add("Transpose", {a}, {{"perm", std::vector<int64_t>{1, 0}}})}), a});
  }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) {  // the order of the images turns
    ValueId all = ints(g, {-1});
    return g.add("Slice", {x, all, ints(g, {-100}), ints(g, {0}), all});
  }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) {  // divided by the number of images
    ValueId count = g.add("Cast", {g.add("Gather", {g.add("Shape", {x}), g.add_constant(Tensor::of_i64({0}).reshaped({}))})},
                          {{"to", static_cast<int64_t>(DType::kF32)}});
    return g.add("Div", {x, count});
  }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) {  // channels and images change places in memory
    ValueId t = g.add("Transpose", {x}, {{"perm", std::vector<int64_t>{1, 0, 2, 3}}});
    return g.add("Reshape", {t, ints(g, {-1, 4, 64})});
  }));
  EXPECT_FALSE(apart([](Graph& g, ValueId x) { return g.add("Relu", {g.add("ReduceSum", {x, ints(g, {0})})}); }));
}

TEST(Slices, AClassTokenForEveryImageIsOneConstant) {
  Build token = [](Graph& g, ValueId x) {
    ValueId batch = g.add("Gather", {g.add("Shape", {x}), ints(g, {0})});
    ValueId shape = g.add("Concat", {batch, ints(g, {1, 8})}, {{"axis", int64_t{0}}});
    return g.add("Concat", {g.add("Expand", {g.add_constant(filled({1, 1, 8}, 1)), shape}), x}, {{"axis", int64_t{1}}});
  };
  EXPECT_TRUE(apart(token, {1, 4, 8}));
}

// Large enough for the batch to leave any second-level cache.
constexpr int64_t kBatch = 4;
const Shape kPictures = {kBatch, 16, 96, 96};

ValueId two_layers(Graph& g, ValueId x) {
  for (int layer = 0; layer < 2; ++layer)
    x = g.add("Relu", {g.add("Conv", {x, g.add_constant(filled({16, 1, 3, 3}, 7))}, {{"pads", std::vector<int64_t>(4, 1)}, {"group", int64_t{16}}})});
  return x;
}

std::vector<Tensor> results(Plan plan) {
  std::vector<Tensor> inputs = random_inputs(plan, 5), copies;
  Session session(std::move(plan));
  for (int i = 0; i < 2; ++i) session.run(inputs);
  for (const Tensor& t : session.run(inputs)) copies.push_back(t.clone());
  return copies;
}

Plan plan_of(bool slice) {
  PlanOptions options;
  options.input_shapes = {{"x", kPictures}};
  options.slice = slice;
  Graph g = network(two_layers, kPictures);
  g.outputs.push_back(g.add("GlobalAveragePool", {g.outputs[0]}));
  return make_plan(std::move(g), options);
}

TEST(Slices, ABatchGivesWhatItGivesAsAWhole) {
  Plan whole = plan_of(false), slices = plan_of(true);
  ASSERT_EQ(whole.slices, 1);
  ASSERT_GT(slices.slices, 1);
  EXPECT_LT(slices.arena_bytes, whole.arena_bytes);
  EXPECT_EQ(whole_shape(slices, slices.graph.inputs[0]), kPictures);
  EXPECT_EQ(declaration_of(slices)[declaration_of(slices).outputs[0]].shape, kPictures);
  std::vector<Tensor> a = results(std::move(whole)), b = results(std::move(slices));
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].shape(), b[i].shape());
    for (int64_t k = 0; k < a[i].size(); ++k) ASSERT_NEAR(a[i].get(k), b[i].get(k), 1e-5) << "output " << i;
  }
}

TEST(Slices, OutputsGoToTheCallersMemory) {
  std::vector<Tensor> expected = results(plan_of(true));
  Plan plan = plan_of(true);
  std::vector<Tensor> inputs = random_inputs(plan, 5);
  Session session(std::move(plan));
  Tensor memory(DType::kF32, kPictures);
  session.bind_output(0, memory);
  EXPECT_THROW(session.bind_output(0, Tensor(DType::kF32, {1, 16, 96, 96})), Error);
  const std::vector<Tensor>& y = session.run(inputs);
  EXPECT_EQ(y[0].raw(), memory.raw());
  EXPECT_EQ(std::memcmp(memory.raw(), expected[0].raw(), memory.bytes()), 0);
  session.bind_output(0, {});
  EXPECT_NE(session.run(inputs)[0].raw(), memory.raw());
  EXPECT_EQ(std::memcmp(session.run(inputs)[0].raw(), expected[0].raw(), memory.bytes()), 0);
  EXPECT_THROW(session.run({Tensor(DType::kF32, {1, 16, 96, 96})}), Error);
}

TEST(Slices, APackedFileKeepsThem) {
  std::string path = testing::TempDir() + "/slices_" + std::to_string(getpid()) + ".lathe";
  Plan plan = plan_of(true);
  int64_t slices = plan.slices;
  write_packed(plan, {.model = "net.onnx"}, "", path);
  Plan back = PackedFile::open(path).plan();
  EXPECT_EQ(back.slices, slices);
  std::vector<Tensor> a = results(std::move(plan)), b = results(std::move(back));
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(std::memcmp(a[i].raw(), b[i].raw(), a[i].bytes()), 0);
  unlink(path.c_str());
}

TEST(Slices, OneImageAndSmallBatchesStayWhole) {
  PlanOptions options;
  options.input_shapes = {{"x", {1, 16, 96, 96}}};
  EXPECT_EQ(make_plan(network(two_layers, kPictures), options).slices, 1);
  options.input_shapes = {{"x", {4, 16, 8, 8}}};
  EXPECT_EQ(make_plan(network(two_layers, {1, 16, 8, 8}), options).slices, 1);
}

}  // namespace
}  // namespace lathe
