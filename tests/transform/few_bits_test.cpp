// Networks whose weights are stored in few bits: planned, they run on kernels that keep the few bits, and their answers
// are those of the network as it stands, in lathe and in ONNX Runtime.
#include <gtest/gtest.h>

#include <random>

#include "both_ways.h"
#include "kernels/reference/reference.h"
#include "onnxruntime.h"
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

}  // namespace
}  // namespace lathe
