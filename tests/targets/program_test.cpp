// Order and places of a program's steps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "targets/mcu/arena.h"
#include "targets/mcu/program.h"

namespace lathe::mcu {
namespace {

bool overlap(const ArenaBuffer& a, const ArenaBuffer& b) {
  for (int s = std::max(a.first_step, b.first_step); s <= std::min(a.last_step(), b.last_step()); ++s)
    if (a.offset < b.offset + b.bytes[s - b.first_step] && b.offset < a.offset + a.bytes[s - a.first_step]) return true;
  return false;
}

TEST(Arena, BuffersThatLiveTogetherLieApartWhateverTheirSizesDo) {
  std::mt19937 random(5);
  int64_t arena = 0, bound = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<ArenaBuffer> buffers(random() % 12);
    for (ArenaBuffer& b : buffers) {
      b.first_step = static_cast<int>(random() % 10);
      b.bytes.resize(1 + random() % 4);
      for (int64_t& bytes : b.bytes) bytes = static_cast<int64_t>(random() % 1000);
    }
    const int64_t size = place_arena(buffers, 8), least = arena_lower_bound(buffers);
    for (size_t i = 0; i < buffers.size(); ++i) {
      EXPECT_EQ(buffers[i].offset % 8, 0);
      for (int64_t bytes : buffers[i].bytes) EXPECT_LE(buffers[i].offset + bytes, size);
      for (size_t j = 0; j < i; ++j) EXPECT_FALSE(overlap(buffers[i], buffers[j])) << round;
    }
    EXPECT_GE(size, least);
    arena += size;
    bound += least;
  }
  EXPECT_LT(static_cast<double>(arena), 1.1 * static_cast<double>(bound));
}

TEST(Arena, AShrinkingBufferMakesRoom) {
  std::vector<ArenaBuffer> buffers = {{.first_step = 0, .bytes = {100, 100, 40, 40}}, {.first_step = 2, .bytes = {60, 60}}};
  EXPECT_EQ(place_arena(buffers, 4), 100);
}

// Tensors of `sizes` bytes; steps: inputs, output.
McuProgram program_of(const std::vector<int64_t>& sizes, const std::vector<std::pair<std::vector<int>, int>>& steps) {
  McuProgram p;
  for (int64_t bytes : sizes) p.tensors.push_back({.name = "t", .shape = {bytes}});
  int node = 0;
  for (const auto& [inputs, output] : steps) {
    McuStep s{.kind = StepKind::kConvolve, .node = NodeId{node++}};
    s.inputs = inputs;
    s.output = output;
    p.steps.push_back(s);
  }
  p.inputs.push_back({.name = "x", .tensor = 0, .model_shape = {sizes[0]}});
  p.outputs.push_back({.name = "y", .tensor = static_cast<int>(sizes.size()) - 1, .model_shape = {sizes.back()}});
  return p;
}

TEST(Order, BranchesRunOneAfterTheOther) {
  // x → two large tensors → two small ones → y: as stored both large ones live together.
  McuProgram p = program_of({8, 800, 800, 16, 16, 32}, {{{0}, 1}, {{0}, 2}, {{1}, 3}, {{2}, 4}, {{3, 4}, 5}});
  McuProgram stored = p;
  place(stored);
  order_and_place(p);
  EXPECT_EQ(stored.arena_bytes, 1616);
  EXPECT_EQ(p.arena_bytes, 832);
  std::vector<int> order;
  for (const McuStep& s : p.steps) order.push_back(s.output);
  EXPECT_THAT(order, testing::AnyOf(testing::ElementsAre(1, 3, 2, 4, 5), testing::ElementsAre(2, 4, 1, 3, 5)));
}

// Least lower bound over all orders.
int64_t exhausted(const McuProgram& p, std::vector<size_t>& order, std::vector<char>& done) {
  if (order.size() == p.steps.size()) {
    McuProgram other = p;
    for (size_t i = 0; i < order.size(); ++i) other.steps[i] = p.steps[order[i]];
    place(other);
    return other.lower_bound;
  }
  int64_t best = INT64_MAX;
  for (size_t s = 0; s < p.steps.size(); ++s) {
    if (done[s]) continue;
    bool ready = true;
    for (size_t k = 0; k < p.steps.size(); ++k)
      for (int t : p.steps[s].inputs) ready = ready && (done[k] || p.steps[k].output != t);
    if (!ready) continue;
    done[s] = 1;
    order.push_back(s);
    best = std::min(best, exhausted(p, order, done));
    order.pop_back();
    done[s] = 0;
  }
  return best;
}

TEST(Order, IsAsGoodAsTheBestOfAll) {
  std::mt19937 random(3);
  int best_found = 0;
  constexpr int kRounds = 60;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<int64_t> sizes = {8 * static_cast<int64_t>(1 + random() % 50)};
    std::vector<std::pair<std::vector<int>, int>> steps;
    for (int s = 0; s < 6; ++s) {
      const int count = static_cast<int>(sizes.size());
      std::vector<int> inputs{static_cast<int>(random() % static_cast<unsigned>(count))};
      if (random() % 3 == 0) inputs.push_back(static_cast<int>(random() % static_cast<unsigned>(count)));
      steps.emplace_back(inputs, count);
      sizes.push_back(8 * static_cast<int64_t>(1 + random() % 50));
    }
    McuProgram p = program_of(sizes, steps);
    std::vector<size_t> order;
    std::vector<char> done(p.steps.size(), 0);
    const int64_t best = exhausted(p, order, done);
    order_and_place(p);
    EXPECT_GE(p.lower_bound, best) << round;
    EXPECT_LE(static_cast<double>(p.arena_bytes), 1.2 * static_cast<double>(best)) << round;
    best_found += p.lower_bound == best;
  }
  // Not always: of two orders the one whose places fit better is taken.
  EXPECT_GE(best_found, kRounds * 9 / 10);
}

}  // namespace
}  // namespace lathe::mcu
