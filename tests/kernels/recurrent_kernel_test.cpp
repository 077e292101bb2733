// LSTM, GRU and RNN against the reference: directions, both layouts, both spellings of GRU, with and without bias and
// first states, over sizes that fill vectors and do not, for every instruction set.
#include "kernel_tester.h"

namespace lathe {
namespace {

class RecurrentKernel : public EveryKernel {
 protected:
  Case make(const std::string& op, const std::string& direction, int64_t length, int64_t batch, int64_t width, int64_t hidden, int turn) {
    const int64_t directions = direction == "bidirectional" ? 2 : 1, gates = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1;
    const bool batch_first = turn % 3 == 1;
    const float small = 1 / std::sqrt(static_cast<float>(hidden + width));
    auto state = [&] { return random_tensor(DType::kF32, batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden}, random); };
    std::vector<Tensor> inputs{random_tensor(DType::kF32, batch_first ? Shape{batch, length, width} : Shape{length, batch, width}, random, -2, 2),
                               random_tensor(DType::kF32, {directions, gates * hidden, width}, random, -2 * small, 2 * small),
                               random_tensor(DType::kF32, {directions, gates * hidden, hidden}, random, -2 * small, 2 * small),
                               turn % 4 ? random_tensor(DType::kF32, {directions, 2 * gates * hidden}, random) : Tensor(), Tensor(),
                               turn % 2 ? state() : Tensor()};
    if (op == "LSTM") inputs.push_back(turn % 2 ? state() : Tensor());
    Attributes a{{"direction", direction}, {"hidden_size", hidden}, {"layout", int64_t{batch_first}}};
    if (op == "GRU") a["linear_before_reset"] = int64_t{turn / 2 % 2};
    return make_case(op, inputs, {false, true, true, true, true, false, false}, a,
                     fmt::format("{} {}, {} steps, batch {}, {} to {}, turn {}", op, direction, length, batch, width, hidden, turn), op == "LSTM" ? 3 : 2);
  }
};

TEST_P(RecurrentKernel, TakesAnySize) {
  int turn = 0;
  for (const char* op : {"LSTM", "GRU", "RNN"})
    for (const char* direction : {"forward", "reverse", "bidirectional"})
      for (int64_t hidden : {1, 3, 8, 16, 17, 31, 32, 33, 70})
        for (int64_t batch : {1, 2, 13}) {
          omp_set_num_threads(1 + turn % 3);
          Case c = make(op, direction, 1 + turn % 5, batch, 1 + turn * 7 % 23, hidden, turn);
          check(c, 5e-6, 1);
          ++turn;
        }
}

TEST_P(RecurrentKernel, StaysExactOverManySteps) {
  for (const char* op : {"LSTM", "GRU"})
    for (int turn : {1, 2, 3}) {
      Case c = make(op, "bidirectional", 120, 2, 40, 48, turn);
      check(c, 2e-5, 1);
    }
}

TEST_P(RecurrentKernel, SharesUnitsAmongThreads) {
  for (const char* op : {"LSTM", "GRU"}) {
    omp_set_num_threads(3);
    Case c = make(op, "forward", 3, 5, 30, 200, 5);
    check(c, 1e-5, 1);
  }
}

TEST_P(RecurrentKernel, SurvivesExtremes) {
  for (const char* op : {"LSTM", "GRU", "RNN"})
    for (float extreme : {NAN, INFINITY, -INFINITY, 1e30f, -1e30f}) {
      Case c = make(op, "forward", 3, 2, 5, 19, 1);
      c.inputs[0].set(1, extreme);  // of the first step: what it does goes on to the last
      c.text += fmt::format(" with {}", extreme);
      check(c, 5e-6, 1);
    }
}

// What the kernel does not do is left to the reference, not done wrong.
TEST_P(RecurrentKernel, LeavesTheRareFormsAlone) {
  auto kernels = [](const Case& c) { return kernels_for({c.graph, c.graph[c.graph.order()[0]]}).size(); };
  Case plain = make("LSTM", "forward", 2, 2, 4, 8, 1);
  EXPECT_EQ(kernels(plain), 1u);
  std::vector<std::pair<std::string, Attribute>> rare{{"clip", 1.0f}, {"input_forget", int64_t{1}}, {"activations", std::vector<std::string>{"Sigmoid", "Relu", "Tanh"}}};
  for (const auto& [name, value] : rare) {
    Case c = make("LSTM", "forward", 2, 2, 4, 8, 1);
    c.graph[c.graph.order()[0]].attributes[name] = value;
    EXPECT_EQ(kernels(c), 0u) << name;
  }
  for (int64_t shorter : {0, 1}) {
    Case c = make("LSTM", "forward", 2, 2, 4, 8, 1);
    Tensor lengths(DType::kI32, {2});
    lengths.set(0, 2);
    lengths.set(1, static_cast<double>(2 - shorter));
    c.graph[c.graph.order()[0]].inputs[4] = c.graph.add_constant(lengths);
    EXPECT_EQ(kernels(c), shorter ? 0u : 1u);
  }
  check(plain, 5e-6, 1);
}

INSTANTIATE_TEST_SUITE_P(Isa, RecurrentKernel, ::testing::ValuesIn(available_isas()), [](const auto& i) { return i.param; });

}  // namespace
}  // namespace lathe
