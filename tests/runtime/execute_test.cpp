// Whole networks: the planned, fused, vectorized execution against the reference kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "graph/op.h"
#include "runtime/load.h"
#include "runtime/verify.h"
#include "transform/passes.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int64_t>;

// Largest difference over the reference's range or largest magnitude, over all outputs: two elements may be nearly equal.
double relative_difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].shape(), b[i].shape());
    double low = 1e300, high = -1e300, difference = 0, scale = 1e-3;
    for (int64_t k = 0; k < a[i].size(); ++k) {
      scale = std::max(scale, std::fabs(b[i].get(k)));
      low = std::min(low, b[i].get(k));
      high = std::max(high, b[i].get(k));
      difference = std::max(difference, std::fabs(a[i].get(k) - b[i].get(k)));
    }
    worst = std::max(worst, difference / std::max(high - low, scale));
  }
  return worst;
}

double compare_with_reference(const Graph& graph, uint64_t seed = 7) {
  PlanOptions fast, slow;
  fast.input_shapes = slow.input_shapes = default_input_shapes(graph);
  slow.reference = true;
  slow.fuse = false;
  Session quick(make_plan(graph, fast)), plain(make_plan(graph, slow));
  std::vector<Tensor> inputs = random_inputs(quick.plan(), seed);
  double first = relative_difference(quick.run(inputs), plain.run(inputs));
  return std::max(first, relative_difference(quick.run(inputs), plain.run(inputs)));  // and again: state must not leak
}

ValueId weights(Graph& g, const Shape& shape, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, shape, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return g.add_constant(t);
}

struct ConvCase {
  int64_t channels, outputs, group, size, kernel, stride, pad, dilation;
};

// Every remainder around the vector width and the tile, borders wider than the image, strides, dilation.
TEST(Execute, ConvolutionsOfOddShapes) {
  std::vector<ConvCase> cases = {
      {1, 1, 1, 1, 1, 1, 0, 1}, {3, 8, 1, 17, 3, 2, 1, 1}, {16, 16, 16, 14, 3, 1, 1, 1}, {17, 17, 17, 13, 3, 2, 1, 1},
      {33, 33, 33, 7, 5, 1, 2, 1}, {15, 15, 15, 11, 5, 2, 2, 1}, {32, 32, 32, 9, 7, 1, 3, 1}, {5, 5, 5, 3, 7, 1, 3, 1},
      {24, 24, 24, 15, 3, 1, 2, 2}, {8, 16, 2, 10, 3, 1, 1, 1}, {31, 7, 1, 5, 1, 1, 0, 1}, {64, 64, 64, 2, 3, 1, 1, 1},
      {4, 8, 4, 9, 3, 1, 1, 1}, {16, 16, 16, 28, 3, 1, 0, 1}, {6, 6, 6, 8, 3, 3, 1, 1}};
  uint64_t seed = 1;
  for (const ConvCase& c : cases) {
    for (const char* act : {"", "Relu", "HardSwish", "Sigmoid", "Swish", "Gelu", "Mish", "Tanh", "Elu"}) {
      Graph g;
      ValueId x = g.add_input("x", DType::kF32, Shape{2, c.channels, c.size, c.size});
      Attributes a{{"strides", Ints{c.stride, c.stride}}, {"pads", Ints(4, c.pad)}, {"dilations", Ints{c.dilation, c.dilation}}, {"group", c.group}};
      ValueId y = g.add("Conv", {x, weights(g, {c.outputs, c.channels / c.group, c.kernel, c.kernel}, ++seed), weights(g, {c.outputs}, ++seed)}, a);
      if (*act) y = g.add(act, {y});
      g.outputs = {y};
      EXPECT_LT(compare_with_reference(g, seed), 2e-5) << c.channels << "→" << c.outputs << " k" << c.kernel << " s" << c.stride << " " << act;
    }
  }
}

TEST(Execute, ResidualsInBothOrders) {
  for (bool before : {true, false}) {
    for (int64_t channels : {16, 19}) {
      Graph g;
      ValueId x = g.add_input("x", DType::kF32, Shape{1, channels, 9, 9});
      ValueId r = g.add("Relu", {x});
      ValueId y = g.add("Conv", {r, weights(g, {channels, 1, 3, 3}, 5)}, {{"pads", Ints(4, 1)}, {"group", channels}});
      y = before ? g.add("Relu", {g.add("Add", {y, r})}) : g.add("Add", {g.add("Relu", {y}), r});
      ValueId z = g.add("Conv", {y, weights(g, {channels, channels, 1, 1}, 6)});
      z = before ? g.add("Relu", {g.add("Add", {y, z})}) : g.add("Add", {g.add("Relu", {z}), y});
      g.outputs = {z, r};
      EXPECT_LT(compare_with_reference(g), 2e-5) << before << channels;
    }
  }
}

TEST(Execute, PoolingConcatSplitAndFlatten) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 6, 13, 11});
  ValueId y = g.add("Conv", {x, weights(g, {10, 6, 3, 3}, 3)}, {{"pads", Ints(4, 1)}});
  ValueId a = g.add("MaxPool", {y}, {{"kernel_shape", Ints{3, 3}}, {"strides", Ints{2, 2}}, {"ceil_mode", int64_t{1}}});
  ValueId b = g.add("AveragePool", {y}, {{"kernel_shape", Ints{3, 2}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 0, 1, 1}}});
  ValueId c = g.add("Concat", {g.add("GlobalAveragePool", {y}), g.add("GlobalAveragePool", {a}), g.add("GlobalAveragePool", {b})}, {{"axis", int64_t{1}}});
  ValueId f = g.add("Flatten", {c});
  ValueId z = g.add("Gemm", {f, weights(g, {7, 30}, 4), weights(g, {7}, 5)}, {{"transB", int64_t{1}}});
  g.outputs = {z, g.add("Softmax", {z})};
  EXPECT_LT(compare_with_reference(g), 2e-5);
}

TEST(Execute, BatchNormAndGatesFold) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 8, 10, 10});
  ValueId y = g.add("Conv", {x, weights(g, {12, 8, 3, 3}, 3)}, {{"pads", Ints(4, 1)}});
  y = g.add("BatchNormalization", {y, weights(g, {12}, 1), weights(g, {12}, 2), weights(g, {12}, 3), g.add_constant(random_tensor(DType::kF32, {12}, 9))});
  y = g.add("Mul", {y, g.add("Sigmoid", {y})});
  ValueId s = g.add("GlobalAveragePool", {y});
  s = g.add("Sigmoid", {g.add("Conv", {s, weights(g, {12, 12, 1, 1}, 8)})});
  y = g.add("Mul", {y, s});
  g.outputs = {y};
  EXPECT_LT(compare_with_reference(g), 2e-5);
  Graph clean = g;
  clean_up(clean);
  for (NodeId id : clean.order()) EXPECT_NE(clean[id].op->name, "BatchNormalization");
}

// Exporters' spellings of attention, four- and three-dimensional, with and without a mask.
TEST(Execute, AttentionIsRecognizedAndAgrees) {
  for (int rank : {4, 3})
    for (bool masked : {false, true})
      for (int64_t tokens : {1, 7, 64, 67}) {
        Graph g;
        int64_t width = tokens == 7 ? 20 : 32;
        Shape s = rank == 4 ? Shape{2, 3, tokens, width} : Shape{6, tokens, width};
        ValueId q = g.add_input("q", DType::kF32, s), k = g.add_input("k", DType::kF32, s), v = g.add_input("v", DType::kF32, s);
        ValueId kt = g.add("Transpose", {k}, {{"perm", rank == 4 ? Ints{0, 1, 3, 2} : Ints{0, 2, 1}}});
        ValueId scores = g.add("Div", {g.add("MatMul", {q, kt}), g.add_constant(Tensor::scalar(5.0f))});
        if (masked) scores = g.add("Add", {scores, weights(g, {tokens, tokens}, 2)});
        g.outputs = {g.add("MatMul", {g.add("Softmax", {scores}), v})};
        EXPECT_LT(compare_with_reference(g), 2e-5) << rank << masked << tokens;
        Graph known = g;
        recognize(known);
        int found = 0;
        for (NodeId id : known.order()) found += known[id].op->name == "Attention";
        EXPECT_EQ(found, 1);
      }
}

// DenseNet's order (norm, activation, convolution) and ConvNeXt's (channels-last norms, layer scale, residual).
TEST(Execute, PreActivationAndLayerScale) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 12, 12});
  ValueId y = g.add("Conv", {x, weights(g, {18, 3, 3, 3}, 3)}, {{"pads", Ints(4, 1)}, {"strides", Ints{2, 2}}});
  ValueId z = g.add("Concat", {y, g.add("Relu", {y})}, {{"axis", int64_t{1}}});
  z = g.add("BatchNormalization", {z, weights(g, {36}, 1), weights(g, {36}, 2), weights(g, {36}, 3), g.add_constant(random_tensor(DType::kF32, {36}, 9))});
  z = g.add("Conv", {g.add("Relu", {z}), weights(g, {18, 36, 1, 1}, 4)});
  ValueId t = g.add("Transpose", {z}, {{"perm", Ints{0, 2, 3, 1}}});
  t = g.add("LayerNormalization", {t, weights(g, {18}, 5), weights(g, {18}, 6)});
  t = g.add("Add", {g.add("MatMul", {t, weights(g, {18, 18}, 7)}), weights(g, {18}, 8)});
  t = g.add("Transpose", {t}, {{"perm", Ints{0, 3, 1, 2}}});
  t = g.add("Mul", {weights(g, {18, 1, 1}, 9), t});
  g.outputs = {g.add("Add", {t, z})};
  EXPECT_LT(compare_with_reference(g), 2e-5);
  Plan plan = make_plan(g);
  int transposes = 0;
  for (const Step& s : plan.steps) {
    EXPECT_NE(s.kernel_name, "reference");
    transposes += plan.graph[s.node].op->name == "Transpose";
  }
  EXPECT_EQ(transposes, 1);  // the output, which is wanted channels-first; the first convolution reads planes
}

// A segmentation head: transposed convolutions with batch norms, resizes with an empty input, the place of the best class.
TEST(Execute, HeadsOfMaps) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{2, 3, 12, 12});
  ValueId y = g.add("Conv", {x, weights(g, {8, 3, 3, 3}, 3)}, {{"pads", Ints(4, 1)}, {"strides", Ints{2, 2}}});
  y = g.add("ConvTranspose", {y, weights(g, {8, 6, 3, 3}, 4), weights(g, {6}, 5)},
            {{"strides", Ints{2, 2}}, {"auto_pad", std::string("SAME_UPPER")}});
  y = g.add("BatchNormalization", {y, weights(g, {6}, 1), weights(g, {6}, 2), weights(g, {6}, 3), g.add_constant(random_tensor(DType::kF32, {6}, 9))});
  y = g.add("Relu", {y});
  y = g.add("ConvTranspose", {y, weights(g, {6, 5, 2, 2}, 6)}, {{"strides", Ints{2, 2}}});
  ValueId none = g.add_constant(Tensor(DType::kF32, {0}));
  y = g.add("Resize", {y, none, g.add_constant(Tensor::of_f32({4}, {1, 1, 2, 2}))}, {{"mode", std::string("nearest")}});
  y = g.add("Resize", {y, none, none, g.add_constant(Tensor::of_i64({2, 5, 33, 40}))}, {{"mode", std::string("linear")}});
  g.outputs = {y, g.add("Pad", {y, g.add_constant(Tensor::of_i64({0, 0, 1, 1, 0, 0, 1, 1}))}, {{"mode", std::string("reflect")}}),
               g.add("ArgMax", {y}, {{"axis", int64_t{1}}, {"keepdims", int64_t{0}}})};
  EXPECT_LT(compare_with_reference(g), 2e-5);
  Plan plan = make_plan(g);
  for (const Step& s : plan.steps) {
    EXPECT_NE(s.kernel_name, "reference") << plan.graph[s.node].op->name;
    EXPECT_NE(plan.graph[s.node].op->name, "BatchNormalization");
    EXPECT_NE(plan.graph[s.node].op->name, "Relu");
  }
}

// Every other channel, as a gather from a transposed split.
TEST(Execute, ChannelsByParity) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{2, 6, 5, 4});
  ValueId y = g.add("Relu", {g.add("Conv", {x, weights(g, {8, 6, 1, 1}, 3)})});
  ValueId t = g.add("Transpose", {g.add("Reshape", {y, g.add_constant(Tensor::of_i64({8, 2, 20}))})}, {{"perm", Ints{1, 0, 2}}});
  t = g.add("Reshape", {t, g.add_constant(Tensor::of_i64({2, -1, 4, 5, 4}))});
  for (int64_t i : {0, 1}) {
    Tensor index(DType::kI64, {});
    index.set_int(0, i);
    ValueId part = g.add("Gather", {t, g.add_constant(index)}, {{"axis", int64_t{0}}});
    g.outputs.push_back(g.add("GlobalAveragePool", {g.add("Conv", {part, weights(g, {3, 4, 1, 1}, 4)})}));
  }
  EXPECT_LT(compare_with_reference(g), 2e-5);
  for (const Step& s : make_plan(g).steps) EXPECT_NE(s.kernel_name, "gather");
}

// bf16 keeps 8 bits: a chain of three products stays within a few of its roundings of the f32 answer.
TEST(Execute, HalfPrecisionStaysClose) {
  for (int64_t channels : {16, 21}) {
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 15, 15});
    ValueId y = g.add("Relu", {g.add("Conv", {x, weights(g, {channels, 3, 3, 3}, 3), weights(g, {channels}, 4)}, {{"pads", Ints(4, 1)}})});
    ValueId z = g.add("HardSwish", {g.add("Conv", {y, weights(g, {channels, 1, 3, 3}, 5)}, {{"pads", Ints(4, 1)}, {"group", channels}})});
    z = g.add("Add", {g.add("Conv", {z, weights(g, {channels, channels, 1, 1}, 6)}), y});
    z = g.add("Concat", {z, y}, {{"axis", int64_t{1}}});
    z = g.add("Gemm", {g.add("Flatten", {g.add("GlobalAveragePool", {z})}), weights(g, {9, 2 * channels}, 7)}, {{"transB", int64_t{1}}});
    g.outputs = {z};
    PlanOptions half, plain;
    half.bf16 = true;
    plain.reference = true;
    plain.fuse = false;
    Session a(make_plan(g, half)), b(make_plan(g, plain));
    auto inputs = random_inputs(g, 3);
    EXPECT_LT(relative_difference(a.run(inputs), b.run(inputs)), 0.02) << channels;
    EXPECT_EQ(a.run(inputs)[0].dtype(), DType::kF32);
    int halves = 0;
    for (const Step& s : a.plan().steps) halves += a.plan().graph[a.plan().graph[s.node].outputs[0]].dtype == DType::kBF16;
    EXPECT_GE(halves, 4);
    for (const Step& s : a.plan().steps) EXPECT_NE(s.kernel_name, "reference") << a.plan().graph[s.node].op->name;
  }
}

TEST(Execute, ChecksInputShapes) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{2, 3});
  g.outputs = {g.add("Relu", {x})};
  Session s(make_plan(g));
  EXPECT_THROW(s.run({Tensor(DType::kF32, {3, 2})}), Error);
  EXPECT_THROW(s.run({}), Error);
  EXPECT_THROW(s.run({Tensor(DType::kI64, {2, 3})}), Error);
}

// The plan's buffers that live together must not overlap.
TEST(Plan, BuffersAliveTogetherAreApart) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<Buffer> buffers(1 + random() % 40);
    int64_t bound = 0;
    std::vector<int64_t> alive(64, 0);
    for (Buffer& b : buffers) {
      b.bytes = 1 + random() % 5000;
      b.first_step = static_cast<int>(random() % 50);
      b.last_step = b.first_step + static_cast<int>(random() % 10);
      for (int s = b.first_step; s <= b.last_step; ++s) bound = std::max(bound, alive[s] += b.bytes);
    }
    int64_t arena = place_buffers(buffers);
    EXPECT_GE(arena, bound);
    for (size_t i = 0; i < buffers.size(); ++i)
      for (size_t j = 0; j < i; ++j) {
        const Buffer &a = buffers[i], &b = buffers[j];
        bool together = a.first_step <= b.last_step && b.first_step <= a.last_step;
        bool apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
        EXPECT_TRUE(!together || apart);
      }
  }
}

TEST(Models, SharedModelsAgreeWithTheReference) {
  fs::path folder = fs::path(LATHE_ASSETS) / "models";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared assets";
  for (const char* name : {"mlperf_tiny_ic", "mlperf_tiny_kws", "mlperf_tiny_vww", "mlperf_tiny_ad", "resnet20_cifar10"}) {
    Model m = import_onnx(folder / (std::string(name) + ".onnx"));
    EXPECT_LT(compare_with_reference(m.graph), 1e-4) << name;
  }
}

TEST(Models, OnnxNodeTestsPass) {
  fs::path folder = fs::path(LATHE_ASSETS) / "onnx-node-tests";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared assets";
  int passed = 0;
  for (const auto& test : find_onnx_tests(folder)) {
    VerifyResult r = verify_onnx_test(test);
    bool random = test.filename().string().find("bernoulli") != std::string::npos;  // no two generators agree
    if (random) continue;
    EXPECT_NE(r.status, VerifyResult::kFailed) << test << ": " << r.message;
    passed += r.status == VerifyResult::kPassed;
  }
  EXPECT_GE(passed, 690);
}

}  // namespace
}  // namespace lathe
