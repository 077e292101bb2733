// Elementwise operators, softmax and norms against the reference, in f32 and bf16, over odd shapes and broadcasts, with
// numbers that are none, for every instruction set.
#include "kernel_tester.h"
#include "kernels/round_row.h"

namespace lathe {
namespace {

class RowKernel : public EveryKernel {};

const float kExtremes[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, -1e30f, 90.0f, -90.0f, 0.5f, -0.5f, 2.5f};

Tensor with_extremes(DType type, const Shape& shape, std::mt19937& random) {
  Tensor x = random_tensor(type, shape, random, -4, 4);
  for (int64_t i = 0; i < x.size() && i < 12; ++i) x.set((i * 7 + 3) % x.size(), kExtremes[i]);
  return x;
}

// Each element by itself: a difference beside a huge element must not be lost in a common scale.
void check_each(Case& c, DType type) {
  // Largest difference allowed: a rounding of bf16, or of the approximations that activation-inl.h states.
  check(c, type == DType::kBF16 ? 1.0 / 128 : 2e-6, 1);
}

TEST_P(RowKernel, Unary) {
  struct Op {
    const char* name;
    Attributes attributes;
  };
  const Op ops[] = {{"Relu", {}}, {"LeakyRelu", {{"alpha", 0.2f}}}, {"Elu", {{"alpha", 1.5f}}}, {"HardSigmoid", {{"alpha", 0.3f}, {"beta", 0.4f}}}, {"Sigmoid", {}},
                    {"Tanh", {}}, {"Gelu", {}}, {"Gelu", {{"approximate", std::string("tanh")}}}, {"Swish", {{"alpha", 1.3f}}}, {"Mish", {}}, {"HardSwish", {}},
                    {"Abs", {}}, {"Neg", {}}, {"Sqrt", {}}, {"Reciprocal", {}}, {"Exp", {}}, {"Floor", {}}, {"Ceil", {}}, {"Round", {}}, {"Erf", {}},
                    {"Log", {}}, {"Sin", {}}, {"Cos", {}}, {"Sign", {}}, {"Softplus", {}}, {"Softsign", {}},
                    {"ai.lathe::StarRelu", {{"scale", 0.9f}, {"bias", -0.4f}}}, {"ai.lathe::StarRelu", {{"scale", -1.5f}}}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Op& op : ops)
      for (int64_t count : {1, 5, 16, 33, 70}) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor x = random_tensor(type, {count}, random, -4, 4);
        if (op.name == std::string("Reciprocal"))
          for (int64_t i = 0; i < count; ++i) x.set(i, x.get(i) + (x.get(i) < 0 ? -0.5 : 0.5));
        Case c = make_case(op.name, {x}, {false}, op.attributes, fmt::format("{} {} of {}", name_of(type), op.name, count));
        check_each(c, type);
        // One by one: what becomes of a NaN, an infinity, a zero. Infinities of the gated activations are left out: the
        // formula gives ∞·0, and its limit is what kernels may give.
        const std::string name = op.name;
        const bool gated = name == "Gelu" || name == "Swish" || name == "Mish" || name == "HardSwish";
        for (float extreme : kExtremes) {
          if (count != 5 || (gated && std::isinf(extreme))) continue;
          Tensor one(type, {5});
          for (int64_t i = 0; i < 5; ++i) one.set(i, extreme);
          Case e = make_case(op.name, {one}, {false}, op.attributes, fmt::format("{} {} of {}", name_of(type), op.name, extreme));
          check_each(e, type);
        }
      }
}

TEST_P(RowKernel, ClipTakesItsLimits) {
  for (DType type : {DType::kF32, DType::kBF16})
    for (int limits = 0; limits < 4; ++limits) {
      auto limit = [&](float v) {
        Tensor t(type, {});
        t.set(0, v);
        return t;
      };
      std::vector<Tensor> inputs{with_extremes(type, {37}, random), limits & 1 ? limit(-0.75f) : Tensor(), limits & 2 ? limit(1.5f) : Tensor()};
      Case c = make_case("Clip", inputs, {false, true, true}, {}, fmt::format("{} clip {}", name_of(type), limits));
      check_each(c, type);
    }
}

TEST_P(RowKernel, LogarithmsAndAnglesOfAnySize) {
  Tensor x(DType::kF32, {300});
  for (int64_t i = 0; i < 300; ++i) x.set(i, std::ldexp(1 + 0.37 * static_cast<double>(i % 7) / 7, static_cast<int>(i % 150) - 100));
  Case log = make_case("Log", {x}, {false}, {}, "logarithms from 1e-30 to 1e15");
  check(log, 2e-7);
  for (float largest : {3.0f, 8000.0f, 3e5f}) {
    Tensor angle = random_tensor(DType::kF32, {77}, random, -largest, largest);
    for (const char* op : {"Sin", "Cos"}) {
      Case c = make_case(op, {angle}, {false}, {}, fmt::format("{} up to {}", op, largest));
      check_each(c, DType::kF32);
    }
  }
}

TEST_P(RowKernel, RaisesToPowers) {
  const std::pair<Shape, Shape> shapes[] = {{{5, 33}, {}}, {{7, 17}, {7, 17}}, {{3, 1, 8}, {1, 6, 1}}, {{1}, {40}}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (float exponent : {2.0f, 3.0f, 1.0f, 0.0f, -1.0f, 0.5f, -0.5f, 0.3f, -2.0f, NAN})
      for (const auto& [a, b] : shapes) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor x = random_tensor(type, a, random, 0.5f, 3), y(type, b);
        for (int64_t i = 0; i < y.size(); ++i) y.set(i, i % 5 == 4 ? 1.75 : exponent);
        for (int64_t i = 0; i < x.size() && i < 8; ++i)
          if (turn % 2) x.set((i * 7 + 3) % x.size(), std::array{NAN, INFINITY, -INFINITY, 0.0f, -0.0f, -1.5f, 0.5f, -2.0f}[i]);
        Case c = make_case("Pow", {x, y}, {false, turn % 3 == 0}, {}, fmt::format("{} {} to the power of {} {}", name_of(type), to_string(a), exponent, to_string(b)));
        check_each(c, type);
      }
}

TEST_P(RowKernel, SelectsAndCompares) {
  const std::tuple<Shape, Shape, Shape> shapes[] = {{{7, 33}, {7, 33}, {7, 33}}, {{2, 1, 17}, {}, {2, 5, 17}}, {{5}, {3, 5}, {1}}, {{1}, {40}, {40}},
                                                    {{2, 4, 1}, {2, 4, 5}, {4, 1}}, {{3, 1, 8}, {1, 6, 1}, {3, 6, 8}}, {{1, 1}, {1, 1}, {1}}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kI64, DType::kI32, DType::kBF16, DType::kU8, DType::kF64, DType::kBool})
    for (const auto& [s, a, b] : shapes) {
      omp_set_num_threads(1 + turn++ % 3);
      auto numbers = [&](DType t, const Shape& shape) {
        Tensor x(t, shape);
        for (int64_t i = 0; i < x.size(); ++i) x.set(i, t == DType::kBool ? random() % 2 : static_cast<double>(random() % 7));
        return x;
      };
      Tensor x = numbers(type, a), y = numbers(type, b);
      if (type == DType::kF32) x.set(0, NAN), y.set(y.size() - 1, -0.0);
      const std::string text = fmt::format(" of {} {}, {} and {}", name_of(type), to_string(s), to_string(a), to_string(b));
      Case where = make_case("Where", {numbers(DType::kBool, s), x, y}, {false, false, turn % 3 == 0}, {}, "Where" + text);
      check(where, 0);
      for (const char* op : {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}) {
        if (type == DType::kBool && op != std::string("Equal")) continue;
        Case c = make_case(op, {x, y}, {false, false}, {}, op + text);
        check(c, 0);
      }
      if (type == DType::kBool) {
        for (const char* op : {"And", "Or", "Xor"}) {
          Case c = make_case(op, {x, y}, {false, false}, {}, op + text);
          check(c, 0);
        }
        Case c = make_case("Not", {x}, {false}, {}, "Not" + text);
        check(c, 0);
      }
      if (type == DType::kI64 || type == DType::kI32) {
        x.set_int(0, std::numeric_limits<int32_t>::max());  // the sum of two of i32 wraps
        y.set_int(0, std::numeric_limits<int32_t>::max());
        for (const char* op : {"Add", "Sub", "Mul", "Max", "Min"}) {
          Case c = make_case(op, {x, y}, {false, false}, {}, op + text);
          check(c, 0);
        }
      }
    }
}

TEST_P(RowKernel, ConvertsTypes) {
  const DType types[] = {DType::kF32, DType::kI64, DType::kI32, DType::kU8, DType::kBool};
  for (DType from : types)
    for (DType to : types)
      for (int64_t count : {1, 7, 70}) {
        Tensor x(from, {count});
        for (int64_t i = 0; i < count; ++i) x.set(i, from == DType::kBool ? static_cast<double>(i % 2) : static_cast<double>(i * 37 % 200) + (from == DType::kF32 ? 0.75 : 0));
        if (from == DType::kF32 && to != DType::kU8 && count > 1) x.set(1, -1.75);
        Case c = make_case("Cast", {x}, {false}, {{"to", static_cast<int64_t>(to)}}, fmt::format("{} {} to {}", count, name_of(from), name_of(to)));
        check(c, 0);
      }
}

TEST_P(RowKernel, BinaryBroadcasts) {
  const std::pair<Shape, Shape> shapes[] = {{{7, 33}, {7, 33}}, {{2, 3, 17}, {17}},  {{5}, {3, 5}},       {{1}, {40}},          {{2, 4, 16}, {2, 1, 16}},
                                            {{2, 4, 5}, {2, 4, 1}}, {{3, 1, 8}, {1, 6, 1}}, {{1, 1}, {1, 1}}, {{2, 3, 4, 5}, {3, 1, 1}}, {{35, 1}, {35, 1}}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const char* op : {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"})
      for (const auto& [a, b] : shapes)
        for (bool extreme : {false, true}) {
          omp_set_num_threads(1 + turn++ % 3);
          Tensor x = extreme ? with_extremes(type, a, random) : random_tensor(type, a, random), y = random_tensor(type, b, random, 0.5f, 2);
          if (extreme)  // huge ones would hide the others
            for (int64_t i = 0; i < x.size(); ++i)
              if (std::abs(x.get(i)) > 100) x.set(i, 7);
          if (extreme && turn % 4 == 0) y.set(0, NAN);
          Case c = make_case(op, {x, y}, {false, turn % 3 == 0}, {}, fmt::format("{} {} of {} and {}", name_of(type), op, to_string(a), to_string(b)));
          check_each(c, type);
        }
}

TEST_P(RowKernel, Softmax) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t width : {1, 2, 7, 16, 31, 64, 100, 197})
      for (int kind = 0; kind < 4; ++kind) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor x = random_tensor(type, {5, width}, random, -3, 3);
        if (kind == 1)
          for (int64_t i = 0; i < x.size(); ++i) x.set(i, x.get(i) * 1000);
        if (kind == 2) x.set(width, NAN);
        if (kind == 3 && width > 1) x.set(width, -INFINITY);
        Case c = make_case("Softmax", {x}, {false}, {{"axis", int64_t{-1}}}, fmt::format("{} softmax of {}, kind {}", name_of(type), width, kind));
        check(c, type == DType::kBF16 ? 1.0 / 128 : 2e-6, 1e-3);
      }
}

TEST_P(RowKernel, Waves) {
  int turn = 0;
  for (int64_t channels : {2, 6, 16, 32, 34, 130})
    for (const Shape& pixels : {Shape{1, 1}, Shape{2, 35}}) {
      omp_set_num_threads(1 + turn++ % 3);
      Shape shape = pixels, one = pixels;
      shape.push_back(channels);
      one.push_back(1);
      Tensor strongest(DType::kI64, one);
      for (int64_t i = 0; i < strongest.size(); ++i) strongest.set_int(i, (i * 5 + turn) % channels);
      Tensor amplitude = random_tensor(DType::kF32, shape, random);
      if (turn % 3 == 0) amplitude.set(amplitude.size() - 1, NAN);
      std::vector<Tensor> inputs{amplitude, random_tensor(DType::kF32, shape, random), strongest,
                                 random_tensor(DType::kF32, {channels / 2}, random), random_tensor(DType::kF32, {channels / 2}, random)};
      Case c = make_case("ai.lathe::Wave", inputs, {false, false, false, true, true}, {{"axis", int64_t{2}}},
                         fmt::format("waves of {} channels", channels));
      check(c, 2e-6, 1);
    }
}

TEST_P(RowKernel, RowNorms) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const char* op : {"LayerNormalization", "RMSNormalization"})
      for (int64_t width : {1, 3, 16, 24, 33, 96, 130})
        for (int kind = 0; kind < 4; ++kind) {
          omp_set_num_threads(1 + turn++ % 3);
          const bool layer = op[0] == 'L';
          // Far from zero, where a variance from the mean of squares would cancel.
          Tensor x = random_tensor(type, {2, 3, width}, random, kind == 1 ? 100 : -1, kind == 1 ? 104 : 1);
          if (kind == 2) x.set(width, NAN);
          const Shape row = kind == 3 ? Shape{3, width} : Shape{width};
          std::vector<Tensor> inputs{x, random_tensor(layer ? DType::kF32 : type, row, random)};
          if (layer && kind != 2) inputs.push_back(random_tensor(DType::kF32, row, random));
          Case c = make_case(op, inputs, {false, true, true}, {{"axis", int64_t{kind == 3 ? 1 : -1}}, {"epsilon", 1e-3f}},
                             fmt::format("{} {} of {}, kind {}", name_of(type), op, width, kind));
          check(c, type == DType::kBF16 ? 1.0 / 128 : kind == 1 ? 2e-4 : 1e-5, 1);
        }
}

// Of whole samples, channels-last: scale and bias repeat. Parts have 4096 elements; samples of some, of one, and of a cut one.
TEST_P(RowKernel, SampleNorms) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Shape& shape :
         {Shape{1, 1, 1, 5}, Shape{3, 4, 5, 7}, Shape{2, 16, 16, 16}, Shape{2, 30, 23, 24}, Shape{1, 41, 33}, Shape{9, 40, 41, 8}})
      for (int kind = 0; kind < 4; ++kind) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor x = random_tensor(type, shape, random, kind == 1 ? 100 : -1, kind == 1 ? 104 : 1);
        if (kind == 2) x.set(x.size() / 2, NAN);
        std::vector<Tensor> inputs{x, random_tensor(DType::kF32, {shape.back()}, random)};
        if (kind != 3) inputs.push_back(random_tensor(DType::kF32, {shape.back()}, random));
        Case c = make_case("LayerNormalization", inputs, {false, true, true}, {{"axis", int64_t{1}}, {"epsilon", 1e-3f}},
                           fmt::format("{} norm of samples {}, kind {}", name_of(type), to_string(shape), kind));
        check(c, type == DType::kBF16 ? 1.0 / 128 : kind == 1 ? 2e-4 : 1e-5, 1);
      }
}

TEST_P(RowKernel, GroupNorms) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t groups : {0, 1, 2, 6})
      for (int64_t size : {1, 5, 16, 35}) {
        omp_set_num_threads(1 + turn++ % 3);
        std::vector<Tensor> inputs{random_tensor(type, {2, 6, 2, size}, random), random_tensor(DType::kF32, {6}, random), random_tensor(DType::kF32, {6}, random)};
        Attributes a{{"epsilon", 1e-3f}};
        if (groups) a["num_groups"] = groups;
        Case c = make_case(groups ? "GroupNormalization" : "InstanceNormalization", inputs, {false, true, true}, a, fmt::format("{} norm of {} groups, 2x{}", name_of(type), groups, size));
        check(c, type == DType::kBF16 ? 1.0 / 128 : 1e-5, 1);
      }
}

// Every length has a whole and a cut vector; nothing is written behind the row, and no weight goes further than to the next
// number of bf16 on either side.
TEST_P(RowKernel, RoundsWeightsSoThatErrorsCancel) {
  std::normal_distribution<float> normal(0, 1);
  double before = 0, after = 0;
  for (int64_t count = 1; count < 140; ++count) {
    std::vector<float> w(static_cast<size_t>(count)), mean(w.size());
    for (float& v : w) v = normal(random);
    for (float& v : mean) v = std::abs(normal(random));
    if (count % 10 == 3) w[count / 2] = kExtremes[count / 10 % 12];
    std::vector<uint16_t> y(w.size() + 1, 0x5a5a);
    round_row(w.data(), mean.data(), count, y.data());
    EXPECT_EQ(y.back(), 0x5a5a);
    double plain = 0, cancelled = 0;
    for (int64_t k = 0; k < count; ++k) {
      const BF16 nearest = to_bf16(w[k]);
      ASSERT_LE(std::abs(int{y[k]} - int{nearest.bits}), 1) << w[k];
      plain += (double{to_float(nearest)} - w[k]) * mean[k];
      cancelled += (double{to_float(BF16{y[k]})} - w[k]) * mean[k];
    }
    if (count % 10 == 3) continue;
    before += plain * plain;
    after += cancelled * cancelled;
  }
  EXPECT_LT(after, before / 10);
  ++checked;
}

INSTANTIATE_TEST_SUITE_P(Isa, RowKernel, ::testing::ValuesIn(available_isas()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lathe
