// Kernels of products whose weights are stored in few bits against the reference, over odd shapes and on every
// instruction set.
#include "kernel_tester.h"
#include "kernels/cpu/bit_counts.h"

namespace lathe {
namespace {

Tensor codes(DType type, const Shape& shape, int64_t low, int64_t high, std::mt19937& random) {
  Tensor t(type, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1)));
  return t;
}

// What stands for the numbers of weights [rows, depth]: inputs 1, 4 and 5, and the block size.
struct Weights {
  Tensor codes, numbers, zeros;
  int64_t block = 0;
};

Weights by_codebook(int64_t rows, int64_t depth, int64_t entries, bool one, std::mt19937& random) {
  return {codes(DType::kU8, {rows, depth}, 0, entries - 1, random), random_tensor(DType::kF32, {one ? 1 : rows, entries}, random), {}, 0};
}
Weights by_groups(int64_t rows, int64_t depth, DType type, int64_t block, bool zeros, std::mt19937& random) {
  const int64_t most = (int64_t{1} << (bits_of(type) - (is_signed(type) ? 1 : 0))) - 1, least = is_signed(type) ? -most - 1 : 0;
  const Shape groups{rows, (depth + block - 1) / block};
  return {codes(type, {rows, depth}, least, most, random), random_tensor(DType::kF32, groups, random, 0.01f, 0.2f), zeros ? codes(type, groups, least, most, random) : Tensor(), block};
}

class CodedKernel : public EveryKernel {
 protected:
  void matmul(const Shape& x, const Weights& w, bool bias, bool residual, Attributes a, const std::string& text) {
    const int64_t rows = w.codes.dim(0);
    Shape y = x;
    y.back() = rows;
    if (w.block) a["block_size"] = w.block;
    std::vector<Tensor> inputs{random_tensor(DType::kF32, x, random), w.codes, bias ? random_tensor(DType::kF32, {rows}, random) : Tensor(),
                               residual ? random_tensor(DType::kF32, y, random) : Tensor(), w.numbers};
    if (w.zeros.defined()) inputs.push_back(w.zeros);
    Case c = make_case("ai.lathe::CodedMatMul", inputs, {false, true, true, false, true, true}, std::move(a),
                       fmt::format("{} by {} {}, {}", to_string(x), to_string(w.codes.shape()), name_of(w.codes.dtype()), text));
    check(c, 5e-6);
  }
};

TEST_P(CodedKernel, CodebooksOfEverySize) {
  for (int64_t entries : {1, 2, 3, 4, 5, 8, 16})
    for (bool one : {false, true})
      for (auto [m, k, n] : {std::tuple{1, 1, 1}, {1, 64, 40}, {2, 129, 67}, {1, 700, 5}, {3, 33, 9}, {4, 512, 64}, {5, 100, 65}, {17, 40, 70}})
        matmul({m, k}, by_codebook(n, k, entries, one, random), true, false, {}, fmt::format("codebook of {}{}", entries, one ? " for all" : ""));
}

TEST_P(CodedKernel, Groups) {
  for (DType type : {DType::kI4, DType::kU4, DType::kI8, DType::kU8})
    for (int64_t block : {16, 32, 48, 64, 96, 128, 1000})
      for (bool zeros : {false, true})
        for (auto [m, k, n] : {std::tuple{1, 256, 64}, {1, 300, 7}, {2, 131, 34}, {3, 64, 3}, {4, 1000, 5}, {7, 96, 130}})
          matmul({m, k}, by_groups(n, k, type, block, zeros, random), true, false, {}, fmt::format("groups of {}{}", block, zeros ? " with zero points" : ""));
}

TEST_P(CodedKernel, GroupsWithoutSumsOfBytes) {
  allow_vnni_instructions(false);
  for (DType type : {DType::kI4, DType::kU8})
    for (int64_t block : {16, 96, 1000})
      for (auto [m, k, n] : {std::tuple{1, 300, 7}, {4, 1000, 5}, {7, 96, 130}})
        matmul({m, k}, by_groups(n, k, type, block, type == DType::kU8, random), true, false, {}, fmt::format("groups of {}", block));
  matmul({230, 300}, by_groups(70, 300, DType::kI4, 32, false, random), false, false, {}, "");
  allow_vnni_instructions(true);
}

// Sums of digits come nearest to the limits of i32 where all codes and all elements are as large as they can be.
TEST_P(CodedKernel, LargestSums) {
  for (DType type : {DType::kI4, DType::kU4, DType::kI8, DType::kU8})
    for (int64_t block : {128, 256, 512, 4000})
      for (float sign : {1.0f, -1.0f}) {
        Weights w = by_groups(40, 4000, type, block, false, random);
        for (int64_t i = 0; i < w.codes.size(); ++i) w.codes.set_int(i, is_signed(type) ? -(int64_t{1} << (bits_of(type) - 1)) : (int64_t{1} << bits_of(type)) - 1);
        Tensor x(DType::kF32, {3, 4000});
        for (int64_t i = 0; i < x.size(); ++i) x.set(i, sign * (i % 7 == 3 ? 0.999f : 1.0f));
        Case c = make_case("ai.lathe::CodedMatMul", {x, w.codes, {}, {}, w.numbers}, {false, true, true, false, true}, {{"block_size", block}}, fmt::format("{} in groups of {}", name_of(type), block));
        check(c, 5e-6);
      }
}

TEST_P(CodedKernel, HugeAndTinyRows) {
  const Weights w = by_groups(70, 300, DType::kI4, 32, false, random);
  for (float factor : {1e-38f, 1e-31f, 1e-29f, 1e29f, 1e33f}) {
    Tensor x = random_tensor(DType::kF32, {6, 300}, random);
    for (int64_t i = 0; i < 300; ++i) x.set(2 * 300 + i, x.get(2 * 300 + i) * factor);
    for (int64_t i = 0; i < 300; ++i) x.set(4 * 300 + i, i / 32 == 3 ? x.get(4 * 300 + i) * factor : 0.0);
    for (int64_t row : {2, 4}) {  // each against its own range
      Tensor one(DType::kF32, {1, 300});
      for (int64_t i = 0; i < 300; ++i) one.set(i, x.get(row * 300 + i));
      Case c = make_case("ai.lathe::CodedMatMul", {one, w.codes, {}, {}, w.numbers}, {false, true, true, false, true}, {{"block_size", int64_t{32}}}, fmt::format("times {}", factor));
      check(c, 5e-6);
    }
    Case c = make_case("ai.lathe::CodedMatMul", {x, w.codes, {}, {}, w.numbers}, {false, true, true, false, true}, {{"block_size", int64_t{32}}}, fmt::format("rows times {}", factor));
    check(c, 5e-6);
  }
}

TEST_P(CodedKernel, ManyRowsInBlocks) {
  matmul({3, 200, 40}, by_groups(33, 40, DType::kI4, 16, false, random), false, false, {}, "");
  matmul({230, 300}, by_codebook(70, 300, 4, false, random), false, false, {}, "");
  matmul({30, 3000}, by_groups(20, 3000, DType::kI4, 32, true, random), true, false, {}, "");
}

TEST_P(CodedKernel, WhatEndsAProduct) {
  for (const char* activation : {"", "Relu", "Clip", "HardSwish", "Sigmoid", "Tanh", "Swish", "Gelu", "Mish", "Elu"})
    for (bool residual : {false, true})
      for (int64_t first : {0, 1})
        for (int64_t m : {1, 6}) {
          Attributes a{{"activation", std::string(activation)}, {"alpha", -0.5f}, {"beta", 0.75f}, {"residual_first", first}};
          if (std::string(activation) == "Swish") a["alpha"] = 1.0f;
          matmul({m, 96}, by_groups(37, 96, DType::kI4, 32, false, random), m == 1, residual, a, fmt::format("{}{}{}", activation, residual ? " and residual" : "", first));
        }
}

TEST_P(CodedKernel, NotANumberStaysInItsRow) {
  const Weights w = by_groups(20, 70, DType::kI4, 16, false, random);
  Tensor x = random_tensor(DType::kF32, {7, 70}, random);
  x.set(3 * 70 + 69, NAN);
  x.set(5 * 70, INFINITY);
  Case c = make_case("ai.lathe::CodedMatMul", {x, w.codes, {}, {}, w.numbers}, {false, true, true, false, true}, {{"block_size", int64_t{16}}}, "NaN and infinity");
  check(c, 5e-6);
}

TEST_P(CodedKernel, Threads) {
  for (int threads : {2, 3}) {
    omp_set_num_threads(threads);
    matmul({1, 4096}, by_groups(300, 4096, DType::kI4, 128, false, random), true, false, {}, "threads");
    matmul({500, 100}, by_codebook(70, 100, 3, false, random), true, true, {}, "threads");
  }
}

Attributes window(const Ints& kernel, const Ints& strides, const Ints& pads, const Ints& dilations) {
  return {{"kernel_shape", kernel}, {"strides", strides}, {"pads", pads}, {"dilations", dilations}};
}

struct ConvShape {
  int64_t images, h, w, c, out;
  Ints kernel, strides, pads, dilations;
  std::string text() const { return fmt::format("{}x{}x{}x{} → {} {} / {} pads {} dilations {}", images, h, w, c, out, to_string(kernel), to_string(strides), to_string(pads), to_string(dilations)); }
};
const ConvShape kConvs[] = {
    {1, 5, 5, 32, 20, {3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}},  {2, 7, 6, 16, 37, {3, 3}, {2, 2}, {0, 1, 1, 0}, {1, 1}},   {1, 9, 9, 48, 5, {3, 3}, {1, 1}, {2, 2, 2, 2}, {2, 2}},
    {1, 6, 7, 64, 33, {1, 1}, {2, 1}, {0, 0, 0, 0}, {1, 1}},  {3, 4, 4, 80, 16, {2, 5}, {1, 2}, {1, 2, 0, 2}, {1, 1}},   {1, 14, 14, 32, 64, {5, 5}, {1, 1}, {2, 2, 2, 2}, {1, 1}},
    {1, 1, 1, 16, 1, {1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}},   {1, 3, 3, 16, 8, {3, 3}, {1, 1}, {4, 4, 4, 4}, {1, 1}}};

TEST_P(CodedKernel, Convolutions) {
  for (const ConvShape& s : kConvs)
    for (int form = 0; form < 3; ++form) {
      const int64_t depth = s.kernel[0] * s.kernel[1] * s.c;
      const Weights w = form == 0 ? by_groups(s.out, depth, DType::kI4, 16, false, random) : form == 1 ? by_groups(s.out, depth, DType::kU4, depth, true, random) : by_codebook(s.out, depth, 3, false, random);
      Attributes a = window(s.kernel, s.strides, s.pads, s.dilations);
      if (w.block) a["block_size"] = w.block;
      a["activation"] = std::string("Relu");
      std::vector<Tensor> inputs{random_tensor(DType::kF32, {s.images, s.h, s.w, s.c}, random), w.codes, random_tensor(DType::kF32, {s.out}, random), {}, w.numbers};
      if (w.zeros.defined()) inputs.push_back(w.zeros);
      Case c = make_case("ai.lathe::CodedConv", inputs, {false, true, true, false, true, true}, std::move(a), s.text());
      check(c, 5e-6);
    }
}

// Signs alone give whole numbers, which must be exact; then with factors, bias, activation and residual.
TEST_P(CodedKernel, SumsOfSignsAreExact) {
  for (bool counts : {true, false}) {
    if (counts && !has_bit_counts()) continue;
    allow_bit_counts(counts);
    for (int threads : {1, 2}) {
      omp_set_num_threads(threads);
      for (ConvShape s : kConvs)
        for (int64_t channels : {int64_t{1}, int64_t{31}, int64_t{33}, int64_t{100}, s.c}) {
          s.c = channels;
          const int64_t depth = s.kernel[0] * s.kernel[1] * s.c;
          Tensor x = random_tensor(DType::kF32, {s.images, s.h, s.w, s.c}, random), ones(DType::kF32, {s.out});
          for (int64_t i = 0; i < s.out; ++i) ones.set(i, 1);
          x.set(0, 0.0);
          if (x.size() > 3) {
            x.set(1, -0.0);
            x.set(2, NAN);
            x.set(3, -INFINITY);
          }
          const Tensor signs = codes(DType::kU8, {s.out, depth}, 0, 1, random);
          Case exact = make_case("ai.lathe::BinaryConv", {x, signs, {}, {}, ones}, {false, true, true, false, true}, window(s.kernel, s.strides, s.pads, s.dilations), s.text());
          check(exact, 0);
          Attributes a = window(s.kernel, s.strides, s.pads, s.dilations);
          a["activation"] = std::string("Relu");
          a["residual_first"] = int64_t{channels % 2};
          Case whole = make_case("ai.lathe::BinaryConv",
                                 {x, signs, random_tensor(DType::kF32, {s.out}, random), random_tensor(DType::kF32, *exact.graph[exact.graph.outputs[0]].shape, random),
                                  random_tensor(DType::kF32, {s.out}, random)},
                                 {false, true, true, false, true}, std::move(a), s.text());
          check(whole, 1e-6);
        }
    }
  }
  allow_bit_counts(true);
}

TEST_P(CodedKernel, BytesOfCountsDoNotOverflow) {
  allow_bit_counts(false);
  Tensor x(DType::kF32, {1, 3, 3, 2000}), ones(DType::kF32, {40}), signs(DType::kU8, {40, 9 * 2000});
  for (int64_t i = 0; i < x.size(); ++i) x.set(i, 1);
  for (int64_t i = 0; i < 40; ++i) ones.set(i, 1);
  std::memset(signs.raw(), 0, signs.bytes());  // every bit differs
  Case c = make_case("ai.lathe::BinaryConv", {x, signs, {}, {}, ones}, {false, true, true, false, true}, window({3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}), "all bits differ");
  check(c, 0);
  allow_bit_counts(true);
}

INSTANTIATE_TEST_SUITE_P(Isa, CodedKernel, ::testing::ValuesIn(available_isas()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lathe
