// Weights stored in few bits: that the standard form says the same numbers, through a file and back, in the size that
// was promised, and that reading the form gives what was stored.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "formats/onnx.h"
#include "kernels/reference/reference.h"
#include "transform/passes.h"
#include "transform/quantize/weight_forms.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int64_t>;

Tensor random_codes(DType type, const Shape& shape, int64_t low, int64_t high, std::mt19937& random) {
  Tensor t(type, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1)));
  return t;
}

Tensor random_floats(const Shape& shape, std::mt19937& random) {
  Tensor t(DType::kF32, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, 0.01 + static_cast<double>(random() % 1000) / 1000);
  return t;
}

struct Stored {
  Graph g;
  ValueId weight;
};

// A graph that gives a constant of `shape` unchanged.
Stored holder(const Shape& shape) {
  Stored s;
  s.weight = s.g.add_constant(Tensor(DType::kF32, shape), "w");
  s.g.outputs = {s.g.add("Identity", {s.weight}, {}, "y")};
  return s;
}

void expect_same(const Tensor& found, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(found.shape(), expected.shape()) << what;
  for (int64_t i = 0; i < expected.size(); ++i) ASSERT_EQ(found.get(i), expected.get(i)) << what << ", element " << i;
}

// What the graph gives as it is, and after a way through a file; returns the file's bytes.
int64_t expect_gives(const Graph& g, const Tensor& expected, const std::string& what) {
  verify(g);
  expect_same(reference::run_graph(g, {})[0], expected, what);
  const fs::path path = fs::temp_directory_path() / ("lathe_weight_forms_" + std::to_string(::getpid()) + ".onnx");
  export_onnx(g, path);
  const Model back = import_onnx(path);
  const auto bytes = static_cast<int64_t>(fs::file_size(path));
  fs::remove(path);
  expect_same(reference::run_graph(back.graph, {})[0], expected, what + " from a file");
  Graph folded = back.graph;
  clean_up(folded);
  EXPECT_TRUE(folded[folded.outputs[0]].is_constant() || folded.order().size() == 1) << what << "\n" << print(folded);
  return bytes;
}

// The numbers that coded weights stand for, in rows.
Tensor numbers(const CodedWeights& w) {
  Tensor t(DType::kF32, w.codes.shape());
  const int64_t depth = w.codes.dim(1);
  for (int64_t i = 0; i < t.size(); ++i) {
    const int64_t code = w.codes.get_int(i), row = i / depth;
    if (w.codebook.defined()) {
      t.set(i, w.codebook.get((w.codebook.dim(0) == 1 ? 0 : row) * w.codebook.dim(1) + code));
    } else {
      const int64_t at = row * w.scales.dim(1) + i % depth / w.group;
      t.set(i, static_cast<double>(code - (w.zeros.defined() ? w.zeros.get_int(at) : 0)) * w.scales.get(at));
    }
  }
  return t;
}

void expect_read(const Graph& g, const Tensor& expected, const Ints& order, const std::string& what) {
  const ValueId value = g[g[g.outputs[0]].producer].inputs[0];
  EXPECT_TRUE(is_coded(g, value)) << what;
  auto w = coded_weights_of(g, value, order);
  ASSERT_TRUE(w) << what;
  const Tensor turned = transpose(expected, order);
  expect_same(numbers(*w), turned.reshaped({turned.dim(0), turned.size() / turned.dim(0)}), what + " as rows");
}

TEST(WeightForms, Codebooks) {
  std::mt19937 random(3);
  for (int bits = 1; bits <= 4; ++bits)
    for (const Shape& shape : {Shape{7, 5}, Shape{16, 33}, Shape{5, 3, 3, 2}, Shape{1, 1}})
      for (int axis = -1; axis < 2; ++axis) {
        Stored s = holder(shape);
        const int64_t entries = bits == 2 ? 3 : int64_t{1} << bits;
        const Tensor indices = random_codes(DType::kU8, shape, 0, entries - 1, random);
        const Tensor books = random_floats(axis < 0 ? Shape{entries} : Shape{shape[axis], entries}, random);
        store_as_codebook(s.g, s.weight, indices, books, bits, std::max(axis, 0));
        const int64_t inner = axis < 0 ? 1 : product(shape, static_cast<size_t>(axis) + 1, shape.size());
        Tensor expected(DType::kF32, shape);
        for (int64_t i = 0; i < expected.size(); ++i)
          expected.set(i, books.get((axis < 0 ? 0 : i / inner % shape[axis]) * entries + indices.get_int(i)));
        const std::string what = fmt::format("{} bits, shape {}, axis {}", bits, to_string(shape), axis);
        expect_gives(s.g, expected, what);
        Ints order{std::max(axis, 0)};
        for (int64_t i = 0; i < static_cast<int64_t>(shape.size()); ++i)
          if (i != order[0]) order.push_back(i);
        expect_read(s.g, expected, order, what);
      }
}

TEST(WeightForms, ACodebookOfAnotherAxisIsNotOfTheRows) {
  std::mt19937 random(4);
  Stored s = holder({4, 6});
  store_as_codebook(s.g, s.weight, random_codes(DType::kU8, {4, 6}, 0, 3, random), random_floats({4, 4}, random), 2, 0);
  const ValueId value = s.g[s.g[s.g.outputs[0]].producer].inputs[0];
  EXPECT_TRUE(coded_weights_of(s.g, value, {0, 1}));
  EXPECT_FALSE(coded_weights_of(s.g, value, {1, 0}));
}

TEST(WeightForms, Groups) {
  std::mt19937 random(5);
  for (DType type : {DType::kI4, DType::kU4, DType::kI8, DType::kU8})
    for (int64_t group : {0, 16, 10, 7})
      for (bool with_zeros : {false, true})
        for (int axis : {0, 1}) {
          const Shape shape{40, 30};
          Shape scale_shape = group ? shape : Shape{shape[axis]};
          if (group) scale_shape[axis] = (shape[axis] + group - 1) / group;
          const bool is_signed_type = is_signed(type);
          const int64_t most = (int64_t{1} << (bits_of(type) - (is_signed_type ? 1 : 0))) - 1, least = is_signed_type ? -most - 1 : 0;
          const Tensor codes = random_codes(type, shape, least, most, random), zeros = random_codes(type, scale_shape, least, most, random);
          const Tensor scales = random_floats(scale_shape, random);
          Stored s = holder(shape);
          store_as_groups(s.g, s.weight, codes, scales, with_zeros ? &zeros : nullptr, axis, group);
          Tensor expected(DType::kF32, shape);
          for (int64_t i = 0; i < expected.size(); ++i) {
            int64_t at[2] = {i / shape[1], i % shape[1]};
            if (group) at[axis] /= group;
            const int64_t k = group ? at[0] * scale_shape[1] + at[1] : at[axis];
            expected.set(i, static_cast<double>(codes.get_int(i) - (with_zeros ? zeros.get_int(k) : 0)) * scales.get(k));
          }
          const std::string what = fmt::format("{} in groups of {} along {}{}", name_of(type), group, axis, with_zeros ? " with zero points" : "");
          expect_gives(s.g, expected, what);
          // Groups along the rows of the product, or one scale a row.
          if (group) expect_read(s.g, expected, axis == 1 ? Ints{0, 1} : Ints{1, 0}, what);
          else expect_read(s.g, expected, axis == 0 ? Ints{0, 1} : Ints{1, 0}, what);
        }
}

TEST(WeightForms, Signs) {
  std::mt19937 random(6);
  for (int64_t count : {1, 6}) {
    Stored s = holder({6, 10, 3, 3});
    const Tensor signs = random_codes(DType::kU8, {6, 10, 3, 3}, 0, 1, random), alphas = random_floats({count}, random);
    store_as_signs(s.g, s.weight, signs, alphas, 0);
    Tensor expected(DType::kF32, signs.shape());
    for (int64_t i = 0; i < signs.size(); ++i) expected.set(i, (signs.get_int(i) ? 1 : -1) * alphas.get(count == 1 ? 0 : i / 90));
    expect_gives(s.g, expected, "signs");
    expect_read(s.g, expected, {0, 2, 3, 1}, "signs");
  }
}

TEST(WeightForms, FilesHoldTheFewBits) {
  std::mt19937 random(7);
  const Shape shape{256, 1024};
  const int64_t count = 256 * 1024;
  for (int bits = 1; bits <= 4; ++bits) {
    Stored s = holder(shape);
    const int64_t entries = int64_t{1} << bits;
    const Tensor indices = random_codes(DType::kU8, shape, 0, entries - 1, random), book = random_floats({entries}, random);
    store_as_codebook(s.g, s.weight, indices, book, bits, 0);
    Tensor expected(DType::kF32, shape);
    for (int64_t i = 0; i < count; ++i) expected.set(i, book.get(indices.get_int(i)));
    EXPECT_LT(expect_gives(s.g, expected, fmt::format("{} bits", bits)), count * bits / 8 + 4096);
  }
  Stored s = holder(shape);
  const Tensor codes = random_codes(DType::kI4, shape, -8, 7, random), scales = random_floats({256, 8}, random);
  store_as_groups(s.g, s.weight, codes, scales, nullptr, 1, 128);
  Tensor expected(DType::kF32, shape);
  for (int64_t i = 0; i < count; ++i) expected.set(i, static_cast<double>(codes.get_int(i)) * scales.get(i / 128));
  EXPECT_LT(expect_gives(s.g, expected, "i4"), count / 2 + 256 * 8 * 4 + 4096);
}

TEST(WeightForms, BrokenUnpackBitsIsRefused) {
  Graph g;
  const ValueId packed = g.add_constant(Tensor(DType::kU8, {3}));
  for (const Attributes& a : {Attributes{{"bits", int64_t{3}}, {"shape", Ints{8}}}, Attributes{{"bits", int64_t{4}}, {"shape", Ints{8}}},
                              Attributes{{"bits", int64_t{4}}, {"shape", Ints{-1}}}, Attributes{{"bits", int64_t{1}}, {"shape", Ints{}}}})
    EXPECT_THROW(g.add("ai.lathe::UnpackBits", {packed}, a), Error);
  EXPECT_NO_THROW(g.add("ai.lathe::UnpackBits", {packed}, {{"bits", int64_t{4}}, {"shape", Ints{5}}}));
}

}  // namespace
}  // namespace lathe
