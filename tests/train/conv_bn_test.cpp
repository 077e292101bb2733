// Convolutions with batch norms in their four modes: same values, and gradients as the paper's appendix derives them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "numbers_test.h"
#include "models/models.h"
#include "train/torch_network.h"
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

TEST(ConvBnModes, Names) {
  for (ConvBnMode m : {ConvBnMode::kTrain, ConvBnMode::kEval, ConvBnMode::kTune, ConvBnMode::kDeploy}) EXPECT_EQ(conv_bn_mode(name_of(m)), m);
  EXPECT_THROW(conv_bn_mode("tuned"), Error);
}

}  // namespace
}  // namespace lathe
