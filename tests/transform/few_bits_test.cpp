// Networks whose weights are stored in few bits: planned, they run on kernels that keep the few bits, and their answers
// are those of the network as it stands, in lathe and in ONNX Runtime.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "both_ways.h"
#include "kernels/reference/reference.h"
#include "onnxruntime.h"
#include "planner/packed.h"
#include "transform/quantize/weight_forms.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
using testing::weights;

// Stores weights of any shape, with `axis` for the rows of the product and `along` for its groups.
enum class Form { kGroups4, kGroups4Zeros, kGroups8, kChannels4, kCodebook4, kCodebook3, kCodebooks4, kTernary, kSigns };
const Form kForms[] = {Form::kGroups4,    Form::kGroups4Zeros, Form::kGroups8, Form::kChannels4, Form::kCodebook4,
                       Form::kCodebook3, Form::kCodebooks4,   Form::kTernary, Form::kSigns};

Tensor codes_of(DType type, const Shape& shape, int64_t low, int64_t high, std::mt19937& random) {
  Tensor t(type, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1)));
  return t;
}
Tensor numbers(const Shape& shape, std::mt19937& random, float low, float high) {
  Tensor t(DType::kF32, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, low + (high - low) * static_cast<float>(random() % 10000) / 10000);
  return t;
}

void store(Graph& g, ValueId weight, Form form, int axis, int along, std::mt19937& random) {
  const Shape s = *g[weight].shape;
  const int64_t rows = s[axis], group = 32;
  Shape grouped = s;
  grouped[along] = (s[along] + group - 1) / group;
  auto books = [&](int64_t entries) { return numbers({rows, entries}, random, -0.5f, 0.5f); };
  switch (form) {
    case Form::kGroups4: return store_as_groups(g, weight, codes_of(DType::kI4, s, -8, 7, random), numbers(grouped, random, 0.01f, 0.1f), nullptr, along, group);
    case Form::kGroups4Zeros: {
      const Tensor zeros = codes_of(DType::kU4, grouped, 0, 15, random);
      return store_as_groups(g, weight, codes_of(DType::kU4, s, 0, 15, random), numbers(grouped, random, 0.01f, 0.1f), &zeros, along, group);
    }
    case Form::kGroups8: return store_as_groups(g, weight, codes_of(DType::kI8, s, -128, 127, random), numbers(grouped, random, 0.001f, 0.01f), nullptr, along, group);
    case Form::kChannels4: return store_as_groups(g, weight, codes_of(DType::kI4, s, -8, 7, random), numbers({rows}, random, 0.01f, 0.1f), nullptr, axis, 0);
    case Form::kCodebook4: return store_as_codebook(g, weight, codes_of(DType::kU8, s, 0, 15, random), numbers({16}, random, -0.5f, 0.5f), 4, 0);
    case Form::kCodebook3: return store_as_codebook(g, weight, codes_of(DType::kU8, s, 0, 7, random), books(8), 3, axis);
    case Form::kCodebooks4: return store_as_codebook(g, weight, codes_of(DType::kU8, s, 0, 15, random), books(16), 4, axis);
    case Form::kTernary: return store_as_codebook(g, weight, codes_of(DType::kU8, s, 0, 2, random), books(3), 2, axis);
    case Form::kSigns: return store_as_signs(g, weight, codes_of(DType::kU8, s, 0, 1, random), numbers({rows}, random, 0.01f, 0.1f), axis);
  }
}

Graph matmul_graph(int64_t m, int64_t k, int64_t n, Form form, std::mt19937& random, bool gemm = false) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{m, k}), w = weights(g, gemm ? Shape{n, k} : Shape{k, n}, 1);
  g[w].name = "w";
  if (gemm) g.outputs = {g.add("Relu", {g.add("Gemm", {x, w, weights(g, {n}, 2)}, {{"transB", int64_t{1}}})})};
  else g.outputs = {g.add("Relu", {g.add("Add", {g.add("MatMul", {x, w}), weights(g, {n}, 2)})})};
  g[g.outputs[0]].name = "y";
  store(g, w, form, gemm ? 0 : 1, gemm ? 1 : 0, random);
  return g;
}

Graph conv_graph(int64_t size, int64_t c, int64_t out, int64_t k, Form form, std::mt19937& random, bool binary_input = false) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, c, size, size});
  const ValueId w = weights(g, {out, c, k, k}, 1);
  g[w].name = "w";
  if (binary_input) {
    auto scalar = [&](float v) { return g.add_constant(Tensor::scalar(v)); };
    x = g.add("Where", {g.add("GreaterOrEqual", {x, scalar(0)}), scalar(1), scalar(-1)});
  }
  const ValueId y = g.add("Conv", {x, w, weights(g, {out}, 2)}, {{"pads", Ints{k / 2, k / 2, k / 2, k / 2}}});
  g.outputs = {g.add("Relu", {y})};
  g[g.outputs[0]].name = "y";
  store(g, w, form, 0, 1, random);
  return g;
}

void expect_close(const Tensor& found, const Tensor& expected, double tolerance, const std::string& text) {
  ASSERT_EQ(found.shape(), expected.shape()) << text;
  double largest = 1e-6;
  for (int64_t i = 0; i < expected.size(); ++i) largest = std::max(largest, std::abs(expected.get(i)));
  for (int64_t i = 0; i < expected.size(); ++i) ASSERT_LE(std::abs(found.get(i) - expected.get(i)), tolerance * largest) << text << ", element " << i;
}

TEST(FewBits, OnnxRuntimeRunsTheFiles) {
  if (!testing::have_onnxruntime()) GTEST_SKIP() << "ONNX Runtime is not here: npm ci in benchmarks/peers";
  std::mt19937 random(11);
  for (Form form : kForms) {
    for (const Graph& g : {matmul_graph(3, 64, 40, form, random), conv_graph(6, 32, 24, 3, form, random, form == Form::kSigns)}) {
      const std::vector<Tensor> inputs = random_inputs(g, 5);
      expect_close(testing::run_onnxruntime(g, inputs), reference::run_graph(g, inputs)[0], 2e-5, fmt::format("form {}", static_cast<int>(form)));
    }
  }
}

// The kernels of a plan, views aside.
std::vector<std::string> kernels_of(const Plan& plan) {
  std::vector<std::string> names;
  for (const Step& s : plan.steps)
    if (!s.view) names.push_back(s.kernel_name);
  return names;
}

// Planned, and the reference kernels node by node.
void expect_planned(const Graph& g, const std::string& text, const std::string& kernel) {
  Plan plan = make_plan(g);
  const std::vector<std::string> names = kernels_of(plan);
  EXPECT_NE(std::find(names.begin(), names.end(), kernel), names.end()) << text << "\n" << print_plan(plan);
  testing::compare(g, text);
  const std::vector<Tensor> inputs = random_inputs(g, 9);
  expect_close(Session(std::move(plan)).run(inputs)[0], reference::run_graph(g, inputs)[0], 5e-6, text);
}

TEST(FewBits, ProductsKeepTheirCodes) {
  std::mt19937 random(12);
  for (Form form : kForms)
    for (bool gemm : {false, true})
      for (auto [m, k, n] : {std::tuple{1, 256, 40}, {5, 64, 65}, {1, 100, 7}})
        expect_planned(matmul_graph(m, k, n, form, random, gemm), fmt::format("form {} {}x{}x{}{}", static_cast<int>(form), m, k, n, gemm ? " Gemm" : ""), "coded.matmul");
}

TEST(FewBits, TheWholeProductIsOneStep) {
  std::mt19937 random(13);
  for (Form form : kForms) {
    const Plan plan = make_plan(matmul_graph(1, 128, 48, form, random));
    EXPECT_EQ(kernels_of(plan), std::vector<std::string>{"coded.matmul"}) << print_plan(plan);
  }
}

TEST(FewBits, ConvolutionsKeepTheirCodes) {
  std::mt19937 random(14);
  for (Form form : kForms) {
    if (form == Form::kGroups8) continue;
    expect_planned(conv_graph(3, 64, 24, 3, form, random), fmt::format("3×3, form {}", static_cast<int>(form)), "coded.conv");
    // Of many pixels the weights are decoded once, and the codes are what a file keeps.
    expect_planned(conv_graph(7, 64, 24, 3, form, random), fmt::format("3×3, form {}", static_cast<int>(form)), "coded.conv.decoded");
    expect_planned(conv_graph(6, 32, 10, 1, form, random), fmt::format("1×1, form {}", static_cast<int>(form)), "coded.matmul");
  }
}

TEST(FewBits, WhatNoKernelTakesIsDecodedOnce) {
  std::mt19937 random(15);
  const std::string text = "8 bits and many rows";
  const Graph g = conv_graph(9, 64, 24, 3, Form::kGroups8, random);
  testing::compare(g, text);
  for (const std::string& name : kernels_of(make_plan(g))) EXPECT_FALSE(name.starts_with("coded")) << name;
  Graph groups;  // of a convolution
  ValueId x = groups.add_input("x", DType::kF32, Shape{1, 16, 6, 6}), w = weights(groups, {16, 4, 3, 3}, 1);
  groups.outputs = {groups.add("Conv", {x, w}, {{"group", int64_t{4}}})};
  store(groups, w, Form::kTernary, 0, 1, random);
  testing::compare(groups, "groups");
}

TEST(FewBits, SignsBySigns) {
  std::mt19937 random(16);
  for (auto [size, c, out, k] : {std::tuple{9, 64, 40, 3}, {6, 33, 16, 1}, {5, 3, 7, 5}}) {
    const Graph g = conv_graph(size, c, out, k, Form::kSigns, random, true);
    const Plan plan = make_plan(g);
    const std::vector<std::string> names = kernels_of(plan);
    EXPECT_EQ(std::count(names.begin(), names.end(), "binary.conv"), 1) << print_plan(plan);
    testing::compare(g, fmt::format("{}x{}x{} → {}", size, size, c, out));
  }
}

// As a network of Rastegari et al. 2016 has it: factors of the channels after a convolution of weights ±1, a factor for
// each pixel, one convolution after the other.
TEST(FewBits, ANetworkOfSigns) {
  std::mt19937 random(17);
  Graph g;
  auto scalar = [&](float v) { return g.add_constant(Tensor::scalar(v)); };
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 32, 10, 10});
  std::vector<ValueId> stored;
  for (int i = 0; i < 2; ++i) {
    const ValueId w = weights(g, {32, 32, 3, 3}, 1), signs = g.add("Where", {g.add("GreaterOrEqual", {x, scalar(0)}), scalar(1), scalar(-1)});
    stored.push_back(w);
    ValueId y = g.add("Mul", {g.add("Conv", {signs, w}, {{"pads", Ints{1, 1, 1, 1}}}), weights(g, {1, 32, 1, 1}, 2)});
    const ValueId k = g.add("ReduceMean", {g.add("Abs", {x}), g.add_constant(Tensor::of_i64({1}))}, {{"keepdims", int64_t{1}}});
    y = g.add("Mul", {y, k});
    x = i == 0 ? g.add("Relu", {y}) : g.add("Add", {y, x});
  }
  g.outputs = {x};
  for (ValueId w : stored) store_as_signs(g, w, codes_of(DType::kU8, {32, 32, 3, 3}, 0, 1, random), Tensor::scalar(1), 0);
  const Plan plan = make_plan(g);
  const std::vector<std::string> names = kernels_of(plan);
  EXPECT_EQ(std::count(names.begin(), names.end(), "binary.conv"), 2) << print_plan(plan);
  EXPECT_LE(testing::compare(g, "a network of signs"), 2);
}

TEST(FewBits, BatchNormsGoIntoTheNumbers) {
  std::mt19937 random(19);
  for (Form form : {Form::kGroups4, Form::kTernary, Form::kSigns})
    for (bool bias : {false, true}) {
      Graph g;
      auto list = [&](float low, float high) { return g.add_constant(numbers({24}, random, low, high)); };
      const ValueId x = g.add_input("x", DType::kF32, Shape{1, 32, 7, 7}), w = weights(g, {24, 32, 3, 3}, 1);
      std::vector<ValueId> inputs{x, w};
      if (bias) inputs.push_back(list(-1, 1));
      const ValueId y = g.add("BatchNormalization", {g.add("Conv", inputs, {{"pads", Ints{1, 1, 1, 1}}}), list(0.5f, 2), list(-1, 1), list(-1, 1), list(0.1f, 2)});
      g.outputs = {g.add("Relu", {y})};
      store(g, w, form, 0, 1, random);
      testing::compare(g, fmt::format("form {}", static_cast<int>(form)));
      const Plan plan = make_plan(g);
      for (const Step& s : plan.steps) EXPECT_NE(plan.graph[s.node].op->name, "Affine");
    }
}

TEST(FewBits, FilesOfPlansHoldTheFewBits) {
  std::mt19937 random(18);
  const std::filesystem::path path = std::filesystem::temp_directory_path() / ("lathe_few_bits_" + std::to_string(::getpid()) + ".lathe");
  const std::tuple<Form, int> forms[] = {{Form::kGroups4, 4}, {Form::kCodebooks4, 4}, {Form::kTernary, 2}, {Form::kSigns, 1}};
  for (auto [form, bits] : forms) {
    const int64_t k = 1024, n = 256;
    const Graph g = matmul_graph(1, k, n, form, random);
    const std::vector<Tensor> inputs = random_inputs(g, 5);
    const Plan plan = make_plan(g);
    write_packed(plan, {.model = "net.onnx"}, "", path.string());
    const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path));
    EXPECT_LT(bytes, k * n * bits / 8 + n * 32 * 4 + 16384) << static_cast<int>(form);
    Session from_file(PackedFile::open(path.string()).plan());
    expect_close(from_file.run(inputs)[0], Session(make_plan(g)).run(inputs)[0], 0, fmt::format("form {} from a file", static_cast<int>(form)));
    std::filesystem::remove(path);
  }
  for (bool signs : {true, false}) {
    const Graph g = conv_graph(9, 128, 64, 3, signs ? Form::kSigns : Form::kGroups4Zeros, random, signs);
    const std::vector<Tensor> inputs = random_inputs(g, 5);
    write_packed(make_plan(g), {.model = "net.onnx"}, "", path.string());
    const int64_t weights = 9 * 128 * 64;
    EXPECT_LT(static_cast<int64_t>(std::filesystem::file_size(path)), signs ? weights / 8 + 16384 : weights / 2 + weights / 32 * 5 + 16384);
    expect_close(Session(PackedFile::open(path.string()).plan()).run(inputs)[0], Session(make_plan(g)).run(inputs)[0], 0, "a convolution from a file");
    std::filesystem::remove(path);
  }
}

}  // namespace
}  // namespace lathe
