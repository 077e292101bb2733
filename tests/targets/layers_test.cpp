// Layers of random shapes as C: odd sizes, remainders, extremes, in chains that write over their inputs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine.h"
#include "graph/op.h"

namespace lathe::mcu {
namespace {

using Ints = std::vector<int64_t>;
constexpr double kSeconds = 600;

// Graphs of ai.lathe's operators on codes, as the passes make them.
class Layers {
 public:
  explicit Layers(unsigned seed) : random_(seed) {}
  Graph g;

  int64_t number(int64_t least, int64_t most) { return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1)); }
  bool chance(int percent) { return number(1, 100) <= percent; }
  float real(float least, float most) { return least + (most - least) * static_cast<float>(random_() % 10001) / 10000.0f; }

  ValueId input(Shape shape) {
    return g.add_input("x" + std::to_string(g.inputs.size()), chance(50) ? DType::kI8 : DType::kU8, std::move(shape));
  }
  ValueId apply(const std::string& op, std::vector<ValueId> inputs, Attributes a) { return g.add(op, std::move(inputs), std::move(a)); }
  Shape shape(ValueId v) const { return *g[v].shape; }
  void keep(ValueId v) { g.outputs.push_back(v); }

  int64_t zero_of(ValueId v) {
    return chance(30) ? (g[v].dtype == DType::kI8 ? -128 : 0) : g[v].dtype == DType::kI8 ? number(-128, 127) : number(0, 255);
  }
  // What an output's codes mean; with limits now and then.
  Attributes target(int only_codes = 1) {
    if (!only_codes && chance(15))
      return {{"output_dtype", static_cast<int64_t>(chance(50) ? DType::kF32 : DType::kI32)},
              {"y_zero_point", int64_t{0}},
              {"low", int64_t{0}},
              {"high", int64_t{0}}};
    const bool is_signed = chance(50);
    const int64_t least = is_signed ? -128 : 0;
    int64_t low = least, high = least + 255;
    if (chance(30)) low = least + number(0, 100), high = low + number(0, 150);
    return {{"output_dtype", static_cast<int64_t>(is_signed ? DType::kI8 : DType::kU8)},
            {"y_zero_point", least + number(0, 255)},
            {"low", low},
            {"high", high}};
  }
  Tensor codes(DType type, Shape s) {
    Tensor t(type, std::move(s));
    const int kind = static_cast<int>(number(0, 9));
    const int64_t least = type == DType::kU8 ? 0 : -128;
    for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, kind == 0 ? least : kind == 1 ? least + 255 : number(least, least + 255));
    return t;
  }
  // Of either type: a u8 has a zero point.
  DType weight_type() { return chance(15) ? DType::kU8 : DType::kI8; }
  std::vector<ValueId> product_inputs(ValueId x, Tensor w, int64_t channels, int64_t depth, bool may_look_up) {
    Tensor multipliers(DType::kF32, {channels}), bias(DType::kI32, {channels});
    const int kind = static_cast<int>(number(0, 19));
    for (int64_t i = 0; i < channels; ++i) {
      multipliers.data<float>()[i] = kind == 0   ? 1e30f
                                     : kind == 1 ? 1e-30f
                                     : kind == 2 ? 1e-2f * static_cast<float>(i % 3)
                                                 : real(0.2f, 3.0f) / (60.0f * std::sqrt(static_cast<float>(depth)));
      bias.set_int(i, kind == 3 ? INT32_MAX - number(0, 100) : kind == 4 ? INT32_MIN : number(-20000, 20000));
    }
    const DType type = w.dtype();
    std::vector<ValueId> inputs{x, g.add_constant(std::move(w)), g.add_constant(multipliers), g.add_constant(bias)};
    if (chance(20)) inputs.pop_back();
    if (type == DType::kU8 || chance(15)) {
      Tensor zeros(type, {chance(50) ? channels : 1});
      for (int64_t i = 0; i < zeros.size(); ++i) zeros.set_int(i, type == DType::kU8 ? number(0, 255) : number(-128, 127));
      inputs.resize(5);
      inputs[4] = g.add_constant(zeros);
    }
    if (may_look_up && chance(20)) {
      Tensor table(chance(50) ? DType::kI8 : DType::kU8, {256});
      for (int64_t i = 0; i < 256; ++i) table.data<uint8_t>()[i] = static_cast<uint8_t>(random_());
      inputs.resize(6);
      inputs[5] = g.add_constant(table);
    }
    return inputs;
  }
  static bool makes_codes(const Attributes& a) {
    const auto type = static_cast<DType>(std::get<int64_t>(a.at("output_dtype")));
    return type == DType::kI8 || type == DType::kU8;
  }

  ValueId conv(ValueId x, int64_t outputs, Shape kernel, Ints strides, Ints pads, Ints dilations, int64_t group, int only_codes = 1) {
    const int64_t depth = shape(x)[3] / group;
    Attributes a = target(only_codes);
    auto inputs = product_inputs(x, codes(weight_type(), {outputs, depth, kernel[0], kernel[1]}), outputs, depth * kernel[0] * kernel[1],
                                 makes_codes(a));
    a["x_zero_point"] = zero_of(x);
    a["strides"] = strides, a["pads"] = pads, a["dilations"] = dilations, a["group"] = group;
    return apply("ai.lathe::IntegerConv", std::move(inputs), std::move(a));
  }
  ValueId random_conv(ValueId x, bool depthwise) {
    const Shape s = shape(x);
    for (;;) {
      const Shape kernel{number(1, 5), chance(70) ? number(1, 5) : number(1, 9)};
      const Ints strides{number(1, 3), number(1, 3)}, dilations{chance(80) ? 1 : number(1, 3), chance(80) ? 1 : number(1, 3)};
      const Ints pads{number(0, kernel[0]), number(0, kernel[1]), number(0, kernel[0]), number(0, kernel[1])};
      if ((kernel[0] - 1) * dilations[0] + 1 > s[1] + pads[0] + pads[2] || (kernel[1] - 1) * dilations[1] + 1 > s[2] + pads[1] + pads[3])
        continue;
      if (depthwise) return conv(x, s[3] * (chance(25) ? 2 : 1), kernel, strides, pads, dilations, s[3]);
      int64_t group = 1;
      if (chance(25))
        for (int64_t k : {3, 2})
          if (s[3] % k == 0) group = k;
      return conv(x, group * number(1, 9), kernel, strides, pads, dilations, group, 0);
    }
  }
  ValueId depthwise3(ValueId x, int64_t stride) {
    return conv(x, shape(x)[3], {3, 3}, {stride, stride}, {number(0, 1), number(0, 1), number(0, 1), number(0, 1)}, {1, 1}, shape(x)[3]);
  }
  ValueId pixels(ValueId x, int64_t outputs) { return conv(x, outputs, {1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1); }
  ValueId matmul(ValueId x, int64_t outputs) {
    const int64_t depth = shape(x).back();
    Attributes a = target(0);
    auto inputs = product_inputs(x, codes(weight_type(), {depth, outputs}), outputs, depth, makes_codes(a));
    a["x_zero_point"] = zero_of(x);
    return apply("ai.lathe::IntegerMatMul", std::move(inputs), std::move(a));
  }
  ValueId binary(const char* op, ValueId a, ValueId b) {
    Attributes t = target();
    t["a_scale"] = real(0.01f, 0.05f), t["b_scale"] = real(0.01f, 0.05f);
    t["y_scale"] = std::string(op) == "IntegerAdd" ? real(0.01f, 0.1f) : real(0.1f, 0.5f);
    t["a_zero_point"] = zero_of(a), t["b_zero_point"] = zero_of(b);
    return apply(std::string("ai.lathe::") + op, {a, b}, std::move(t));
  }
  ValueId pool(ValueId x, const char* kind) {
    const Shape s = shape(x);
    const Ints kernel{std::min<int64_t>(s[1], number(1, 4)), std::min<int64_t>(s[2], number(1, 4))}, strides{number(1, 2), number(1, 2)};
    const Ints pads{number(0, kernel[0] - 1), number(0, kernel[1] - 1), number(0, kernel[0] - 1), number(0, kernel[1] - 1)};
    if (std::string(kind) == "Max")
      return apply("ai.lathe::Pool", {x}, {{"kind", std::string("Max")}, {"kernel_shape", kernel}, {"strides", strides}, {"pads", pads}});
    Attributes t = target();
    t["kind"] = std::string(kind), t["kernel_shape"] = kernel, t["strides"] = strides, t["pads"] = pads,
    t["count_include_pad"] = number(0, 1);
    t["x_scale"] = real(0.01f, 0.05f), t["y_scale"] = real(0.01f, 0.05f), t["x_zero_point"] = zero_of(x);
    return apply("ai.lathe::IntegerPool", {x}, std::move(t));
  }
  ValueId softmax(ValueId x) {
    Attributes t = target();
    t["x_scale"] = real(0.01f, 0.3f), t["y_scale"] = 1.0f / 256, t["x_zero_point"] = zero_of(x);
    return apply("ai.lathe::IntegerSoftmax", {x}, std::move(t));
  }
  ValueId table(ValueId x) {
    Tensor entries(chance(50) ? DType::kI8 : DType::kU8, {256});
    for (int64_t i = 0; i < 256; ++i) entries.data<uint8_t>()[i] = static_cast<uint8_t>(random_());
    return apply("ai.lathe::Table", {x, g.add_constant(entries)}, {});
  }

 private:
  std::mt19937 random_;
};

// The program of the graph as it stands, against the reference kernels and the engine, on this machine in three ways and in the emulator.
void check(Graph graph, const std::string& name, bool emulated) {
  if (!have_program("make")) GTEST_SKIP() << "no make";
  const McuProgram program = make_program(Graph(graph));
  emit_firmware(program, read_device(std::string(LATHE_SOURCE) + "/devices/stm32h743.json"), {.name = name}, scratch(name));
  const Firmware firmware = read_firmware(scratch(name));
  const auto images = random_images(firmware.inputs, 14, 3);
  const auto expected = run_engine(Graph(graph), images);
  EXPECT_EQ(differences(run_on_host(firmware, images, "-Werror", kSeconds).outputs, expected), 0) << name;
  EXPECT_EQ(differences(run_on_host(firmware, images,
                                    "-Werror -DLATHE_PORTABLE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all", kSeconds)
                            .outputs,
                        expected),
            0)
      << name;
  if (!emulated || !have_arm()) return;
  (void)build_firmware(firmware, kSeconds);
  EXPECT_EQ(differences(emulate_firmware(firmware, images, kSeconds).outputs, expected), 0) << name;
}

TEST(FirmwareLayers, ConvolutionsOfRandomShapes) {
  for (unsigned seed : {1u, 2u}) {
    Layers l(seed);
    for (int i = 0; i < 3; ++i) {
      const ValueId x = l.input({1, l.number(1, 9), l.number(1, 9), std::vector<int64_t>{1, 3, 4, 6, 8, 13}[l.number(0, 5)]});
      for (int k = 0; k < 6; ++k) l.keep(l.random_conv(x, false));
      if (l.shape(x)[3] > 1)
        for (int k = 0; k < 5; ++k) l.keep(l.random_conv(x, true));
    }
    check(std::move(l.g), fmt::format("convolutions_{}", seed), true);
  }
}

TEST(FirmwareLayers, ChainsThatWriteOverTheirInputs) {
  for (unsigned seed : {1u, 2u}) {
    Layers l(seed);
    for (int i = 0; i < 4; ++i) {
      ValueId v = l.input({1, l.number(3, 10), l.number(3, 10), l.number(1, 12)});
      for (int k = 0; k < 5; ++k) {
        v = l.pixels(v, l.number(1, 24));
        const Shape s = l.shape(v);
        if (s[3] > 1)
          v = s[1] > 3 && s[2] > 3 ? l.depthwise3(v, l.number(1, 2)) : l.conv(v, s[3], {1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, s[3]);
        if (l.chance(30)) v = l.table(v);
        if (l.chance(30)) v = l.binary("IntegerAdd", v, l.pixels(v, l.shape(v)[3]));
      }
      l.keep(v);
    }
    Graph graph = std::move(l.g);
    int over = 0;
    for (const McuStep& s : make_program(Graph(graph)).steps) over += s.in_place >= 0;
    EXPECT_GT(over, 20) << "few steps write over their input: the test tries little";
    check(std::move(graph), fmt::format("chains_{}", seed), true);
  }
}

TEST(FirmwareLayers, WhatStandsBetweenProducts) {
  Layers l(7);
  const ValueId x = l.input({1, 7, 5, 6}), same = l.input({1, 7, 5, 6}), channel = l.input({1, 1, 1, 6}), pixel = l.input({1, 7, 5, 1}),
                row = l.input({1, 13}), rows = l.input({5, 11});
  for (int k = 0; k < 2; ++k) {
    for (const char* op : {"IntegerAdd", "IntegerMul"}) {
      for (ValueId other : {same, channel, pixel, x}) l.keep(l.binary(op, x, other));
      for (ValueId other : {channel, pixel}) l.keep(l.binary(op, other, x));
      l.keep(l.binary(op, x, l.g.add_constant(l.codes(DType::kI8, {6}))));
    }
    for (const char* kind : {"Mean", "Average", "Max"})
      for (int i = 0; i < 3; ++i) l.keep(l.pool(x, kind));
    for (ValueId v : {row, rows, x}) l.keep(l.softmax(v));
    for (ValueId v : {row, rows}) l.keep(l.matmul(v, l.number(1, 9)));
    l.keep(l.table(x));
    const ValueId largest =
        l.apply("ai.lathe::Pool", {x},
                {{"kind", std::string("Max")}, {"kernel_shape", Ints{2, 1}}, {"strides", Ints{1, 1}}, {"pads", Ints{0, 0, 0, 0}}});
    l.keep(l.apply("Concat", {x, largest, x}, {{"axis", int64_t{1}}}));
    l.keep(l.apply("Concat", {x, x}, {{"axis", int64_t{3}}}));
  }
  for (int64_t groups : {2, 3}) l.keep(l.apply("ai.lathe::ChannelShuffle", {x}, {{"axis", int64_t{3}}, {"group", groups}}));
  l.keep(l.apply("ai.lathe::ChannelShuffle", {x, x}, {{"axis", int64_t{3}}, {"group", int64_t{2}}}));
  l.keep(l.apply("Transpose", {x}, {{"perm", Ints{0, 3, 1, 2}}}));
  l.keep(l.apply("Transpose", {x}, {{"perm", Ints{3, 2, 1, 0}}}));
  auto ints = [&](Ints v) { return l.g.add_constant(Tensor::of_i64(v)); };
  l.keep(l.apply("Slice", {x, ints({2}), ints({-1}), ints({1})}, {}));
  l.keep(l.apply("Slice", {x, ints({-4}), ints({100}), ints({3})}, {}));
  l.keep(l.apply("Slice", {x, ints({0, 1, 4}), ints({100, 5, 0}), ints({1, 2, 3}), ints({2, 2, -1})}, {}));
  Tensor zero(l.g[x].dtype, {});
  zero.set_int(0, 5);
  l.keep(l.apply("Pad", {x, ints({0, 1, 2, 0, 0, 3, 0, 0}), l.g.add_constant(zero)}, {}));
  l.keep(l.apply("Pad", {x, ints({0, 0, 0, 3, 0, 0, 0, 2}), l.g.add_constant(zero)}, {}));
  check(std::move(l.g), "between", true);
}

}  // namespace
}  // namespace lathe::mcu
