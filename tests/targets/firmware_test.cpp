// Networks as C: the same bits as lathe's engine, on this machine and in the emulated microcontroller.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/file.h"
#include "engine.h"
#include "mobilenet.h"
#include "targets/mcu/process.h"

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
  EXPECT_EQ(differences(run_on_host(b.firmware, few,
                                    "-Werror -DLATHE_PORTABLE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all", kSeconds)
                            .outputs,
                        expected_few),
            0);
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

INSTANTIATE_TEST_SUITE_P(Networks, MlperfTiny, testing::Values("vww", "ic", "kws", "ad"),
                         [](const auto& info) { return std::string(info.param); });

TEST(FirmwareOfMobilenet, StaysBelowThePublishedMemoryWithoutPatches) {
  const McuProgram p = make_program(Graph(mobilenet()));
  EXPECT_LE(p.arena_bytes, 308000);  // TinyEngine's, mcunetv2 2.7
  EXPECT_LE(static_cast<double>(p.arena_bytes), 1.02 * static_cast<double>(p.lower_bound));
  const McuProgram apart = make_program(Graph(mobilenet()), {.in_place = false});
  EXPECT_GT(static_cast<double>(apart.arena_bytes), 1.15 * static_cast<double>(p.arena_bytes));
}

TEST(FirmwareOfMobilenet, TheSameBitsAsTheEngine) {
  if (!have_program("make")) GTEST_SKIP() << "no make";
  const Built b = build(Graph(mobilenet()), "mobilenet");
  // An image takes a second in the emulator: few of them, unless the environment asks for more.
  const char* more = std::getenv("LATHE_TEST_IMAGES");
  const int emulated = more ? std::atoi(more) : 3;
  const auto images = random_images(b.firmware.inputs, std::max(emulated, 10));
  const auto expected = run_engine(Graph(mobilenet()), images);
  EXPECT_EQ(differences(run_on_host(b.firmware, images, kStrict, kSeconds).outputs, expected), 0);
  if (!have_arm()) return;
  const MemoryUse use = build_firmware(b.firmware, kSeconds);
  EXPECT_EQ(use.arena, b.program.arena_bytes);
  EXPECT_LE(use.sram(), 308000);
  const std::vector<std::vector<Tensor>> few(images.begin(), images.begin() + emulated);
  EXPECT_EQ(differences(emulate_firmware(b.firmware, few, kSeconds).outputs, {expected.begin(), expected.begin() + emulated}), 0);
}

TEST(Firmware, UsesNoHeap) {
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  const Built b = build(Graph(mobilenet()), "mobilenet");
  (void)build_firmware(b.firmware, kSeconds);
  const ProcessResult r = run_process({"arm-none-eabi-nm", "build/arm/mobilenet.elf"}, b.firmware.folder, kSeconds);
  EXPECT_THAT(r.out, testing::HasSubstr("mobilenet_run"));
  for (const char* symbol : {"malloc", "calloc", "realloc", "_sbrk", "free"}) EXPECT_THAT(r.out, testing::Not(testing::HasSubstr(symbol)));
}

// What is thrown, as kind and words.
std::pair<ErrorKind, std::string> error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  return {ErrorKind::kInternal, "nothing was thrown"};
}

TEST(Firmware, WhatCannotBeEmittedIsNamed) {
  using testing::AllOf, testing::HasSubstr, testing::Pair;
  Graph g;
  const ValueId x = g.add_input("picture", DType::kF32, Shape{1, 3, 8, 8});
  g.outputs = {g.add("Relu", {x}, {}, "activation")};
  EXPECT_THAT(error_of([&] { (void)make_program(Graph(g)); }),
              Pair(ErrorKind::kUnsupported, AllOf(HasSubstr("activation"), HasSubstr("Relu"), HasSubstr("lathe quantize"))));
  // A node in float among codes.
  Graph mixed(mobilenet());
  mixed.outputs = {mixed.add("Sin", {mixed.outputs[0]}, {}, "wave")};
  EXPECT_THAT(error_of([&] { (void)make_program(Graph(mixed)); }), Pair(ErrorKind::kUnsupported, HasSubstr("wave")));
  // A batch.
  Graph batch(mobilenet());
  EXPECT_THAT(error_of([&] {
                (void)make_program(Graph(batch), {.input_shapes = {{batch[batch.inputs[0]].name, {2, 3, 144, 144}}}});
              }).second,
              HasSubstr("[2, 3, 144, 144]"));
}

TEST(Firmware, DevicesThatAreNoneAreRefused) {
  using testing::HasSubstr, testing::Pair;
  Device d = read_device(kDevice);
  d.limits.flash_bytes.reset();
  EXPECT_THAT(error_of([&] { (void)processor_of(d); }), Pair(ErrorKind::kInput, HasSubstr("flash_bytes")));
  EXPECT_THAT(error_of([&] { (void)processor_of(read_device(std::string(LATHE_SOURCE) + "/devices/scratchpad-generic.json")); }).second,
              HasSubstr("scratchpad-generic"));
  for (const char* name : {"stm32f746", "stm32f412", "stm32h743", "nano33ble"}) {
    const Processor p = processor_of(read_device(std::string(LATHE_SOURCE) + "/devices/" + name + ".json"));
    EXPECT_THAT(p.machine, HasSubstr("mps2-an")) << name;
  }
}

TEST(Firmware, WhatDoesNotFitSaysByHowMuch) {
  using testing::AllOf, testing::HasSubstr, testing::Pair;
  const McuProgram p = make_program(Graph(mobilenet()));
  Device d = read_device(kDevice);
  d.limits.memory_bytes = p.arena_bytes + kStackBytes - 100;
  EXPECT_THAT(error_of([&] { check_budget(p, d); }), Pair(ErrorKind::kBudget, AllOf(HasSubstr("100 more"), HasSubstr("SRAM"))));
  d.limits.memory_bytes = 1;
  EXPECT_EQ(error_of([&] { check_budget(p, d); }).first, ErrorKind::kBudget);
  d = read_device(kDevice);
  d.limits.flash_bytes = firmware_size(p).weights - 7;
  EXPECT_THAT(error_of([&] { check_budget(p, d); }), Pair(ErrorKind::kBudget, AllOf(HasSubstr("7 more"), HasSubstr("flash"))));
  // Weights that just fit, and no room for code: the linker tells.
  if (!have_arm()) return;
  d.limits.flash_bytes = firmware_size(p).weights + 100;
  emit_firmware(p, d, {.name = "tight"}, scratch("tight"));
  EXPECT_THAT(error_of([&] { (void)build_firmware(read_firmware(scratch("tight")), kSeconds); }),
              Pair(ErrorKind::kBudget, AllOf(HasSubstr("flash"), HasSubstr("too small by"))));
}

TEST(Firmware, FoldersOfOthersAreLeftAlone) {
  const McuProgram p = make_program(Graph(mobilenet()));
  const std::string folder = scratch("mine");
  std::filesystem::create_directories(folder);
  write_file(folder + "/thesis.txt", "years of work");
  EXPECT_EQ(error_of([&] { emit_firmware(p, read_device(kDevice), {.name = "x"}, folder); }).first, ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { emit_firmware(p, read_device(kDevice), {.name = "../x"}, scratch("x")); }).first, ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { (void)read_firmware(folder); }).first, ErrorKind::kInput);
  write_file(folder + "/firmware.json", "{\"lathe_firmware\": 1}");
  EXPECT_EQ(error_of([&] { (void)read_firmware(folder); }).first, ErrorKind::kInput);
}

TEST(Process, TimeAndMissingProgramsAreErrorsOrTold) {
  EXPECT_TRUE(run_process({"sleep", "100"}, "/", 0.2).timed_out);
  EXPECT_EQ(error_of([] { (void)run_process({"no-such-program-of-lathe"}, "/", 5); }).first, ErrorKind::kInput);
  const ProcessResult r = run_process({"sh", "-c", "echo out; echo err >&2; exit 7"}, "/", 60);
  EXPECT_EQ(r.code, 7);
  EXPECT_EQ(r.out, "out\n");
  EXPECT_EQ(r.err, "err\n");
}

}  // namespace
}  // namespace lathe::mcu
