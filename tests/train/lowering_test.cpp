// Every lowered operator against its reference kernel, and its gradients against finite differences in double precision.
#include <gtest/gtest.h>

#include <omp.h>

#include <cmath>
#include <random>

#include "core/text.h"
#include "graph/op.h"
#include "numbers_test.h"
#include "kernels/reference/reference.h"
#include "train/torch_network.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

struct Case {
  std::string op;
  std::vector<Tensor> inputs;       // undefined: omitted
  Attributes attributes = {};
  int constants = 0;                // so many of the last inputs are constants of the graph
  int outputs = 1;
  double scale = 1;                 // of the step of finite differences
  bool differentiable = true;
};

class Lowering : public NumbersTest {
 protected:
  Lowering() : NumbersTest(7) {}

  // No two alike, and none near another: maxima and kinks stay on their side.
  Tensor apart(const Shape& shape) {
    Tensor t(DType::kF32, shape);
    std::vector<float> values(static_cast<size_t>(t.size()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = (static_cast<float>(i) + 0.5f) / static_cast<float>(values.size()) * 4 - 2;
    std::shuffle(values.begin(), values.end(), random_);
    std::copy(values.begin(), values.end(), t.data<float>());
    return t;
  }
  static Tensor ints(const Ints& values) { return Tensor::of_i64(values); }

  static Graph graph_of(const Case& c) {
    Graph g;
    std::vector<ValueId> in;
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      const Tensor& t = c.inputs[i];
      const bool constant = i + static_cast<size_t>(c.constants) >= c.inputs.size() || (t.defined() && t.dtype() != DType::kF32);
      in.push_back(!t.defined() ? ValueId{} : constant ? g.add_constant(t, "c" + std::to_string(i)) : g.add_input("x" + std::to_string(i), t.dtype(), t.shape()));
    }
    Node n;
    const size_t colon = c.op.rfind("::");
    n.op = colon == c.op.npos ? &find_op(c.op) : &find_op(c.op.substr(colon + 2), c.op.substr(0, colon));
    n.name = "n";
    n.inputs = in;
    n.attributes = c.attributes;
    for (int i = 0; i < c.outputs; ++i) {
      Value y;
      y.name = "y" + std::to_string(i);
      n.outputs.push_back(g.add_value(std::move(y)));
    }
    const NodeId id = g.add_node(n);
    InferContext context(g, id);
    g[id].op->infer(context);
    g.outputs = g[id].outputs;
    return g;
  }

  void check(const Case& c) {
    SCOPED_TRACE(c.op);
    const Graph g = graph_of(c);
    std::vector<Tensor> given;
    for (ValueId v : g.inputs)
      for (size_t i = 0; i < c.inputs.size(); ++i)
        if (g[v].name == "x" + std::to_string(i)) given.push_back(c.inputs[i]);
    const std::vector<Tensor> expected = reference::run_graph(g, given);
    for (at::ScalarType type : {at::kFloat, at::kDouble}) {
      TorchNetwork net(g, {.type = type});
      Tensors inputs;
      for (const Tensor& t : given) inputs.push_back(to_torch(t).to(type).set_requires_grad(type == at::kDouble && c.differentiable));
      const Tensors y = net.forward(inputs, {});
      ASSERT_EQ(y.size(), expected.size());
      for (size_t o = 0; o < y.size(); ++o) {
        ASSERT_EQ(y[o].sizes().vec(), expected[o].shape());
        const Tensor got = from_torch(y[o]);
        for (int64_t i = 0; i < got.size(); ++i) {
          const double e = expected[o].get(i);
          if (std::isnan(e)) EXPECT_TRUE(std::isnan(got.get(i))) << "element " << i;
          else EXPECT_NEAR(got.get(i), e, 2e-5 * std::max(1.0, std::abs(e))) << "output " << o << " element " << i;
        }
      }
      if (type != at::kDouble || !c.differentiable) continue;
      // Σ r·y has gradients that finite differences must give too.
      Tensors weights;
      at::manual_seed(3);
      for (const at::Tensor& t : y) weights.push_back(at::randn(t.sizes(), at::kDouble));
      const auto total = [&] {
        const Tensors out = net.forward(inputs, {});
        at::Tensor sum = at::zeros({}, at::kDouble);
        for (size_t o = 0; o < out.size(); ++o) sum = sum + (out[o] * weights[o]).sum();
        return sum;
      };
      total().backward();
      Tensors leaves = inputs;
      for (const at::Tensor& t : net.trained()) leaves.push_back(t);
      for (size_t l = 0; l < leaves.size(); ++l) {
        at::Tensor x = leaves[l];
        const at::Tensor gradient = x.grad().defined() ? x.grad().contiguous() : at::zeros_like(x);
        const torch::NoGradGuard guard;
        auto* data = x.data_ptr<double>();
        const int64_t stride = std::max<int64_t>(x.numel() / 40, 1);
        for (int64_t i = 0; i < x.numel(); i += stride) {
          const double before = data[i], h = 1e-6 * c.scale;
          data[i] = before + h;
          const double up = total().item<double>();
          data[i] = before - h;
          const double down = total().item<double>();
          data[i] = before;
          const double expected_gradient = (up - down) / (2 * h), got = gradient.data_ptr<double>()[i];
          EXPECT_NEAR(got, expected_gradient, 1e-6 * std::max(1.0, std::abs(expected_gradient))) << "leaf " << l << " element " << i;
        }
      }
    }
  }
};

TEST_F(Lowering, Convolutions) {
  for (auto [axes, groups, stride, dilation] : {std::tuple{1, 1, 1, 1}, {1, 2, 2, 2}, {2, 1, 1, 1}, {2, 4, 2, 1}, {2, 2, 1, 2}, {3, 1, 2, 1}, {3, 2, 1, 1}})
    for (bool uneven : {false, true}) {
      Shape x{2, 4}, w{6 * groups / (groups == 4 ? 2 : 1) / groups * groups, 4 / groups};
      Ints kernel, pads, strides(axes, stride), dilations(axes, dilation);
      for (int i = 0; i < axes; ++i) {
        x.push_back(5 + i);
        w.push_back(2 + i % 2);
        kernel.push_back(w.back());
        pads.push_back(1);
      }
      for (int i = 0; i < axes; ++i) pads.push_back(uneven ? 2 : 1);
      check({"Conv", {numbers(x), numbers(w), numbers({w[0]})}, {{"kernel_shape", kernel}, {"strides", strides}, {"dilations", dilations}, {"pads", pads}, {"group", int64_t{groups}}}, 2});
      check({"Conv", {numbers(x), numbers(w)}, {{"kernel_shape", kernel}, {"strides", strides}, {"auto_pad", std::string(uneven ? "SAME_LOWER" : "SAME_UPPER")}, {"group", int64_t{groups}}}, 1});
      Shape t{4, 3};
      t.insert(t.end(), kernel.begin(), kernel.end());
      check({"ConvTranspose", {numbers(x), numbers(t), numbers({3 * groups})}, {{"kernel_shape", kernel}, {"strides", strides}, {"dilations", dilations}, {"group", int64_t{groups}},
             {"pads", uneven ? Ints(2 * axes, 0) : pads}}, 2});
    }
}

// In f32 their gradients come from kernels of our own: against libtorch's.
TEST_F(Lowering, DepthwiseGradients) {
  for (int threads : {1, 3})
    for (int64_t channels : {8, 24, 40, 72, 136})
      for (auto [kernel, stride, dilation] : {std::tuple{Ints{3, 3}, 1, 1}, {Ints{3, 3}, 2, 1}, {Ints{5, 2}, 1, 2}, {Ints{7, 7}, 2, 1}, {Ints{1, 3}, 3, 1}})
        for (const Ints& pads : {Ints{1, 1, 1, 1}, Ints{0, 2, 1, 0}, Ints{3, 3, 3, 3}}) {
          omp_set_num_threads(threads);
          Graph g;
          const ValueId x = g.add_input("x", DType::kF32, Shape{3, channels, 9, 11});
          const ValueId w = g.add_constant(numbers({channels, 1, kernel[0], kernel[1]}), "w"), b = g.add_constant(numbers({channels}), "b");
          g.outputs = {g.add("Conv", {x, w, b}, {{"kernel_shape", kernel}, {"strides", Ints(2, stride)}, {"dilations", Ints(2, dilation)}, {"pads", pads}, {"group", channels}})};
          TorchNetwork ours(g), exact(g, {.type = at::kDouble});
          Tensors gradients[2];
          at::manual_seed(1);
          const at::Tensor input = at::randn({3, channels, 9, 11}), r = at::randn(*g[g.outputs[0]].shape);
          for (TorchNetwork* net : {&ours, &exact}) {
            const at::ScalarType type = net->options().type;
            at::Tensor leaf = input.detach().to(type, false, true).set_requires_grad(true);
            (net->forward({leaf}, {})[0] * r.to(type)).sum().backward();
            Tensors& list = gradients[net == &exact];
            list.push_back(leaf.grad());
            for (const at::Tensor& p : net->trained()) list.push_back(p.grad());
          }
          for (size_t i = 0; i < gradients[0].size(); ++i)
            EXPECT_LE((gradients[0][i] - gradients[1][i]).abs().max().item<double>(), 2e-5 * std::max(1.0, gradients[1][i].abs().max().item<double>()))
                << channels << " channels, kernel " << kernel[0] << "x" << kernel[1] << ", stride " << stride << ", pads " << to_string(pads) << ", tensor " << i;
        }
  omp_set_num_threads(1);
}

TEST_F(Lowering, Pooling) {
  for (int axes : {1, 2, 3})
    for (int64_t ceil : {0, 1})
      for (int form = 0; form < 4; ++form) {
        Shape x{2, 3};
        for (int i = 0; i < axes; ++i) x.push_back(6 + i);
        Ints kernel(axes, 3), strides(axes, 2), pads(2 * axes, form == 0 ? 0 : 1);
        if (form == 2) pads[axes] = 2;
        if (form == 3) kernel.assign(axes, 2), pads.assign(2 * axes, 0);
        Attributes a{{"kernel_shape", kernel}, {"strides", strides}, {"pads", pads}, {"ceil_mode", ceil}};
        check({"MaxPool", {apart(x)}, a});
        for (int64_t count : {0, 1}) {
          a["count_include_pad"] = count;
          check({"AveragePool", {numbers(x)}, a});
        }
      }
  check({"GlobalAveragePool", {numbers({2, 3, 4, 5})}});
  check({"GlobalAveragePool", {numbers({2, 3, 4, 5, 2})}});
  check({"GlobalMaxPool", {apart({2, 3, 4, 5})}});
}

TEST_F(Lowering, Products) {
  check({"Gemm", {numbers({3, 5}), numbers({4, 5}), numbers({4})}, {{"transB", int64_t{1}}}, 2});
  check({"Gemm", {numbers({5, 3}), numbers({5, 4}), numbers({3, 1})}, {{"transA", int64_t{1}}, {"alpha", 0.5f}, {"beta", 2.0f}}, 2});
  check({"Gemm", {numbers({3, 5}), numbers({5, 4})}, {}, 1});
  check({"MatMul", {numbers({2, 3, 5}), numbers({5, 4})}, {}, 1});
  check({"MatMul", {numbers({2, 1, 3, 5}), numbers({4, 5, 2})}});
}

TEST_F(Lowering, Functions) {
  for (const char* op : {"Relu", "Sigmoid", "Tanh", "Exp", "Erf", "Abs", "Neg", "Sin", "Cos", "Mish", "Softplus", "LeakyRelu", "Elu", "HardSwish", "Identity"}) check({op, {apart({3, 18})}});
  for (const char* op : {"Log", "Sqrt", "Reciprocal"}) check({op, {numbers({3, 7}, 0.5, 2)}});
  for (const char* op : {"Floor", "Ceil", "Round", "Sign"}) check({.op = op, .inputs = {apart({3, 7})}, .differentiable = false});
  check({"HardSigmoid", {apart({3, 8})}, {{"alpha", 0.3f}, {"beta", 0.4f}}});
  check({"Swish", {numbers({3, 7})}, {{"alpha", 1.5f}}});
  check({"Gelu", {numbers({3, 7}, -3, 3)}});
  check({"Gelu", {numbers({3, 7}, -3, 3)}, {{"approximate", std::string("tanh")}}});
  check({"PRelu", {apart({2, 3, 5}), numbers({3, 1})}, {}, 1});
  check({"Clip", {apart({3, 18}), Tensor::scalar(-0.7f), Tensor::scalar(1.1f)}, {}, 2});
  check({"Clip", {apart({3, 18}), {}, Tensor::scalar(0.9f)}, {}, 1});
  for (const char* op : {"Add", "Sub", "Mul"}) {
    check({op, {numbers({2, 3, 5}), numbers({3, 1})}, {}, 1});
    check({op, {numbers({2, 1, 5}), numbers({3, 5})}});
  }
  check({"Div", {numbers({2, 3, 5}), numbers({3, 1}, 0.5, 2)}, {}, 1});
  check({"Pow", {numbers({2, 5}, 0.5, 2), Tensor::scalar(2)}, {}, 1});
  check({"Pow", {numbers({2, 5}, 0.5, 2), numbers({5}, 0.5, 2)}, {}, 1});
  for (const char* op : {"Max", "Min"}) check({op, {apart({2, 3, 5}), numbers({3, 5}), numbers({1})}});
  check({"Sum", {numbers({2, 3, 5}), numbers({3, 5}), numbers({1})}});
  for (const char* op : {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
    check({.op = op, .inputs = {Tensor::of_f32({4}, {1, 2, 3, 4}), Tensor::of_f32({4}, {2, 2, 1, 5})}, .differentiable = false});
  Tensor mask(DType::kBool, {3, 1});
  for (int i = 0; i < 3; ++i) mask.set_int(i, i % 2);
  check({"Where", {mask, numbers({3, 5}), numbers({5})}});
}

TEST_F(Lowering, NormsAndSums) {
  const Tensor positive = numbers({4}, 0.5, 2);
  for (const Shape& x : {Shape{3, 4, 5}, Shape{2, 4, 3, 5}, Shape{2, 4, 2, 3, 2}}) {
    check({"BatchNormalization", {numbers(x), numbers({4}), numbers({4}), numbers({4}), positive}, {{"epsilon", 1e-3f}}, 4});
    check({"InstanceNormalization", {numbers(x), numbers({4}), numbers({4})}, {{"epsilon", 1e-3f}}, 2});
    for (int64_t groups : {1, 2, 4}) check({"GroupNormalization", {numbers(x), numbers({4}), numbers({4})}, {{"num_groups", groups}, {"epsilon", 1e-3f}}, 2});
  }
  check({"LayerNormalization", {numbers({3, 4, 5}), numbers({5}), numbers({5})}, {{"epsilon", 1e-3f}}, 2});
  check({"LayerNormalization", {numbers({3, 4, 5}), numbers({4, 5})}, {{"axis", int64_t{1}}, {"epsilon", 1e-3f}}, 1});
  check({"RMSNormalization", {numbers({3, 4, 5}), numbers({5})}, {{"epsilon", 1e-3f}}, 1});
  check({"LRN", {numbers({2, 7, 3, 2})}, {{"size", int64_t{3}}, {"alpha", 0.5f}, {"beta", 0.75f}, {"bias", 1.5f}}});
  check({"LRN", {numbers({2, 7, 3, 2})}, {{"size", int64_t{4}}, {"alpha", 0.5f}}});
  for (int64_t axis : {-1, 1}) {
    check({"Softmax", {numbers({2, 5, 3})}, {{"axis", axis}}});
    check({"LogSoftmax", {numbers({2, 5, 3})}, {{"axis", axis}}});
  }
  for (const char* op : {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"})
    for (int64_t keep : {0, 1}) {
      check({op, {apart({2, 5, 3}), ints({0, -1})}, {{"keepdims", keep}}});
      check({op, {apart({2, 5, 3})}, {{"keepdims", keep}}});
    }
  check({"ReduceMean", {apart({2, 5, 3})}, {{"noop_with_empty_axes", int64_t{1}}}});
  for (const char* op : {"ArgMax", "ArgMin"})
    for (int64_t last : {0, 1})
      check({.op = op, .inputs = {Tensor::of_f32({2, 4}, {1, 3, 3, 2, 0, 0, -1, -1})}, .attributes = {{"axis", int64_t{1}}, {"select_last_index", last}, {"keepdims", last}}, .differentiable = false});
}

TEST_F(Lowering, Moves) {
  check({"Reshape", {numbers({2, 3, 4}), ints({0, -1, 2})}});
  check({"Flatten", {numbers({2, 3, 4})}, {{"axis", int64_t{2}}}});
  check({"Flatten", {numbers({2, 3, 4})}, {{"axis", int64_t{0}}}});
  check({"Transpose", {numbers({2, 3, 4})}, {{"perm", Ints{2, 0, 1}}}});
  check({"Transpose", {numbers({2, 3})}});
  check({"Concat", {numbers({2, 3}), numbers({2, 1}), numbers({2, 2})}, {{"axis", int64_t{-1}}}});
  check({"Split", {numbers({2, 7}), ints({3, 4})}, {{"axis", int64_t{1}}}, 1, 2});
  check({"Split", {numbers({2, 7})}, {{"axis", int64_t{1}}, {"num_outputs", int64_t{3}}}, 0, 3});
  check({"Slice", {numbers({5, 6}), ints({1, -4}), ints({4, 1000}), ints({0, 1}), ints({2, 1})}});
  check({"Slice", {numbers({5, 6}), ints({-1}), ints({-1000}), ints({1}), ints({-2})}});
  check({"Slice", {numbers({5, 6}), ints({1}), ints({3})}});
  check({"Gather", {numbers({4, 3}), ints({1, -1, 1})}, {{"axis", int64_t{0}}}});
  Tensor two(DType::kI64, {2, 2});
  for (int i = 0; i < 4; ++i) two.set_int(i, i % 3);
  check({"Gather", {numbers({2, 3, 2}), two}, {{"axis", int64_t{1}}}});
  check({"GatherElements", {numbers({3, 2}), two}, {{"axis", int64_t{0}}}});
  check({"Squeeze", {numbers({1, 3, 1, 2}), ints({-2, 0})}});
  check({"Squeeze", {numbers({1, 3, 1, 2})}});
  check({"Unsqueeze", {numbers({3, 2}), ints({-1, 1})}});
  check({"Expand", {numbers({3, 1}), ints({2, 1, 4})}});
  for (const char* mode : {"constant", "reflect", "edge"}) check({"Pad", {numbers({1, 2, 4, 5}), ints({0, 0, 1, 2, 0, 0, 2, 0}), Tensor::scalar(0.5f)}, {{"mode", std::string(mode)}}, 2});
  check({"Pad", {numbers({2, 5}), ints({1, 2}), {}, ints({1})}});
  for (const char* mode : {"DCR", "CRD"}) check({"DepthToSpace", {numbers({2, 8, 2, 3})}, {{"blocksize", int64_t{2}}, {"mode", std::string(mode)}}});
  check({"SpaceToDepth", {numbers({2, 2, 4, 6})}, {{"blocksize", int64_t{2}}}});
  check({"Tile", {numbers({2, 3}), ints({2, 1})}});
  for (const char* form : {"half_pixel", "pytorch_half_pixel", "align_corners"})
    check({"Resize", {numbers({1, 2, 3, 4}), {}, {}, ints({1, 2, 7, 9})}, {{"mode", std::string("linear")}, {"coordinate_transformation_mode", std::string(form)}}});
  check({"Resize", {numbers({1, 2, 3, 4}), {}, Tensor::of_f32({4}, {1, 1, 2, 2})}, {{"mode", std::string("nearest")}, {"coordinate_transformation_mode", std::string("asymmetric")}, {"nearest_mode", std::string("floor")}}, 1});
  check({"Resize", {numbers({1, 2, 3, 4}), {}, Tensor::of_f32({4}, {1, 1, 3, 2})}, {{"mode", std::string("nearest")}}, 1});
  check({.op = "Shape", .inputs = {numbers({2, 3, 4})}, .attributes = {{"start", int64_t{1}}}, .differentiable = false});
}

TEST(Patterns, StarsStandForAnything) {
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("stem.*", "stem.weight"));
  EXPECT_FALSE(matches("stem.*", "stages.0"));
  EXPECT_TRUE(matches("*.bias", "a.bias.b.bias"));
  EXPECT_TRUE(matches("a*b*c", "a.b.b.c"));
  EXPECT_FALSE(matches("a*b*c", "a.b.b"));
  EXPECT_FALSE(matches("", "a"));
}

}  // namespace
}  // namespace lathe
