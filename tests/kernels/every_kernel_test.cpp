// Every kernel that claims a node against the reference kernel: one tester an operator, over odd shapes, remainders,
// epilogues, batches and threads, for every instruction set that the machine has.
#include "kernel_tester.h"

namespace lathe {
namespace {

const char* const kActivations[] = {"", "Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Swish", "Gelu", "GeluTanh", "Mish", "Elu"};

Attributes epilogue(const std::string& activation, bool first, std::string_view prefix = "") {
  std::string p(prefix);
  Attributes a{{p + "activation", activation}, {"residual_first", int64_t{first}}};
  a[p + "alpha"] = activation == "Clip" ? -0.4f : activation == "Swish" ? 1.0f : 0.2f;
  a[p + "beta"] = activation == "Clip" ? 0.7f : 0.5f;
  return a;
}

struct Window {
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1, groups = 1;
};

Case conv(std::mt19937& random, DType type, int64_t n, int64_t h, int64_t w, int64_t channels, int64_t out, Window v, const char* activation,
          int residual, bool scale, bool f32_weights) {
  const int64_t reach = (v.kernel - 1) * v.dilation + 1, oh = (h + 2 * v.pad - reach) / v.stride + 1, ow = (w + 2 * v.pad - reach) / v.stride + 1;
  std::vector<Tensor> inputs{random_tensor(type, {n, h, w, channels}, random),
                             random_tensor(f32_weights ? DType::kF32 : type, {out, channels / v.groups, v.kernel, v.kernel}, random),
                             random_tensor(DType::kF32, {out}, random)};
  if (residual || scale) inputs.push_back(residual ? random_tensor(type, {n, oh, ow, out}, random) : Tensor());
  if (scale) inputs.push_back(random_tensor(type, {n, 1, 1, channels}, random, 0, 1));
  Attributes a = epilogue(activation, residual == 1);
  a["strides"] = Ints{v.stride, v.stride};
  a["pads"] = Ints{v.pad, v.pad, v.pad, v.pad};
  a["dilations"] = Ints{v.dilation, v.dilation};
  a["group"] = v.groups;
  return make_case("ai.lathe::Conv", inputs, {false, true, true, false, false}, a,
                   fmt::format("{} conv {}x{}x{}x{} to {}, window {}, stride {}, pad {}, dilation {}, groups {}, '{}', residual {}, scale {}", name_of(type), n, h,
                               w, channels, out, v.kernel, v.stride, v.pad, v.dilation, v.groups, activation, residual, scale));
}

TEST_P(EveryKernel, ConvolvesAnyShape) {
  const Window windows[] = {{}, {1, 2}, {3, 1, 1}, {3, 2, 1}, {3, 1, 0}, {5, 1, 2}, {3, 1, 2, 2}, {7, 2, 3}, {2, 2}, {4, 4}, {5, 2, 2}};
  const int64_t channels[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 31, 33, 40, 64};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Window& v : windows)
      for (int64_t in : channels) {
        int64_t out = channels[(turn * 5 + 3) % 14], h = 7 + turn % 9, w = 7 + turn % 11;
        omp_set_num_threads(1 + turn % 3);
        Case c = conv(random, type, 1 + turn % 2, h, w, in, out, v, kActivations[turn % 13], turn % 3, v.kernel == 1 && v.stride == 1 && turn % 4 == 0,
                      type == DType::kBF16 && v.kernel == 3 && v.stride == 1);
        check(c, tolerance(type));
        ++turn;
      }
}

TEST_P(EveryKernel, ConvolvesInGroups) {
  const Window windows[] = {{3, 1, 1}, {1}, {3, 2, 1}, {5, 1, 2}, {17, 1, 8}, {2, 2}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (Window v : windows)
      for (int64_t each : {2, 3, 4, 8, 17})
        for (int64_t out : {1, 4, 17, 33}) {
          v.groups = 2 + turn % 3;
          omp_set_num_threads(1 + turn % 3);
          Case c = conv(random, type, 1 + turn % 2, 7 + turn % 5, 7 + turn % 9, each * v.groups, out * v.groups, v, kActivations[turn % 13], turn % 3, false, false);
          check(c, tolerance(type));
          ++turn;
        }
}

// Two and four channels a group, whose last vector is whole or cut, with every epilogue.
TEST_P(EveryKernel, ConvolvesInSmallGroups) {
  const Window windows[] = {{3, 1, 1}, {1}, {3, 2, 1}, {5, 1, 2}, {3, 1, 2, 2}, {7, 3, 0}, {2, 1, 1}};
  int turn = 0;
  for (Window v : windows)
    for (int64_t each : {2, 4})
      for (int64_t groups : {2, 3, 4, 7, 8, 16, 19}) {
        v.groups = groups;
        omp_set_num_threads(1 + turn % 3);
        Case c = conv(random, DType::kF32, 1 + turn % 2, 7 + turn % 5, 7 + turn % 13, each * groups, each * groups, v, kActivations[turn % 13], turn % 3, false, false);
        check(c, tolerance(DType::kF32));
        ++turn;
      }
}

TEST_P(EveryKernel, ConvolvesPlanes) {
  const Window windows[] = {{3, 2, 1}, {3, 1, 1}, {7, 2, 3}, {4, 4}, {2, 1, 0}, {5, 3, 2}, {1, 1}};
  int turn = 0;
  for (DType to : {DType::kF32, DType::kBF16})
    for (const Window& v : windows)
      for (int64_t in : {1, 2, 3, 4})
        for (int64_t out : {1, 8, 16, 17, 32, 40, 71}) {
          const int64_t h = 7 + turn % 5, w = 7 + turn % 37;
          omp_set_num_threads(1 + turn % 3);
          Attributes a = epilogue(kActivations[turn % 13], false);
          a["strides"] = Ints{v.stride, v.stride};
          a["pads"] = Ints{v.pad, v.pad, v.pad, turn % 2 ? v.pad : v.pad + 1};
          if (turn % 5 == 4) std::get<Ints>(a["pads"])[turn % 2 ? 0 : 2] = -2;  // rows that are left out
          a["dilations"] = Ints{1, 1};
          a["output_type"] = static_cast<int64_t>(to);
          std::vector<Tensor> inputs{random_tensor(DType::kF32, {1 + turn % 2, in, h, w}, random), random_tensor(DType::kF32, {out, in, v.kernel, v.kernel}, random)};
          if (turn % 4) inputs.push_back(random_tensor(DType::kF32, {out}, random));
          Case c = make_case("ai.lathe::PlanarConv", inputs, {false, true, true}, a,
                             fmt::format("planes to {}: {}x{}x{} to {}, window {}, stride {}, pad {}, '{}'", name_of(to), in, h, w, out, v.kernel, v.stride, v.pad, kActivations[turn % 13]));
          check(c, tolerance(to));
          ++turn;
        }
}

TEST_P(EveryKernel, ConvolvesDepthwise) {
  const Window windows[] = {{3, 1, 1}, {3, 2, 1}, {5, 1, 2}, {5, 2, 2}, {7, 1, 3}, {3, 1, 0}, {3, 1, 2, 2}, {3, 3, 1}, {2, 1, 0}, {7, 2, 3}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (Window v : windows)
      for (int64_t channels : {1, 5, 8, 16, 17, 31, 33, 48, 100}) {
        v.groups = channels;
        omp_set_num_threads(1 + turn % 3);
        Case c = conv(random, type, 1 + turn % 2, 7 + turn % 8, 7 + turn % 13, channels, channels, v, kActivations[turn % 13], turn % 3, false, true);
        check(c, tolerance(type));
        ++turn;
      }
}

TEST_P(EveryKernel, ExpandsThenConvolvesDepthwise) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Window& v : {Window{3, 1, 1}, Window{3, 2, 1}, Window{5, 1, 2}, Window{5, 2, 2}, Window{7, 1, 3}})
      for (int64_t channels : {2, 6, 16, 24}) {
        const int64_t wide = channels * 3 + turn % 5, h = 9 + turn % 5, w = turn % 4 == 0 ? 130 : 8 + turn % 7;
        omp_set_num_threads(1 + turn % 3);
        Attributes a = epilogue(kActivations[turn % 13], true);
        a.merge(epilogue(kActivations[(turn * 3 + 2) % 13], true, "expand_"));
        a["strides"] = Ints{v.stride, v.stride};
        a["pads"] = Ints{v.pad, v.pad, v.pad, v.pad};
        Case c = make_case("ai.lathe::ExpandDepthwise",
                           {random_tensor(type, {1 + turn % 2, h, w, channels}, random), random_tensor(type, {wide, channels, 1, 1}, random),
                            random_tensor(DType::kF32, {wide}, random), random_tensor(DType::kF32, {wide, 1, v.kernel, v.kernel}, random),
                            random_tensor(DType::kF32, {wide}, random)},
                           {false, true, true, true, true}, a, fmt::format("{} expand {}x{}x{} to {}, window {}/{}", name_of(type), h, w, channels, wide, v.kernel, v.stride));
        check(c, tolerance(type));
        if (type == DType::kF32) {
          a["output_type"] = static_cast<int64_t>(DType::kBF16);
          Case narrowing = make_case("ai.lathe::ExpandDepthwise", c.inputs, {false, true, true, true, true}, a, c.text + " to bf16");
          check(narrowing, tolerance(DType::kBF16));
        }
        ++turn;
      }
}

// One precision is read and the other written; a residual is of the one written.
TEST_P(EveryKernel, ChangesPrecisionOnTheWay) {
  int turn = 0;
  for (DType from : {DType::kF32, DType::kBF16}) {
    const DType to = from == DType::kF32 ? DType::kBF16 : DType::kF32;
    auto check_as = [&](Case c, size_t residual) {
      Node n = c.graph[c.graph.order()[0]];
      n.attributes["output_type"] = static_cast<int64_t>(to);
      std::vector<Tensor> inputs = c.inputs;
      if (residual < inputs.size() && inputs[residual].defined()) inputs[residual] = cast(inputs[residual], to);
      std::vector<bool> constants(inputs.size(), true);
      constants[0] = false;
      if (residual < inputs.size()) constants[residual] = false;
      Case other = make_case("ai.lathe::" + n.op->name, inputs, constants, n.attributes, c.text + " to " + std::string(name_of(to)));
      ASSERT_EQ(other.graph[other.graph.outputs[0]].dtype, to);
      check(other, tolerance(DType::kBF16));
    };
    for (int64_t channels : {2, 7, 16, 17, 24, 33, 64})
      for (const Window& v : {Window{}, Window{1, 2}, Window{3, 1, 1}, Window{3, 2, 1}, Window{5, 1, 2}, Window{7, 1, 3}, Window{5, 2, 2}}) {
        omp_set_num_threads(1 + turn % 3);
        const int64_t h = 7 + turn % 8, w = 7 + turn % 13;
        check_as(conv(random, from, 1 + turn % 2, h, w, channels, 5 + turn % 40, v, kActivations[turn % 13], turn % 3, false, false), 3);
        Window depthwise = v;
        depthwise.groups = channels;
        if (from == DType::kF32) check_as(conv(random, from, 1, h, w, channels, channels, depthwise, kActivations[turn % 13], turn % 3, false, true), 3);
        std::vector<Tensor> inputs{random_tensor(from, {h, channels}, random), random_tensor(from, {channels, w * 3}, random), random_tensor(DType::kF32, {w * 3}, random)};
        if (turn % 3) inputs.push_back(random_tensor(from, {h, w * 3}, random));
        check_as(make_case("ai.lathe::MatMul", inputs, {false, true, true, false}, epilogue(kActivations[turn % 13], turn % 3 == 1), "matmul"), 3);
        ++turn;
      }
  }
}

// A type that no product writes is refused.
TEST(OutputType, IsF32OrBf16) {
  std::mt19937 random(1);
  Case c = conv(random, DType::kF32, 1, 4, 4, 4, 4, {}, "", 0, false, false);
  c.graph[c.graph.order()[0]].attributes["output_type"] = static_cast<int64_t>(DType::kI64);
  EXPECT_THROW(infer_shapes(c.graph), Error);
}

TEST_P(EveryKernel, MovesThreeChannelsBehind) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t h : {1, 2, 5, 17})
      for (int64_t w : {1, 3, 16, 31, 33}) {
        omp_set_num_threads(1 + turn % 3);
        Case c = make_case("Transpose", {random_tensor(type, {1 + turn % 3, 3, h, w}, random)}, {false}, {{"perm", Ints{0, 2, 3, 1}}},
                           fmt::format("{} transpose {}x{}", name_of(type), h, w));
        check(c, 0);
        ++turn;
      }
}

TEST_P(EveryKernel, MultipliesAnyShape) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t m : {1, 2, 3, 5, 11, 12, 13, 25, 40})
      for (int64_t k : {1, 2, 3, 16, 33, 130})
        for (int64_t n : {1, 7, 16, 17, 31, 32, 33, 65}) {
          omp_set_num_threads(1 + turn % 3);
          std::vector<Tensor> inputs{random_tensor(type, {m, k}, random), random_tensor(type, turn % 2 ? Shape{n, k} : Shape{k, n}, random), random_tensor(DType::kF32, {n}, random)};
          if (turn % 3) inputs.push_back(random_tensor(type, {m, n}, random));
          Attributes a = epilogue(kActivations[turn % 13], turn % 3 == 1);
          a["transposed"] = int64_t{turn % 2};
          Case c = make_case("ai.lathe::MatMul", inputs, {false, true, true, false}, a,
                             fmt::format("{} matmul {}x{}x{}{} '{}' residual {}", name_of(type), m, k, n, turn % 2 ? " transposed" : "", kActivations[turn % 13], turn % 3));
          check(c, tolerance(type));
          ++turn;
        }
}

// Beyond some depth a product is made in parts.
TEST_P(EveryKernel, MultipliesDeepMatrices) {
  int turn = 0;
  for (int64_t m : {49, 64})
    for (int64_t k : {1025, 1040, 2051})
      for (int64_t n : {16, 17, 65}) {
        omp_set_num_threads(1 + turn % 3);
        const char* activation = kActivations[turn % 4];
        std::vector<Tensor> inputs{random_tensor(DType::kF32, {m, k}, random), random_tensor(DType::kF32, {k, n}, random), random_tensor(DType::kF32, {n}, random)};
        if (turn % 3) inputs.push_back(random_tensor(DType::kF32, {m, n}, random));
        Case c = make_case("ai.lathe::MatMul", inputs, {false, true, true, false}, epilogue(activation, turn % 3 == 1),
                           fmt::format("matmul {}x{}x{} '{}' residual {}", m, k, n, activation, turn % 3));
        check(c, 2e-4);
        ++turn;
      }
}

TEST_P(EveryKernel, PoolsAveragesAndScales) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Window& v : {Window{3, 2, 1}, Window{2, 2}, Window{3, 1, 1}, Window{5, 3, 2}})
      for (int64_t channels : {1, 7, 16, 17, 33, 64}) {
        const int64_t h = 7 + turn % 5, w = 6 + turn % 7;
        omp_set_num_threads(1 + turn % 3);
        Tensor x = random_tensor(type, {1 + turn % 2, h, w, channels}, random);
        if (turn % 4 == 0) x.set(turn % x.size(), NAN);
        Attributes a{{"kind", std::string(turn % 2 ? "Max" : "Average")}, {"kernel_shape", Ints{v.kernel, v.kernel}}, {"strides", Ints{v.stride, v.stride}},
                     {"pads", Ints{v.pad, v.pad, v.pad, v.pad}}, {"count_include_pad", int64_t{turn / 2 % 2}}};
        std::string text = fmt::format("{} pool {}x{}x{}, window {}/{} pad {}, {}", name_of(type), h, w, channels, v.kernel, v.stride, v.pad, turn % 2 ? "max" : "average");
        Case pool = make_case("ai.lathe::Pool", {x}, {false}, a, text);
        check(pool, tolerance(type));
        Case mean = make_case("ReduceMean", {x, Tensor::of_i64({1, 2})}, {false, true}, {{"keepdims", int64_t{1}}}, "mean of " + text);
        check(mean, tolerance(type));
        Case affine = make_case("ai.lathe::Affine", {x, random_tensor(DType::kF32, {channels}, random), random_tensor(DType::kF32, {channels}, random)},
                                {false, true, true}, epilogue(kActivations[turn % 13], false), "affine of " + text);
        check(affine, tolerance(type));
        ++turn;
      }
}

// Not a number stays one and infinities stay where the operators put them, in every lane.
TEST_P(EveryKernel, ActivatesExtremes) {
  const float extremes[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1e30f, -1e30f, 90, -90, 1e-40f, 5, -5, 20, -20, 0.5f, -0.5f, 3};
  for (const char* activation : kActivations) {
    Tensor x(DType::kF32, {17, 1});
    for (int64_t i = 0; i < 17; ++i) x.set(i, extremes[i]);
    Tensor w = Tensor::of_f32({1, 17}, std::vector<float>(17, 1));
    for (int64_t row = 0; row < 17; ++row) {
      // Infinite Gelu, Mish and Swish are left out below: ∞·0 is what the formula gives, and its limit what kernels may.
      bool open = x.get(row) == -INFINITY && (activation == std::string("Gelu") || activation == std::string("GeluTanh") ||
                                              activation == std::string("Mish") || activation == std::string("Swish") || activation == std::string("HardSwish"));
      if (open) continue;
      Case c = make_case("ai.lathe::MatMul", {Tensor::of_f32({1, 1}, {static_cast<float>(x.get(row))}), w}, {false, true}, epilogue(activation, false),
                         fmt::format("'{}' of {}", activation, x.get(row)));
      check(c, 2e-5, 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, EveryKernel, ::testing::ValuesIn(available_isas()), [](const auto& info) { return info.param; });

TEST(Isa, UnknownOnesAreRefused) { EXPECT_THROW(force_isa("vax"), Error); }

}  // namespace
}  // namespace lathe
