// Networks whose first layers run tile by tile: the same bits as the engine, in less memory.
#include "targets/mcu/tiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../transform/patch_networks.h"
#include "engine.h"
#include "mobilenet.h"
#include "targets/mcu/fit.h"

namespace lathe::mcu {
namespace {

constexpr double kSeconds = 600;
const std::string kDevice = std::string(LATHE_SOURCE) + "/devices/stm32h743.json";

Firmware emitted(const McuProgram& program, const std::string& name) {
  const std::string folder = scratch(name);
  emit_firmware(program, read_device(kDevice), {.name = name}, folder);
  return read_firmware(folder);
}

TEST(Tiles, RandomNetworksHaveTheBitsOfTheEngine) {
  if (!have_program("make")) GTEST_SKIP() << "no make";
  const int wanted = std::getenv("LATHE_LONG_TESTS") ? 200 : 10;
  int made = 0, tiled = 0;
  for (uint64_t seed = 1000; made < wanted && seed < 1000 + 4 * static_cast<uint64_t>(wanted); ++seed) {
    const Graph g = lathe::testing::PatchNetwork(seed, true).make(2 + static_cast<int>(seed % 5));
    const int64_t rows = 1 + static_cast<int64_t>(seed % 4), columns = 1 + static_cast<int64_t>(seed / 4 % 4);
    const bool outside = seed % 3 == 0;
    std::optional<McuProgram> program;
    try {
      program = make_tiled_program(Graph(g), {.outside_input = outside}, {.grid = Tiles{.rows = rows, .columns = columns}, .most_overhead = 100}).program;
    } catch (const Error& e) {
      // Operators of these networks that have no form in C, single tiles, and maps with fewer places than tiles.
      ASSERT_TRUE(e.kind() == ErrorKind::kUnsupported || e.kind() == ErrorKind::kBudget) << e.what();
      continue;
    }
    ++made;
    tiled += program->tile_steps > 0;
    const Firmware firmware = emitted(*program, "tiles");
    const auto images = random_images(firmware.inputs, 8, static_cast<unsigned>(seed));
    ASSERT_EQ(differences(run_on_host(firmware, images, made % 5 == 0 ? "-Werror -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" : "-Werror", kSeconds).outputs,
                          run_engine(Graph(g), images)),
              0)
        << "network " << seed << ", " << rows << "x" << columns << " tiles\n" << print(g);
  }
  EXPECT_EQ(made, wanted);
  EXPECT_EQ(tiled, made);
}

TEST(Tiles, MobileNetV2RunsInTheMemoryOfMCUNetV2) {
  const McuProgram whole = make_program(Graph(mobilenet()));
  const TiledProgram tiled = make_tiled_program(Graph(mobilenet()), {.outside_input = true}, {});
  EXPECT_LE(tiled.program.arena_bytes, 85000);  // TinyEngine's, with patches
  EXPECT_LE(static_cast<double>(tiled.program.arena_bytes), 1.02 * static_cast<double>(tiled.program.lower_bound));
  EXPECT_GE(static_cast<double>(whole.arena_bytes), 2.5 * static_cast<double>(tiled.program.arena_bytes));
  EXPECT_LE(tiled.choice.overhead(), 0.15);
  EXPECT_EQ(tiled.program.macs, tiled.choice.macs);
  EXPECT_EQ(firmware_size(tiled.program).weights, firmware_size(whole).weights);  // all tiles read the same
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  const Firmware firmware = emitted(tiled.program, "mobilenet_tiles");
  const MemoryUse use = build_firmware(firmware, kSeconds);
  EXPECT_EQ(use.arena, tiled.program.arena_bytes);
  EXPECT_EQ(use.weights, firmware_size(whole).weights);
  EXPECT_LE(use.sram(), 85000);
  const char* more = std::getenv("LATHE_TEST_IMAGES");
  const auto images = random_images(firmware.inputs, more ? std::atoi(more) : 2);
  EXPECT_EQ(differences(emulate_firmware(firmware, images, kSeconds).outputs, run_engine(Graph(mobilenet()), images)), 0);
}

TEST(Tiles, FewestMultiplicationsWithinAMemory) {
  const TiledProgram small = make_tiled_program(Graph(mobilenet()), {.outside_input = true}, {.most_arena = 60000}),
                     large = make_tiled_program(Graph(mobilenet()), {.outside_input = true}, {.most_arena = 120000});
  EXPECT_LE(small.program.arena_bytes, 60000);
  EXPECT_LE(large.program.arena_bytes, 120000);
  EXPECT_LT(large.program.macs, small.program.macs);
}

// What is thrown, as kind and words.
std::pair<ErrorKind, std::string> error_of(const Graph& g, const TileWish& wish) {
  try {
    (void)make_tiled_program(Graph(g), {}, wish);
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  return {ErrorKind::kInternal, "nothing was thrown"};
}

TEST(Tiles, WhatCannotBeIsSaid) {
  using ::testing::HasSubstr, ::testing::Pair;
  EXPECT_THAT(error_of(mobilenet(), {.end = "nowhere"}), Pair(ErrorKind::kUsage, HasSubstr("'nowhere'")));
  EXPECT_THAT(error_of(mobilenet(), {.grid = Tiles{.rows = 1000, .columns = 1000}}), Pair(ErrorKind::kBudget, HasSubstr("1000x1000")));
  EXPECT_THAT(error_of(mobilenet(), {.grid = Tiles{.rows = 1, .columns = 1}}), Pair(ErrorKind::kBudget, HasSubstr("1x1")));
  EXPECT_THAT(error_of(mobilenet(), {.most_arena = 1000}), Pair(ErrorKind::kBudget, HasSubstr("asked are 1000")));
  Graph rows;
  const ValueId x = rows.add_input("x", DType::kF32, Shape{1, 16});
  rows.outputs = {rows.add("Relu", {x})};
  EXPECT_EQ(error_of(rows, {}).first, ErrorKind::kUnsupported);
}

TEST(Fit, TilesComeBeforeASmallerPicture) {
  const std::string model = scratch("tiles.onnx");
  export_onnx(mobilenet(), model);
  Device device = read_device(kDevice);
  device.limits.memory_bytes = 120000;  // 262 kB as it is; the picture alone has 62 kB
  const Fit fit = fit_network(model, device, {.output = scratch("tiles_fit")});
  ASSERT_EQ(fit.steps.size(), 3u);
  EXPECT_THAT(fit.steps[2].what, ::testing::HasSubstr("tiles"));
  EXPECT_TRUE(fit.steps[2].fits);
  EXPECT_GT(fit.steps[2].macs, fit.steps[1].macs);
  EXPECT_EQ(read_firmware(scratch("tiles_fit")).arena_bytes, fit.steps[2].arena_bytes);
}

}  // namespace
}  // namespace lathe::mcu
