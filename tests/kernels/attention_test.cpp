// Fused attention against the reference, over both layouts, masks, caches, windows and shared heads, for every
// instruction set; and heads that stand inside other tensors.
#include "kernel_tester.h"

namespace lathe {
namespace {

class AttentionKernel : public EveryKernel {};

struct Sizes {
  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
};

std::string text_of(DType type, const Sizes& s) {
  return fmt::format("{} attention, batch {}, heads {}/{}, {} queries, {} keys of {}, values of {}", name_of(type), s.batch, s.heads, s.kv_heads, s.queries,
                     s.keys, s.width, s.value_width);
}

// Around the tile of 12 rows, the vector, the panel of 32 and the block of 256 keys.
const Sizes kSizes[] = {{1, 1, 1, 1, 1, 1, 1},    {2, 3, 3, 5, 7, 20, 20},    {1, 2, 2, 12, 16, 64, 64},   {1, 4, 2, 13, 33, 32, 48}, {1, 6, 1, 25, 17, 8, 3},
                        {1, 2, 2, 67, 67, 64, 64}, {1, 1, 1, 3, 257, 16, 130}, {1, 2, 1, 11, 300, 130, 17}, {1, 1, 1, 40, 613, 24, 40}, {1, 1, 1, 2, 70, 200, 5}};

Case attention(std::mt19937& random, DType type, const Sizes& s, bool packed, Tensor mask, Attributes a, const std::string& text) {
  auto shape = [&](int64_t heads, int64_t rows, int64_t width) { return packed ? Shape{s.batch, rows, heads * width} : Shape{s.batch, heads, rows, width}; };
  if (packed) {
    a["q_num_heads"] = s.heads;
    a["kv_num_heads"] = s.kv_heads;
  }
  std::vector<Tensor> inputs{random_tensor(type, shape(s.heads, s.queries, s.width), random), random_tensor(type, shape(s.kv_heads, s.keys, s.width), random),
                             random_tensor(type, shape(s.kv_heads, s.keys, s.value_width), random)};
  if (mask.defined()) inputs.push_back(std::move(mask));
  return make_case("Attention", std::move(inputs), {false, false, false, false}, std::move(a), text_of(type, s) + text);
}

TEST_P(AttentionKernel, TakesBothLayouts) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Sizes& s : kSizes)
      for (bool packed : {false, true}) {
        omp_set_num_threads(1 + turn++ % 3);
        Attributes a;
        if (turn % 3) a["scale"] = turn % 3 == 1 ? 0.7f : -0.3f;
        if (turn % 5 == 0) a["softcap"] = 2.5f;
        Case c = attention(random, type, s, packed, {}, a, packed ? ", packed" : "");
        check(c, tolerance(type));
      }
}

TEST_P(AttentionKernel, MasksAndWindows) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Sizes& s : kSizes)
      for (int kind = 0; kind < 7; ++kind) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor mask;
        Attributes a;
        const Shape shapes[] = {{s.queries, s.keys}, {s.batch, 1, s.queries, s.keys}, {1, s.heads, 1, s.keys}};
        const Shape& shape = shapes[turn % 3];
        if (kind == 0) mask = random_tensor(type, shape, random, -3, 3);
        if (kind == 1) {  // some hidden for good, a whole row among them
          mask = random_tensor(DType::kF32, shape, random);
          for (int64_t i = 0; i < mask.size(); ++i)
            if (i < s.keys || mask.get(i) < 0) mask.set(i, i % 2 ? -INFINITY : -std::numeric_limits<float>::max());
        }
        if (kind == 2) {
          Tensor numbers = random_tensor(DType::kF32, shape, random);
          mask = Tensor(DType::kBool, shape);
          for (int64_t i = 0; i < mask.size(); ++i) mask.set_int(i, i >= s.keys && numbers.get(i) > 0);
        }
        if (kind == 3 || kind == 4) a["is_causal"] = int64_t{1};
        if (kind == 4 || kind == 5) a["left_window_size"] = int64_t{4};
        if (kind == 5) a["right_window_size"] = int64_t{2};
        if (kind == 6) mask = random_tensor(DType::kF32, {1, (s.keys + 1) / 2}, random);  // hides the keys that it does not reach
        Case c = attention(random, type, s, turn % 2, mask, a, fmt::format(", kind {}", kind));
        check(c, tolerance(type));
      }
}

TEST_P(AttentionKernel, KeepsACache) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Sizes& s : kSizes)
      for (int64_t past : {1, 6, 250}) {
        omp_set_num_threads(1 + turn++ % 3);
        Attributes a{{"is_causal", int64_t{turn % 2}}};
        Case plain = attention(random, type, s, false, {}, a, "");
        std::vector<Tensor> inputs = plain.inputs;
        inputs.push_back({});
        inputs.push_back(random_tensor(type, {s.batch, s.kv_heads, past, s.width}, random));
        inputs.push_back(random_tensor(type, {s.batch, s.kv_heads, past, s.value_width}, random));
        Case c = make_case("Attention", inputs, std::vector<bool>(6), a, text_of(type, s) + fmt::format(", {} cached", past), 3);
        check(c, tolerance(type));
      }
}

// One query a head, alone or sharing its keys with up to five others: the few rows read keys and values where they lie.
TEST_P(AttentionKernel, DecodesOneToken) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t group : {1, 2, 3, 4, 5, 6})
      for (int64_t keys : {1, 3, 5, 31, 33, 258, 530})
        for (int64_t past : {0, 1, 37, 300}) {
          omp_set_num_threads(1 + turn++ % 3);
          const int64_t widths[] = {1, 8, 20, 33, 64, 70, 130};
          const Sizes s{1 + turn % 2, 2 * group, 2, 1, keys, widths[turn % 7], widths[turn / 2 % 7]};
          Attributes a;
          if (turn % 4 == 1) a["softcap"] = 2.0f;
          if (turn % 4 == 2) a["left_window_size"] = int64_t{20};
          std::vector<Tensor> inputs = attention(random, type, s, false, turn % 3 ? Tensor() : random_tensor(DType::kF32, {s.keys + past}, random, -2, 2), a, "").inputs;
          inputs.resize(4);
          if (past) {
            inputs.push_back(random_tensor(type, {s.batch, s.kv_heads, past, s.width}, random));
            inputs.push_back(random_tensor(type, {s.batch, s.kv_heads, past, s.value_width}, random));
          }
          Case c = make_case("Attention", inputs, std::vector<bool>(inputs.size()), a, text_of(type, s) + fmt::format(", {} cached, turn {}", past, turn), past ? 3 : 1);
          check(c, tolerance(type));
        }
}

TEST_P(AttentionKernel, IgnoresPadding) {
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t valid : {0, 1, 5, 20}) {
      const Sizes s{2, 2, 2, 4, 20, 16, 16};
      Attributes a{{"is_causal", int64_t{valid % 2}}};
      std::vector<Tensor> inputs = attention(random, type, s, false, {}, a, "").inputs;
      for (int64_t i = valid * 16; i < 20 * 16; ++i) inputs[2].set(i, NAN);  // of the first head: never to be read
      inputs.resize(6);
      inputs.push_back(Tensor::of_i64({valid, 20}));
      Tensor second = inputs[2];
      for (int64_t i = second.size() / 4 + valid * 16; i < second.size() / 2; ++i) inputs[2].set(i, NAN);
      Case c = make_case("Attention", inputs, std::vector<bool>(7), a, text_of(type, s) + fmt::format(", {} valid", valid));
      check(c, tolerance(type));
    }
}

// Scores that overflow an exponent, and numbers that are none.
TEST_P(AttentionKernel, SurvivesExtremes) {
  for (DType type : {DType::kF32, DType::kBF16})
    for (int kind = 0; kind < 3; ++kind) {
      const Sizes s{1, 1, 1, 14, 40, 16, 16};
      Case c = attention(random, type, s, false, {}, {}, fmt::format(", extreme {}", kind));
      if (kind == 0)
        for (int64_t i = 0; i < c.inputs[0].size(); ++i) c.inputs[0].set(i, c.inputs[0].get(i) * 1000);
      if (kind == 1) c.inputs[0].set(3 * 16 + 1, NAN);
      if (kind == 2) c.inputs[1].set(0, NAN);
      check(c, tolerance(type));
    }
}

// Q, K and V inside one projection [tokens, batch, 3, heads, width], the result as [tokens, batch, heads · width].
TEST_P(AttentionKernel, ReadsHeadsWhereTheyStand) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t batch : {1, 3})
      for (int64_t tokens : {1, 14, 70}) {
        omp_set_num_threads(1 + turn++ % 3);
        const int64_t heads = 2, width = 6, all = 3 * heads * width;
        Tensor x = random_tensor(type, {tokens, batch, all}, random);
        auto view = [&](int64_t part) { return Ints{part * heads * width, all, width, batch * all}; };
        Attributes a{{"batch", batch}, {"q_num_heads", heads}, {"kv_num_heads", heads}, {"queries", tokens}, {"keys", tokens}, {"head_size", width},
                     {"value_size", width}, {"q_view", view(0)}, {"k_view", view(1)}, {"v_view", view(2)},
                     {"y_view", Ints{0, heads * width, width, batch * heads * width}}, {"y_shape", Ints{tokens, batch, heads * width}}, {"scale", 0.5f}};
        Case c = make_case("ai.lathe::Attention", {x, x, x}, {false, false, false}, a, fmt::format("{} heads in place, batch {}, {} tokens", name_of(type), batch, tokens));
        check(c, tolerance(type));
      }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionKernel, ::testing::ValuesIn(available_isas()), [](const auto& info) { return info.param; });

// What a file might hold: views that leave their tensors or write an element twice.
TEST(FusedAttention, ImpossibleViewsAreRefused) {
  const Attributes good{{"batch", int64_t{1}}, {"q_num_heads", int64_t{2}}, {"kv_num_heads", int64_t{2}}, {"queries", int64_t{3}}, {"keys", int64_t{3}},
                        {"head_size", int64_t{4}}, {"value_size", int64_t{4}}, {"q_view", Ints{0, 0, 4, 8}}, {"k_view", Ints{0, 0, 4, 8}},
                        {"v_view", Ints{0, 0, 4, 8}}, {"y_view", Ints{0, 0, 4, 8}}, {"y_shape", Ints{3, 8}}};
  Tensor x = Tensor::of_f32({3, 8}, std::vector<float>(24, 1));
  auto build = [&](const char* name, Attribute value) {
    Attributes a = good;
    if (*name) a[name] = std::move(value);
    return make_case("ai.lathe::Attention", {x, x, x}, {false, false, false}, a, name);
  };
  EXPECT_NO_THROW(build("", int64_t{0}));
  EXPECT_THROW(build("q_view", Ints{1, 0, 4, 8}), Error);
  EXPECT_THROW(build("k_view", Ints{0, 0, 4, 9}), Error);
  EXPECT_THROW(build("v_view", Ints{-1, 0, 4, 8}), Error);
  EXPECT_THROW(build("v_view", Ints{0, 0, -4, 8}), Error);
  EXPECT_THROW(build("v_view", Ints{0, 0, int64_t{1} << 62, 8}), Error);
  EXPECT_THROW(build("v_view", Ints{0, 0, 4}), Error);
  EXPECT_THROW(build("y_view", Ints{0, 0, 8, 8}), Error);
  EXPECT_THROW(build("y_view", Ints{0, 0, 4, 4}), Error);
  EXPECT_THROW(build("y_shape", Ints{3, 9}), Error);
  EXPECT_THROW(build("queries", int64_t{0}), Error);
  EXPECT_THROW(build("keys", int64_t{1} << 61), Error);
  EXPECT_THROW(build("kv_num_heads", int64_t{0}), Error);
}

}  // namespace
}  // namespace lathe
