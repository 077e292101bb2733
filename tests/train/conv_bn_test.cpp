// Convolutions with batch norms in their four modes: same values, and gradients as the paper's appendix derives them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "core/parallel.h"
#include "numbers_test.h"
#include "models/models.h"
#include "through.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

struct Block {
  std::string op;  // Conv, ConvTranspose, Gemm
  int axes;
  int64_t groups, in, out;
  bool bias;
  double least_variance, most_variance;
};

class ConvBnTest : public NumbersTest {
 protected:
  ConvBnTest() : NumbersTest(5) {}
  // Equal in their logarithm between the two.
  Tensor variances(int64_t count, double low, double high) {
    Tensor t = numbers({count}, std::log(low), std::log(high));
    for (int64_t i = 0; i < count; ++i) t.data<float>()[i] = std::exp(t.data<float>()[i]);
    return t;
  }

  Graph graph_of(const Block& b) {
    Graph g;
    Shape x{3, b.in}, w{b.out, b.in / b.groups};
    Ints kernel, ones(b.axes, 1), pads(2 * b.axes, 1);
    for (int i = 0; i < b.axes; ++i) {
      x.push_back(4 + i);
      w.push_back(3 - i % 2);
      kernel.push_back(w.back());
    }
    if (b.op == "ConvTranspose") w[0] = b.in, w[1] = b.out / b.groups;
    const ValueId in = g.add_input("x", DType::kF32, x);
    Attributes a;
    if (b.op != "Gemm") a = {{"kernel_shape", kernel}, {"strides", ones}, {"dilations", ones}, {"pads", pads}, {"group", b.groups}};
    else a["transB"] = int64_t{1};
    std::vector<ValueId> inputs{in, g.add_constant(numbers(w), "weight")};
    if (b.bias) inputs.push_back(g.add_constant(numbers({b.out}), "bias"));
    const ValueId y = g.add(b.op, inputs, a);
    g.outputs = {g.add("BatchNormalization", {y, g.add_constant(numbers({b.out}, -2, 2), "gamma"), g.add_constant(numbers({b.out}), "beta"), g.add_constant(numbers({b.out}), "mean"),
                                              g.add_constant(variances(b.out, b.least_variance, b.most_variance), "variance")}, {{"epsilon", 1e-5f}})};
    verify(g);
    return g;
  }
  // Output, the gradient of the input, then those of the parameters.
  static Tensors all_of(TorchNetwork& net, const at::Tensor& x) {
    at::Tensor leaf = x.detach().clone().set_requires_grad(true);
    const at::Tensor y = net.forward({leaf}, {.training = true, .generator = {}})[0];
    at::manual_seed(11);
    (y * at::randn(y.sizes(), at::kDouble)).sum().backward();
    Tensors list{y.detach(), leaf.grad()};
    for (const at::Tensor& t : net.trained()) list.push_back(t.grad());
    return list;
  }
};

const Block kBlocks[] = {{"Conv", 1, 1, 4, 6, true, 0.1, 10}, {"Conv", 2, 1, 4, 6, false, 1e-6, 1e4}, {"Conv", 2, 2, 4, 6, true, 1e-6, 1e4}, {"Conv", 2, 6, 6, 6, false, 1e-3, 1e2},
                         {"Conv", 3, 1, 2, 4, true, 1e-6, 1e4}, {"Conv", 3, 2, 4, 2, false, 0.1, 10}, {"ConvTranspose", 1, 1, 4, 6, false, 0.1, 10}, {"ConvTranspose", 2, 2, 4, 6, true, 1e-6, 1e4},
                         {"ConvTranspose", 2, 1, 3, 5, false, 1e-3, 1e2}, {"Gemm", 0, 1, 7, 5, true, 1e-6, 1e4}, {"Gemm", 0, 1, 7, 5, false, 0.1, 10}};

TEST_F(ConvBnTest, TuneHasTheValuesAndGradientsOfEval) {
  for (const Block& b : kBlocks) {
    SCOPED_TRACE(fmt::format("{} over {} axes, {} groups", b.op, b.axes, b.groups));
    const Graph g = graph_of(b);
    TorchNetwork eval(g, {.type = at::kDouble, .conv_bn = ConvBnMode::kEval}), tune(g, {.type = at::kDouble, .conv_bn = ConvBnMode::kTune});
    ASSERT_EQ(tune.conv_bn().size(), 1u);
    const at::Tensor x = at::randn(*g[g.inputs[0]].shape, at::kDouble);
    const Tensors a = all_of(eval, x), c = all_of(tune, x);
    ASSERT_EQ(a.size(), c.size());
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_TRUE(a[i].defined() && c[i].defined()) << i;
      EXPECT_LE((a[i] - c[i]).abs().max().item<double>(), 1e-10 * std::max(1.0, a[i].abs().max().item<double>())) << "tensor " << i;
    }
  }
}

TEST_F(ConvBnTest, GradientsAreThoseOfFiniteDifferences) {
  for (const Block& b : kBlocks)
    for (ConvBnMode mode : {ConvBnMode::kEval, ConvBnMode::kTune}) {
      Block mild = b;
      mild.least_variance = 0.5, mild.most_variance = 2;
      const Graph g = graph_of(mild);
      TorchNetwork net(g, {.type = at::kDouble, .conv_bn = mode});
      const at::Tensor x = at::randn(*g[g.inputs[0]].shape, at::kDouble);
      all_of(net, x);
      at::manual_seed(11);
      const at::Tensor r = at::randn(net.forward({x}, {})[0].sizes(), at::kDouble);
      for (const at::Tensor& p : net.trained()) {
        const at::Tensor gradient = p.grad().contiguous();
        const torch::NoGradGuard guard;
        auto* data = p.data_ptr<double>();
        for (int64_t i = 0; i < p.numel(); i += std::max<int64_t>(p.numel() / 10, 1)) {
          const double before = data[i], h = 1e-6;
          data[i] = before + h;
          const double up = (net.forward({x}, {})[0] * r).sum().item<double>();
          data[i] = before - h;
          const double down = (net.forward({x}, {})[0] * r).sum().item<double>();
          data[i] = before;
          const double expected = (up - down) / (2 * h);
          EXPECT_NEAR(gradient.data_ptr<double>()[i], expected, 1e-6 * std::max(1.0, std::abs(expected)));
        }
      }
    }
}

TEST_F(ConvBnTest, DeployIsTheSameFunctionFolded) {
  for (const Block& b : kBlocks) {
    if (b.op == "ConvTranspose" && b.groups > 1) continue;  // the engine leaves those
    SCOPED_TRACE(fmt::format("{} over {} axes, {} groups", b.op, b.axes, b.groups));
    Graph g = graph_of(b);
    TorchNetwork eval(g, {.conv_bn = ConvBnMode::kEval});
    fold_batch_norm(g);
    remove_dead(g);
    for (NodeId n : g.order()) EXPECT_NE(g[n].op->name, "BatchNormalization");
    TorchNetwork deploy(g, {.conv_bn = ConvBnMode::kDeploy});
    const at::Tensor x = at::randn(*g[g.inputs[0]].shape);
    const at::Tensor a = eval.forward({x}, {})[0], c = deploy.forward({x}, {})[0];
    EXPECT_LE((a - c).abs().max().item<double>(), 1e-5 * std::max(1.0, a.abs().max().item<double>()));
  }
}

TEST_F(ConvBnTest, TrainTakesTheBatchsStatisticsAndMovesTheRunningOnes) {
  const Graph g = graph_of(kBlocks[1]);
  TorchNetwork net(g, {.type = at::kDouble});
  const at::Tensor x = at::randn(*g[g.inputs[0]].shape, at::kDouble), before = net.statistics()[0].tensor.clone();
  const at::Tensor y = net.forward({x}, {.training = true, .batch_statistics = true, .generator = {}})[0];
  EXPECT_GT((net.statistics()[0].tensor - before).abs().max().item<double>(), 1e-3);
  // γ·normalized + β: a mean of β in each channel.
  EXPECT_LE((y.mean({0, 2, 3}) - net.parameters()[2].tensor).abs().max().item<double>(), 1e-9);
  TorchNetwork tune(g, {.type = at::kDouble, .conv_bn = ConvBnMode::kTune});
  const at::Tensor kept = tune.statistics()[0].tensor.clone();
  tune.forward({x}, {.training = true, .batch_statistics = true, .generator = {}});
  EXPECT_TRUE(at::equal(tune.statistics()[0].tensor, kept));
}

TEST_F(ConvBnTest, APairNeedsAConvolutionThatNobodyElseReads) {
  std::vector<std::string> left;
  const Graph resnet = build_model("resnet18", {.classes = 10, .input = {3, 32, 32}, .width = 0.125});
  EXPECT_EQ(find_conv_bn(resnet, &left).size(), 20u);
  EXPECT_TRUE(left.empty());
  Graph g = graph_of(kBlocks[0]);
  const ValueId conv = g[g[g.outputs[0]].producer].inputs[0];
  g.outputs.push_back(g.add("Relu", {conv}));
  EXPECT_TRUE(find_conv_bn(g, &left).empty());
  EXPECT_THAT(left, ::testing::ElementsAre(g[g[conv].producer].name));
  g = graph_of(kBlocks[0]);
  g.outputs.push_back(g[g[g.outputs[0]].producer].inputs[0]);
  EXPECT_TRUE(find_conv_bn(g).empty());
}

TEST_F(ConvBnTest, SharedWeightsAndNormsAreMatchedForEachCall) {
  Graph g = graph_of(kBlocks[1]);
  const Node norm = g[g[g.outputs[0]].producer];
  const Node conv = g[g[norm.inputs[0]].producer];
  const ValueId again = g.add("Conv", {g.inputs[0], conv.inputs[1]}, conv.attributes);
  g.outputs.push_back(g.add("BatchNormalization", {again, norm.inputs[1], norm.inputs[2], norm.inputs[3], norm.inputs[4]}, norm.attributes));
  EXPECT_EQ(find_conv_bn(g).size(), 2u);
  TorchNetwork eval(g, {.type = at::kDouble, .conv_bn = ConvBnMode::kEval}), tune(g, {.type = at::kDouble, .conv_bn = ConvBnMode::kTune});
  const at::Tensor x = at::randn(*g[g.inputs[0]].shape, at::kDouble);
  EXPECT_LE((eval.forward({x}, {})[1] - tune.forward({x}, {})[1]).abs().max().item<double>(), 1e-10);
}

TEST_F(ConvBnTest, BrokenNormsAreNamed) {
  Graph g = graph_of(kBlocks[1]);
  const Node norm = g[g[g.outputs[0]].producer];
  g[norm.inputs[4]].constant.data<float>()[2] = -1;
  try {
    find_conv_bn(g);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModel);
    EXPECT_THAT(e.what(), ::testing::AllOf(::testing::HasSubstr(norm.name), ::testing::HasSubstr("variance of -1")));
  }
}

// Tune in f32 takes kernels of its own: against f64, which takes libtorch's.
struct Picture {
  Shape x;  // [images, channels, …]
  int64_t out, groups, kernel, stride, dilation;
  Ints pads;
};
const Picture kPictures[] = {{{2, 3, 9, 11}, 16, 1, 3, 2, 1, {1, 1, 1, 1}},   {{1, 16, 7, 7}, 24, 1, 1, 1, 1, {0, 0, 0, 0}},  {{3, 24, 8, 5}, 8, 1, 1, 2, 1, {0, 0, 0, 0}},
                             {{2, 16, 10, 6}, 32, 2, 3, 1, 1, {1, 1, 1, 1}},  {{2, 24, 9, 9}, 24, 24, 3, 1, 1, {1, 1, 1, 1}}, {{1, 40, 8, 8}, 40, 40, 5, 2, 1, {2, 2, 2, 2}},
                             {{2, 8, 12, 12}, 8, 1, 3, 1, 2, {2, 2, 2, 2}},   {{2, 32, 6, 7}, 64, 1, 3, 2, 1, {0, 0, 1, 1}},  {{1, 7, 6, 6}, 48, 1, 3, 1, 1, {1, 1, 1, 1}},
                             {{2, 16, 4, 5, 6}, 16, 1, 3, 1, 1, {1, 1, 1, 1, 1, 1}}, {{1, 4, 3, 6, 7}, 8, 1, 3, 2, 1, {1, 1, 1, 1, 1, 1}}, {{2, 16, 1, 1}, 72, 1, 1, 1, 1, {0, 0, 0, 0}},
                             {{2, 6, 5, 5}, 10, 1, 3, 1, 1, {1, 1, 1, 1}},    {{2, 5, 30}, 8, 1, 3, 1, 1, {1, 1}}};

class TunedConvolutionTest : public ConvBnTest {
 protected:
  // kRelu and kClip alone make limits.
  enum class Act { kNothing, kRelu, kClip };
  Graph network(const Picture& p, Act act, bool bias) {
    const auto axes = p.x.size() - 2;
    Graph g;
    Shape w{p.out, p.x[1] / p.groups};
    w.insert(w.end(), axes, p.kernel);
    const ValueId in = g.add_input("x", DType::kF32, p.x);
    std::vector<ValueId> inputs{in, g.add_constant(numbers(w), "weight")};
    if (bias) inputs.push_back(g.add_constant(numbers({p.out}), "bias"));
    ValueId y = g.add("Conv", inputs, {{"kernel_shape", Ints(axes, p.kernel)}, {"strides", Ints(axes, p.stride)}, {"dilations", Ints(axes, p.dilation)}, {"pads", p.pads}, {"group", p.groups}});
    y = g.add("BatchNormalization", {y, g.add_constant(numbers({p.out}, -2, 2), "gamma"), g.add_constant(numbers({p.out}), "beta"), g.add_constant(numbers({p.out}), "mean"),
                                     g.add_constant(variances(p.out, 0.3, 3), "variance")}, {{"epsilon", 1e-3f}});
    if (act == Act::kRelu) y = g.add("Relu", {y});
    if (act == Act::kClip) y = g.add("Clip", {y, g.add_constant(Tensor::scalar(-0.2f)), g.add_constant(Tensor::scalar(0.5f))});
    g.outputs = {y};
    verify(g);
    return g;
  }
  // The output, the gradient of the input, those of the parameters.
  static Tensors pass(const Graph& g, at::ScalarType type, const at::Tensor& x, const at::Tensor& gradient, const std::vector<std::string>& freeze = {}) {
    const Through t = through(g, {x}, gradient, TorchNetworkOptions{.type = type, .freeze = freeze, .conv_bn = ConvBnMode::kTune});
    Tensors list{t.y.detach(), t.inputs[0]};
    list.insert(list.end(), t.parameters.begin(), t.parameters.end());
    return list;
  }
};

TEST_F(TunedConvolutionTest, F32EqualsF64) {
  at::manual_seed(2);
  for (const Picture& p : kPictures)
    for (const Act act : {Act::kNothing, Act::kRelu, Act::kClip})
      for (const bool bias : {false, true})
        for (const int threads : {1, 2}) {
          SCOPED_TRACE(fmt::format("x [{}], {} channels, {} groups, kernel {}, stride {}, activation {}, bias {}, {} threads", fmt::join(p.x, ", "), p.out, p.groups, p.kernel, p.stride,
                                   static_cast<int>(act), bias, threads));
          const ThreadScope scope(threads);
          const Graph g = network(p, act, bias);
          const at::Tensor x = at::randn(p.x), gradient = at::randn(*g[g.outputs[0]].shape);
          const Tensors own = pass(g, at::kFloat, x, gradient), wide = pass(g, at::kDouble, x, gradient);
          ASSERT_EQ(own.size(), wide.size());
          for (size_t i = 0; i < own.size(); ++i) {
            ASSERT_TRUE(own[i].defined()) << i;
            expect_near(own[i], wide[i], 2e-5, "tensor " + std::to_string(i));
          }
        }
}

TEST_F(TunedConvolutionTest, FrozenParametersGetNoGradientAndChangeNoOthers) {
  at::manual_seed(3);
  for (const Picture& p : {kPictures[0], kPictures[4]}) {
    const Graph g = network(p, Act::kRelu, true);
    const at::Tensor x = at::randn(p.x), gradient = at::randn(*g[g.outputs[0]].shape);
    const Tensors all = pass(g, at::kFloat, x, gradient);
    for (const char* name : {"weight", "bias", "gamma", "beta"}) {
      const Tensors rest = pass(g, at::kFloat, x, gradient, {name});
      ASSERT_EQ(rest.size(), all.size());
      int missing = 0;
      for (size_t i = 0; i < all.size(); ++i) {
        if (rest[i].defined()) EXPECT_TRUE(at::equal(rest[i], all[i])) << name << ", tensor " << i;
        else ++missing;
      }
      EXPECT_EQ(missing, 1) << name;
    }
  }
}

TEST_F(TunedConvolutionTest, WhatIsNoNumberGoesThroughLimits) {
  for (const Act act : {Act::kRelu, Act::kClip})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Graph g = network(kPictures[1], act, false);
      const Node conv = g[g.order().front()];
      ASSERT_EQ(conv.op->name, "Conv");
      for (int64_t i = 0; i < 16; ++i) g[conv.inputs[1]].constant.data<float>()[i] = i % 2 ? bad : -bad;
      TorchNetwork net(g, {.conv_bn = ConvBnMode::kTune});
      EXPECT_TRUE(at::isnan(net.forward({at::rand(kPictures[1].x) + 1}, {})[0].select(1, 0)).all().item<bool>());
    }
}

TEST_F(TunedConvolutionTest, NoPicturesAreNone) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const Graph g = network(kPictures[0], Act::kRelu, false);
    TorchNetwork net(g, {.type = type, .conv_bn = ConvBnMode::kTune});
    const at::Tensor y = net.forward({at::zeros({0, 3, 9, 11}, type)}, {})[0];
    EXPECT_EQ(y.sizes(), at::IntArrayRef({0, 16, 5, 6}));
  }
}

TEST(ConvBnModes, Names) {
  for (ConvBnMode m : {ConvBnMode::kTrain, ConvBnMode::kEval, ConvBnMode::kTune, ConvBnMode::kDeploy}) EXPECT_EQ(conv_bn_mode(name_of(m)), m);
  EXPECT_THROW(conv_bn_mode("tuned"), Error);
}

}  // namespace
}  // namespace lathe
