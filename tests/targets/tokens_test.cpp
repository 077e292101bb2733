// A vision transformer as C: norms and attention in whole numbers, the same bits as lathe's engine.
#include <gtest/gtest.h>


#include "engine.h"
#include "models/models.h"
#include "quantize/quantize.h"
#include "transform/passes.h"

namespace lathe::mcu {
namespace {

constexpr double kSeconds = 600;

Graph transformer(const std::string& name, std::map<std::string, std::string> more, const char* scheme, int64_t side = 24, int64_t width = 48, int64_t depth = 2) {
  Graph g = build_model(name, {.classes = 10, .input = {3, side, side}, .depths = {depth}, .widths = {width}, .more = std::move(more), .seed = 3});
  std::mt19937 random(5);
  std::normal_distribution<float> draw;
  for (ValueId v : parameters_of(g).trained) {
    Tensor& t = g[v].constant;
    const bool norm = g[v].name.find("norm") != std::string::npos && g[v].name.ends_with("weight");
    const float spread = t.rank() == 1 ? 0.1f : 1 / std::sqrt(static_cast<float>(t.rank() == 2 ? t.dim(0) : t.size() / t.dim(0)));
    for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = (norm ? 1 : 0) + spread * draw(random);
  }
  clean_up(g);
  std::vector<Tensor> pictures;
  for (int k = 0; k < 8; ++k) {
    Tensor x(DType::kF32, {1, 3, side, side});
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = draw(random);
    pictures.push_back(x);
  }
  return quantize_network(g, parse_scheme(scheme), {pictures.size(), [pictures](size_t i) { return std::vector<Tensor>{pictures[i]}; }}).graph;
}

int64_t count(const McuProgram& p, StepKind kind) {
  return std::count_if(p.steps.begin(), p.steps.end(), [&](const McuStep& s) { return s.kind == kind; });
}

Firmware emitted(const Graph& graph, const std::string& name, McuProgram* program = nullptr, const ProgramOptions& options = {}) {
  McuProgram p = make_program(graph, options);
  const std::string folder = scratch(name);
  emit_firmware(p, read_device(std::string(LATHE_SOURCE) + "/devices/stm32f746.json"), {.name = name}, folder);
  if (program) *program = std::move(p);
  return read_firmware(folder);
}

TEST(TokensAsC, TheSameBitsAsTheEngine) {
  if (!have_program("make")) GTEST_SKIP() << "no make";
  int number = 0;
  for (const char* scheme : {"w:int8 a:int8 everywhere", "w:int8 a:uint8 everywhere"})
    for (const auto& [name, more] : {std::pair<std::string, std::map<std::string, std::string>>{"deit_tiny", {{"patch", "8"}, {"heads", "3"}}},
                                     {"mcuformer", {{"patch", "6"}, {"heads", "1"}, {"rank", "0.5"}, {"relative", "0"}}}}) {
      const Graph g = transformer(name, more, scheme);
      std::vector<std::vector<Tensor>> images, expected;
      // Every technique of MCUFormer by itself, and all eight settings: the input outside, token by token, results in the place of residuals.
      for (bool outside : {false, true})
        for (bool integrate : {false, true})
          for (bool in_place : {false, true}) {
            if (number >= 8 && !(outside && integrate && in_place)) continue;  // all of them for one network
            McuProgram p;
            const Firmware f = emitted(g, fmt::format("tokens{}", number++), &p, {.outside_input = outside, .integrate = integrate, .in_place = in_place});
            EXPECT_EQ(count(p, StepKind::kAttention), integrate ? 0 : 2);
            EXPECT_EQ(count(p, StepKind::kHeads), integrate ? 2 : 0);
            EXPECT_EQ(count(p, StepKind::kNorm), integrate ? 1 : 5);  // the last stands by itself
            EXPECT_EQ(count(p, StepKind::kTokens), integrate ? 4 : 0);
            if (images.empty()) images = random_images(f.inputs, 40), expected = run_engine(g, images);
            EXPECT_EQ(differences(run_on_host(f, images, "-Werror", kSeconds).outputs, expected), 0) << name << " " << scheme << " " << outside << integrate << in_place;
            if (outside == integrate && integrate == in_place) {
              EXPECT_EQ(differences(run_on_host(f, images, "-Werror -DLATHE_PORTABLE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all", kSeconds).outputs, expected), 0)
                  << name << " " << scheme << " " << outside;
            }
          }
    }
}

// 216 channels, 4 heads, 226 tokens: 426,688 bytes layer by layer, and 137,040 token by token (page of MCUFormer, 2.4).
TEST(TokensAsC, WhatDoesNotFitLayerByLayerFitsTokenByToken) {
  if (!have_program("make")) GTEST_SKIP() << "no make";
  const Graph g = transformer("mcuformer", {{"patch", "16"}, {"heads", "4"}, {"relative", "0"}, {"mean", "1"}}, "w:int8 a:int8 everywhere", 240, 216, 1);
  McuProgram p;
  const Firmware f = emitted(g, "tokens_large", &p, {.outside_input = true});
  EXPECT_LE(p.arena_bytes, 137040 + 1024);
  EXPECT_EQ(p.arena_bytes, p.lower_bound);
  // Each technique by itself left out.
  EXPECT_GT(make_program(g, {.outside_input = false}).arena_bytes, p.arena_bytes + 80'000);
  EXPECT_GT(make_program(g, {.outside_input = true, .integrate = false}).arena_bytes, p.arena_bytes + 140'000);
  EXPECT_GT(make_program(g, {.outside_input = true, .in_place = false}).arena_bytes, p.arena_bytes + 18'000);
  const auto images = random_images(f.inputs, 2);
  const auto expected = run_engine(g, images);
  EXPECT_EQ(differences(run_on_host(f, images, "-Werror", kSeconds).outputs, expected), 0);
  if (!have_arm()) return;
  const MemoryUse use = build_firmware(f, kSeconds);
  EXPECT_EQ(use.arena, p.arena_bytes);
  EXPECT_EQ(differences(emulate_firmware(f, images, kSeconds).outputs, expected), 0);
}

TEST(TokensAsC, InTheEmulatorTheSameBitsAsTheEngine) {
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  const Graph g = transformer("deit_tiny", {{"patch", "8"}, {"heads", "3"}}, "w:int8 a:int8 everywhere");
  McuProgram p;
  const Firmware f = emitted(g, "tokens_arm", &p);
  const MemoryUse use = build_firmware(f, kSeconds);
  EXPECT_EQ(use.arena, p.arena_bytes);
  const auto images = random_images(f.inputs, 30);
  EXPECT_EQ(differences(emulate_firmware(f, images, kSeconds).outputs, run_engine(g, images)), 0);
}

TEST(TokensAsC, WhatStaysInFloatIsNamed) {
  const Graph g = transformer("deit_tiny", {{"patch", "8"}, {"heads", "3"}}, "w:int8 a:int8");
  try {
    make_program(g);
    ADD_FAILURE() << "a norm in float was accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("is f32, expected i8 or u8"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace lathe::mcu
