// Integer kernels give the very codes of their reference, on every instruction set, with VNNI and without: odd
// shapes, zero points at both ends, sums that saturate, weights whose zero point no i8 can take in.
#include <gtest/gtest.h>
#include <omp.h>

#include "kernel_case.h"
#include "kernels/isa.h"

namespace lathe {
namespace {

using testing::Case;
using testing::check;
using testing::checked;
using testing::make_case;
using Ints = std::vector<int64_t>;

Tensor random_codes(DType type, const Shape& shape, std::mt19937& random) {
  Tensor t(type, shape);
  const int least = type == DType::kI8 ? -128 : 0;
  std::uniform_int_distribution<int> uniform(least, least + 255);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, uniform(random));
  return t;
}

int random_zero(DType type, std::mt19937& random) {
  const int least = type == DType::kI8 ? -128 : 0, at[] = {0, 255, 128, static_cast<int>(random() % 256)};
  return least + at[random() % 4];
}

// Multipliers, bias and, for `centred` weights, none of their zero points: inputs 2 to 4 of a product.
void add_constants(std::vector<Tensor>& inputs, int64_t channels, int64_t depth, DType weights, bool zeros, bool bias, std::mt19937& random) {
  Tensor multipliers(DType::kF32, {channels}), sums;
  std::uniform_real_distribution<float> uniform(0.2f, 3.0f);  // of codes a sum of `depth` products makes: some saturate
  for (int64_t c = 0; c < channels; ++c) multipliers.set(c, uniform(random) / (60.0f * std::sqrt(static_cast<float>(depth))));
  inputs.push_back(multipliers);
  if (bias) {
    sums = Tensor(DType::kI32, {channels});
    for (int64_t c = 0; c < channels; ++c) sums.set_int(c, static_cast<int64_t>(random() % 20000) - 10000);
  }
  inputs.push_back(sums);
  if (zeros) inputs.push_back(random_codes(weights, {random() % 2 ? channels : 1}, random));
}

Attributes output(DType type, std::mt19937& random) {
  const int least = type == DType::kI8 ? -128 : 0;
  int64_t low = least, high = least + 255;
  if (random() % 3 == 0) low += static_cast<int64_t>(random() % 100), high -= static_cast<int64_t>(random() % 100);
  return {{"output_dtype", static_cast<int64_t>(type)}, {"y_zero_point", int64_t{type == DType::kF32 || type == DType::kI32 ? 0 : random_zero(type, random)}},
          {"low", low}, {"high", high}};
}

struct Window {
  int64_t kernel, stride, pad, dilation;
};

Case conv(std::mt19937& random, int64_t channels, int64_t out, int64_t groups, const Window& v, int turn) {
  const DType types[] = {DType::kU8, DType::kI8}, outputs[] = {DType::kU8, DType::kI8, DType::kU8, DType::kI8, DType::kF32, DType::kI32};
  const DType x = types[turn % 2], w = types[turn / 2 % 2], y = outputs[turn % 6];
  const bool zeros = w == DType::kU8 || turn % 5 == 0;
  const int64_t reach = (v.kernel - 1) * v.dilation + 1, h = reach + turn % 9, width = reach + turn % 14;
  std::vector<Tensor> inputs{random_codes(x, {1 + turn % 2, h, width, channels}, random), random_codes(w, {out, channels / groups, v.kernel, v.kernel}, random)};
  add_constants(inputs, out, channels / groups * v.kernel * v.kernel, w, zeros, turn % 3 != 0, random);
  Attributes a = output(y, random);
  a["x_zero_point"] = int64_t{random_zero(x, random)};
  a["strides"] = Ints{v.stride, 1 + turn % 3 % v.stride};
  a["pads"] = Ints{v.pad, v.pad, v.pad / 2, v.pad};
  a["dilations"] = Ints{v.dilation, v.dilation};
  a["group"] = groups;
  return make_case("ai.lathe::IntegerConv", inputs, {false, true, true, true, true}, a,
                   fmt::format("{} conv {} to {}, groups {}, window {}/{} pad {} dilation {}, weights {} zeros {}, to {}, turn {}", name_of(x), channels, out,
                               groups, v.kernel, v.stride, v.pad, v.dilation, name_of(w), zeros, name_of(y), turn));
}

class IntegerKernel : public ::testing::TestWithParam<std::pair<std::string, bool>> {
 protected:
  void SetUp() override {
    force_isa(GetParam().first);
    allow_vnni_instructions(GetParam().second);
    checked = 0;
  }
  void TearDown() override {
    force_isa("");
    omp_set_num_threads(1);
    EXPECT_GT(checked, 0);
  }
  std::mt19937 random{11};
};

TEST_P(IntegerKernel, Convolves) {
  int turn = 0;
  for (const Window& v : {Window{1, 1, 0, 1}, Window{1, 2, 0, 1}, Window{3, 1, 1, 1}, Window{3, 2, 1, 1}, Window{5, 2, 2, 1}, Window{3, 1, 2, 2}, Window{2, 2, 0, 1}, Window{1, 1, 1, 1}})
    for (int64_t channels : {1, 3, 4, 7, 8, 16, 20, 64})
      for (int64_t groups : {1, 2}) {
        if (channels % groups) continue;
        omp_set_num_threads(1 + turn % 3);
        const int64_t outs[] = {2, 10, 16, 34, 48, 66, 80};
        Case c = conv(random, channels, outs[turn % 7], groups, v, turn);
        check(c, 0, 1);
        ++turn;
      }
}

TEST_P(IntegerKernel, ConvolvesDepthwise) {
  int turn = 0;
  for (const Window& v : {Window{3, 1, 1, 1}, Window{3, 2, 1, 1}, Window{5, 1, 2, 1}, Window{5, 2, 2, 1}, Window{7, 1, 3, 1}, Window{7, 2, 3, 1}, Window{3, 1, 2, 2},
                          Window{2, 1, 0, 1}, Window{3, 3, 0, 1}, Window{4, 1, 2, 1}, Window{1, 1, 0, 1}})
    for (int64_t channels : {1, 3, 8, 16, 17, 24, 48, 64, 100, 144}) {
      omp_set_num_threads(1 + turn % 3);
      Case c = conv(random, channels, channels, channels, v, turn);
      check(c, 0, 1);
      ++turn;
    }
}

// Any shapes: what those above leave out, tables, and multipliers so large that scaled sums leave i32.
TEST_P(IntegerKernel, ConvolvesAnything) {
  auto any = [&](int64_t least, int64_t most) { return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1)); };
  for (int turn = 0; turn < 1000; ++turn) {
    omp_set_num_threads(static_cast<int>(any(1, 3)));
    const DType types[] = {DType::kU8, DType::kI8}, x = types[any(0, 1)], w = any(0, 4) ? DType::kI8 : DType::kU8, y = types[any(0, 1)];
    const bool depthwise = turn % 2 == 0, widest = any(0, 2) == 0;
    const int64_t kernel_h = widest ? any(1, 7) : 3, kernel_w = widest ? any(1, 7) : 3, dilation = any(0, 4) ? 1 : 2, stride = any(1, 3), other = any(0, 4) ? stride : any(1, 3);
    const int64_t channels = depthwise ? (any(0, 1) ? any(1, 20) * 16 : any(1, 200)) : any(1, 40), groups = depthwise ? channels : channels % 2 || any(0, 1) ? 1 : 2;
    const int64_t out = depthwise ? channels : any(1, 40) * groups, top = any(0, kernel_h), left = any(0, kernel_w);
    const int64_t h = (kernel_h - 1) * dilation + 1 + any(0, depthwise ? 9 : 4), width = (kernel_w - 1) * dilation + 1 + any(0, depthwise ? 11 : 6);
    std::vector<Tensor> inputs{random_codes(x, {any(1, 2), h, width, channels}, random), random_codes(w, {out, channels / groups, kernel_h, kernel_w}, random)};
    add_constants(inputs, out, channels / groups * kernel_h * kernel_w, w, w == DType::kU8 || any(0, 5) == 0, any(0, 2) > 0, random);
    if (any(0, 4) == 0)
      for (int64_t c = 0; c < out; ++c) inputs[2].set(c, inputs[2].get(c) * (any(0, 1) ? 1e3 : -1e9));
    inputs.resize(6);
    if (any(0, 2) == 0) inputs[5] = random_codes(types[any(0, 1)], {256}, random);
    Attributes a = output(y, random);
    a["x_zero_point"] = int64_t{random_zero(x, random)};
    a["strides"] = Ints{stride, other};
    a["pads"] = Ints{top, left, any(0, kernel_h), any(0, kernel_w)};
    a["dilations"] = Ints{dilation, dilation};
    a["group"] = groups;
    Case c = make_case("ai.lathe::IntegerConv", inputs, {false, true, true, true, true, true}, a,
                       fmt::format("turn {}: {} {} to {}, groups {}, window {}x{}/{},{} pads {} dilation {}, table {}", turn, name_of(x), to_string(inputs[0].shape()), out, groups,
                                   kernel_h, kernel_w, stride, other, to_string(std::get<Ints>(a["pads"])), dilation, inputs[5].defined()));
    check(c, 0, 1);
    if (HasFailure()) return;
  }
}

TEST_P(IntegerKernel, MultipliesAnything) {
  auto any = [&](int64_t least, int64_t most) { return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1)); };
  for (int turn = 0; turn < 500; ++turn) {
    omp_set_num_threads(static_cast<int>(any(1, 3)));
    const DType types[] = {DType::kU8, DType::kI8, DType::kF32, DType::kI32}, x = types[any(0, 1)], w = types[any(0, 1)], y = types[any(0, 3)];
    const int64_t m = any(1, 60), k = any(1, 90), n = any(1, 100);
    std::vector<Tensor> inputs{random_codes(x, {m, k}, random), random_codes(w, {k, n}, random)};
    add_constants(inputs, n, k, w, w == DType::kU8 || any(0, 5) == 0, any(0, 2) > 0, random);
    inputs.resize(6);
    if (any(0, 2) == 0 && (y == DType::kU8 || y == DType::kI8)) inputs[5] = random_codes(types[any(0, 1)], {256}, random);
    Attributes a = output(y, random);
    a["x_zero_point"] = int64_t{random_zero(x, random)};
    Case c = make_case("ai.lathe::IntegerMatMul", inputs, {false, true, true, true, true, true}, a, fmt::format("turn {}: {}x{}x{}", turn, m, k, n));
    check(c, 0, 1);
    if (HasFailure()) return;
  }
}

TEST_P(IntegerKernel, LooksUpAndAddsAnything) {
  auto any = [&](int64_t least, int64_t most) { return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1)); };
  const bool fused = GetParam().first.starts_with("avx");
  for (int turn = 0; turn < 500; ++turn) {
    omp_set_num_threads(static_cast<int>(any(1, 3)));
    const DType types[] = {DType::kU8, DType::kI8}, a = types[any(0, 1)], b = types[any(0, 1)];
    const Shape shape{any(1, 3), any(1, 400)};
    Case looked = make_case("ai.lathe::Table", {random_codes(a, shape, random), random_codes(b, {256}, random)}, {false, true}, {}, fmt::format("turn {}", turn));
    check(looked, 0, 1);
    Attributes attributes = output(types[any(0, 1)], random);
    attributes["a_zero_point"] = int64_t{random_zero(a, random)};
    attributes["b_zero_point"] = int64_t{random_zero(b, random)};
    attributes["a_scale"] = 0.001f * static_cast<float>(any(1, 60));
    attributes["b_scale"] = 0.001f * static_cast<float>(any(1, 60));
    attributes["y_scale"] = 0.001f * static_cast<float>(any(1, 60));
    Case sum = make_case(turn % 2 ? "ai.lathe::IntegerAdd" : "ai.lathe::IntegerMul", {random_codes(a, shape, random), random_codes(b, any(0, 1) ? shape : Shape{shape[1]}, random)},
                         {false, false}, attributes, fmt::format("turn {}", turn));
    check(sum, fused ? 0 : 0.02, fused ? 1 : 50);  // by one code
    if (HasFailure()) return;
  }
}

TEST_P(IntegerKernel, CropsWithNegativePads) {
  for (int64_t channels : {1, 16}) {
    std::vector<Tensor> inputs{random_codes(DType::kU8, {1, 9, 9, channels}, random), random_codes(DType::kI8, {channels, 1, 3, 3}, random)};
    add_constants(inputs, channels, 9, DType::kI8, false, true, random);
    Attributes a = output(DType::kU8, random);
    a["x_zero_point"] = int64_t{7};
    a["strides"] = Ints{1, 2};
    a["pads"] = Ints{-1, -2, 1, 0};
    a["dilations"] = Ints{1, 1};
    a["group"] = channels;
    Case c = make_case("ai.lathe::IntegerConv", inputs, {false, true, true, true}, a, "negative pads");
    check(c, 0, 1);
  }
}

TEST_P(IntegerKernel, Multiplies) {
  int turn = 0;
  const DType types[] = {DType::kU8, DType::kI8}, outputs[] = {DType::kI8, DType::kU8, DType::kF32, DType::kI32};
  for (int64_t m : {1, 2, 3, 5, 7, 23, 26, 51})
    for (int64_t k : {1, 2, 4, 13, 64, 131})
      for (int64_t n : {1, 15, 16, 33, 65}) {
        const DType x = types[turn % 2], w = types[turn / 2 % 2];
        omp_set_num_threads(1 + turn % 3);
        std::vector<Tensor> inputs{random_codes(x, {m, k}, random), random_codes(w, {k, n}, random)};
        add_constants(inputs, n, k, w, w == DType::kU8 || turn % 7 == 0, turn % 3 != 0, random);
        Attributes a = output(outputs[turn % 4], random);
        a["x_zero_point"] = int64_t{random_zero(x, random)};
        Case c = make_case("ai.lathe::IntegerMatMul", inputs, {false, true, true, true, true}, a, fmt::format("{} {}x{}x{}, turn {}", name_of(x), m, k, n, turn));
        check(c, 0, 1);
        ++turn;
      }
}

// Zero points and scales that come with the codes.
TEST_P(IntegerKernel, MultipliesDynamically) {
  int turn = 0;
  const DType types[] = {DType::kU8, DType::kI8};
  for (int64_t m : {1, 3, 7, 26, 51})
    for (int64_t k : {1, 2, 4, 13, 64, 131})
      for (int64_t n : {1, 15, 16, 33, 65}) {
        const DType x = types[turn % 2], w = types[turn / 2 % 2];
        omp_set_num_threads(1 + turn % 3);
        Tensor x_zero = turn % 5 ? Tensor(x, turn % 3 ? Shape{} : Shape{1}) : Tensor(), w_zero = w == DType::kU8 || turn % 7 == 0 ? random_codes(w, {turn % 3 ? n : 1}, random) : Tensor();
        if (x_zero.defined()) x_zero.set_int(0, random_zero(x, random));
        const Tensor codes = random_codes(x, turn % 4 ? Shape{m, k} : Shape{1, m, k}, random), weights = random_codes(w, {k, n}, random);
        const std::string text = fmt::format("{} {}x{}x{}, turn {}", name_of(x), m, k, n, turn);
        Case plain = make_case("MatMulInteger", {codes, weights, x_zero, w_zero}, {false, true, false, true}, {}, "MatMulInteger " + text);
        check(plain, 0, 1);
        Tensor scale = Tensor::scalar(0.013f), multipliers(DType::kF32, {n}), bias(DType::kF32, {n});
        for (int64_t c = 0; c < n; ++c) multipliers.set(c, 0.001 * static_cast<double>(1 + random() % 50)), bias.set(c, static_cast<double>(random() % 100) - 50);
        Case scaled = make_case("ai.lathe::DynamicMatMul", {codes, weights, multipliers, x_zero, scale, w_zero, turn % 2 ? bias : Tensor()},
                                {false, true, true, false, false, true, true}, {}, "DynamicMatMul " + text);
        check(scaled, 0, 1);
        ++turn;
      }
}

TEST_P(IntegerKernel, ConvolvesDynamically) {
  int turn = 0;
  for (const Window& v : {Window{1, 1, 0, 1}, Window{3, 1, 1, 1}, Window{3, 2, 1, 2}, Window{5, 1, 2, 1}, Window{2, 2, 0, 1}})
    for (int64_t channels : {1, 3, 8, 17, 36})
      for (int64_t groups : {int64_t{1}, channels}) {
        omp_set_num_threads(1 + turn % 3);
        const DType types[] = {DType::kU8, DType::kI8}, x = types[turn % 2], w = types[turn / 2 % 2];
        const int64_t out = groups == 1 ? 1 + turn * 7 % 40 : channels, reach = (v.kernel - 1) * v.dilation + 1;
        Tensor zero(x, {}), multipliers(DType::kF32, {out}), bias(DType::kF32, {out});
        zero.set_int(0, random_zero(x, random));
        for (int64_t c = 0; c < out; ++c) multipliers.set(c, 0.001 * static_cast<double>(1 + random() % 50)), bias.set(c, static_cast<double>(random() % 100) - 50);
        Attributes a{{"strides", Ints{v.stride, v.stride}}, {"pads", Ints{v.pad, v.pad, v.pad / 2, v.pad}}, {"dilations", Ints{v.dilation, v.dilation}}, {"group", groups}};
        Case c = make_case("ai.lathe::DynamicConv",
                           {random_codes(x, {1 + turn % 2, reach + turn % 9, reach + turn % 14, channels}, random), random_codes(w, {out, channels / groups, v.kernel, v.kernel}, random),
                            multipliers, turn % 5 ? zero : Tensor(), Tensor::scalar(0.02f), w == DType::kU8 ? random_codes(w, {turn % 3 ? out : 1}, random) : Tensor(), turn % 2 ? bias : Tensor()},
                           {false, true, true, false, false, true, true}, a, fmt::format("{} channels to {}, groups {}, window {}, turn {}", channels, out, groups, v.kernel, turn));
        check(c, 0, 1);
        ++turn;
      }
}

TEST_P(IntegerKernel, FindsTheRange) {
  for (int64_t count : {1, 5, 16, 33, 1000, 100'000})
    for (int kind = 0; kind < 9; ++kind) {
      omp_set_num_threads(1 + kind % 3);
      Tensor x(DType::kF32, {count});
      std::uniform_real_distribution<float> uniform(kind == 1 ? 0.5f : -3.0f, kind == 2 ? -1.0f : 5.0f);
      for (int64_t i = 0; i < count; ++i) x.set(i, uniform(random));
      if (kind == 3) x.set(count / 2, NAN);
      if (kind == 4) x.set(count - 1, INFINITY);
      if (kind == 5) x.set(0, -INFINITY);
      if (kind == 6)
        for (int64_t i = 0; i < count; ++i) x.set(i, 0);
      if (kind == 7)
        for (int64_t i = 0; i < count; ++i) x.set(i, x.get(i) * 1e-44);
      if (kind == 8) x.set(count / 3, 3e38);
      Case c = make_case("DynamicQuantizeLinear", {x}, {false}, {}, fmt::format("{} elements, kind {}", count, kind), 3);
      check(c, 0, 1);
    }
}

TEST_P(IntegerKernel, AddsAndMultipliesElements) {
  // Without fused multiply-adds a sum may fall on the other side of a tie: by one code.
  const bool fused = GetParam().first.starts_with("avx");
  const DType types[] = {DType::kU8, DType::kI8};
  const std::pair<Shape, Shape> shapes[] = {{{2, 3, 5, 7}, {2, 3, 5, 7}}, {{2, 3, 5, 16}, {2, 1, 1, 16}}, {{2, 1, 1, 33}, {2, 4, 4, 33}}, {{3, 40}, {1}}, {{1, 1}, {3, 40}},
                                            {{2, 3, 5, 7}, {2, 3, 1, 1}}, {{4, 19}, {19}}, {{1, 5, 5, 40}, {1, 5, 5, 1}}};
  int turn = 0;
  for (const char* op : {"ai.lathe::IntegerAdd", "ai.lathe::IntegerMul"})
    for (const auto& [left, right] : shapes)
      for (int mix = 0; mix < 8; ++mix) {
        const DType a = types[mix % 2], b = types[mix / 2 % 2];
        omp_set_num_threads(1 + turn % 3);
        Attributes attributes = output(types[mix / 4], random);
        attributes["a_zero_point"] = int64_t{random_zero(a, random)};
        attributes["b_zero_point"] = int64_t{random_zero(b, random)};
        attributes["a_scale"] = 0.013f + 0.01f * static_cast<float>(turn % 5);
        attributes["b_scale"] = 0.021f;
        attributes["y_scale"] = turn % 2 ? 0.037f : 0.019f;
        Case c = make_case(op, {random_codes(a, left, random), random_codes(b, right, random)}, {false, false}, attributes,
                           fmt::format("{} {} {}, turn {}", op, to_string(left), to_string(right), turn));
        check(c, fused ? 0 : 0.02, 1);
        ++turn;
      }
}

TEST_P(IntegerKernel, PoolsAndTakesTheSoftmax) {
  const DType types[] = {DType::kU8, DType::kI8};
  int turn = 0;
  for (const Window& v : {Window{3, 2, 1, 1}, Window{2, 2, 0, 1}, Window{8, 8, 0, 1}, Window{3, 1, 1, 1}})
    for (int64_t channels : {1, 7, 16, 17, 33, 64}) {
      const DType x = types[turn % 2], y = types[turn / 2 % 2];
      omp_set_num_threads(1 + turn % 3);
      Tensor picture = random_codes(x, {1 + turn % 2, 8 + turn % 5, 9 + turn % 4, channels}, random);
      const Attributes window{{"kernel_shape", Ints{v.kernel, v.kernel}}, {"strides", Ints{v.stride, v.stride}}, {"pads", Ints{v.pad, v.pad, v.pad, v.pad}}};
      Attributes unary = output(y, random);
      unary["x_scale"] = 0.05f;
      unary["x_zero_point"] = int64_t{random_zero(x, random)};
      unary["y_scale"] = turn % 3 ? 0.05f : 0.017f;
      for (const char* kind : {"Average", "Mean"}) {
        Attributes a = unary;
        a.insert(window.begin(), window.end());
        a["kind"] = std::string(kind);
        a["count_include_pad"] = int64_t{turn / 2 % 2};
        Case c = make_case("ai.lathe::IntegerPool", {picture}, {false}, a, fmt::format("{} pool, turn {}", kind, turn));
        check(c, 0, 1);
      }
      Attributes largest = window;
      largest["kind"] = std::string("Max");
      Case most = make_case("ai.lathe::Pool", {picture}, {false}, largest, fmt::format("largest codes, turn {}", turn));
      check(most, 0, 1);
      unary["y_scale"] = 1.0f / 256;
      Case softmax = make_case("ai.lathe::IntegerSoftmax", {random_codes(x, {5, channels}, random)}, {false}, unary, fmt::format("softmax, turn {}", turn));
      check(softmax, 0, 1);
      Case table = make_case("ai.lathe::Table", {picture, random_codes(y, {256}, random)}, {false, true}, {}, fmt::format("table, turn {}", turn));
      check(table, 0, 1);
      ++turn;
    }
}

TEST_P(IntegerKernel, TurnsPlanesToPixels) {
  for (int64_t channels : {1, 2, 3, 4, 5})
    for (int64_t width : {1, 7, 64, 65, 200})
      for (DType type : {DType::kU8, DType::kI8}) {
        omp_set_num_threads(1 + static_cast<int>(width % 3));
        Case c = make_case("Transpose", {random_codes(type, {2, channels, 3, width * 9}, random)}, {false}, {{"perm", Ints{0, 2, 3, 1}}}, fmt::format("{} planes of {}", channels, width));
        check(c, 0);
      }
}

TEST_P(IntegerKernel, RoundsToCodesAndBack) {
  for (DType type : {DType::kU8, DType::kI8})
    for (int64_t n : {1, 15, 16, 17, 100, 70000}) {
      Tensor x = testing::random_tensor(DType::kF32, {n}, random, -30, 30), scale = Tensor::scalar(0.11f), zero(type, {});
      zero.set_int(0, random_zero(type, random));
      for (float special : {NAN, INFINITY, -INFINITY, 0.055f, 0.165f, -0.055f, 1e30f}) x.set(static_cast<int64_t>(random() % n), special);
      omp_set_num_threads(1 + static_cast<int>(n % 3));
      Case q = make_case("QuantizeLinear", {x, scale, zero}, {false, true, true}, {}, fmt::format("quantize {} of {}", n, name_of(type)));
      check(q, 0, 1);
      Case d = make_case("DequantizeLinear", {random_codes(type, {n}, random), scale, zero}, {false, true, true}, {}, fmt::format("dequantize {}", n));
      check(d, 0, 1);
    }
}

std::vector<std::pair<std::string, bool>> ways() {
  std::vector<std::pair<std::string, bool>> list;
  if (has_vnni_instructions()) list.emplace_back(available_isas().front(), true);
  for (const std::string& isa : available_isas()) list.emplace_back(isa, false);
  return list;
}

INSTANTIATE_TEST_SUITE_P(Isa, IntegerKernel, ::testing::ValuesIn(ways()), [](const auto& info) { return info.param.first + (info.param.second ? "_vnni" : ""); });

}  // namespace
}  // namespace lathe
