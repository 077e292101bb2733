// Networks as C: the same bits as lathe's engine, on this machine and in the emulated microcontroller.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine.h"

namespace lathe::mcu {
namespace {

constexpr double kSeconds = 600;
const std::string kDevice = std::string(LATHE_SOURCE) + "/devices/stm32h743.json";

// The emitted C compiles without a word: warnings are errors.
const char* const kStrict = "-Werror";

struct Built {
  McuProgram program;
  Firmware firmware;
};

Built build(Graph graph, const std::string& name, const ProgramOptions& options = {}) {
  Built b{make_program(std::move(graph), options), {}};
  const std::string folder = scratch(name);
  emit_firmware(b.program, read_device(kDevice), {.name = name}, folder);
  b.firmware = read_firmware(folder);
  return b;
}

class MlperfTiny : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = std::string(LATHE_ASSETS) + "/models/mlperf_tiny_" + GetParam() + "_qdq.onnx";
    if (!std::filesystem::exists(path_)) GTEST_SKIP() << path_ << " is not here";
    if (!have_program("make")) GTEST_SKIP() << "no make";
  }
  std::string path_;
};

TEST_P(MlperfTiny, OnThisMachineTheSameBitsAsTheEngine) {
  const Built b = build(load_model(path_).graph, GetParam());
  const auto images = random_images(b.firmware.inputs, 200);
  const auto expected = run_engine(load_model(path_).graph, images);
  EXPECT_EQ(differences(run_on_host(b.firmware, images, kStrict, kSeconds).outputs, expected), 0);
  const std::vector<std::vector<Tensor>> few(images.begin(), images.begin() + 14), expected_few(expected.begin(), expected.begin() + 14);
  EXPECT_EQ(differences(run_on_host(b.firmware, few, "-Werror -DLATHE_PORTABLE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all", kSeconds).outputs, expected_few), 0);
}

TEST_P(MlperfTiny, InTheEmulatorTheSameBitsAsTheEngine) {
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  const Built b = build(load_model(path_).graph, GetParam());
  const MemoryUse use = build_firmware(b.firmware, kSeconds);
  EXPECT_EQ(use.arena, b.program.arena_bytes);
  EXPECT_EQ(use.weights, firmware_size(b.program).weights);
  const auto images = random_images(b.firmware.inputs, 100, 2);
  const Emulation e = emulate_firmware(b.firmware, images, kSeconds);
  EXPECT_EQ(differences(e.outputs, run_engine(load_model(path_).graph, images)), 0);
  EXPECT_EQ(e.images, 100);
  EXPECT_GT(e.instructions, b.program.macs / 2);  // two products an instruction at best
  EXPECT_LT(e.stack_bytes, kStackBytes);
}

TEST_P(MlperfTiny, TheArenaIsWithinTwoPercentOfItsLowerBound) {
  const McuProgram p = make_program(load_model(path_).graph);
  EXPECT_GE(p.arena_bytes, p.lower_bound);
  EXPECT_LE(static_cast<double>(p.arena_bytes), 1.02 * static_cast<double>(p.lower_bound));
}

INSTANTIATE_TEST_SUITE_P(Networks, MlperfTiny, testing::Values("vww", "ic", "kws", "ad"), [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace lathe::mcu
