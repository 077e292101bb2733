// lathe fit, and the three commands as a user calls them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "../cli/shell.h"
#include "core/file.h"
#include "engine.h"
#include "formats/image.h"
#include "formats/npy.h"
#include "models/models.h"
#include "targets/mcu/fit.h"

namespace lathe::mcu {
namespace {

using testing::HasSubstr;

// A small network in float, sixteen samples, and a device of `memory` bytes.
struct Files {
  std::string model = scratch("float.onnx"), data = scratch("samples.npy"), device = scratch("device.json");
  explicit Files(int64_t memory, int64_t flash = 2 << 20) {
    export_onnx(build_model("mobilenet_v2", {.classes = 10, .input = {3, 64, 64}, .width = 0.35}), model);
    write_npy(data, random_tensor(DType::kF32, {16, 3, 64, 64}, 1));
    Device d = read_device(std::string(LATHE_SOURCE) + "/devices/stm32h743.json");
    d.limits = {.memory_bytes = memory, .flash_bytes = flash};
    write_device(device, d);
  }
};

TEST(Fit, SaysWhatItUsesToTheByte) {
  const Files f(200000);
  const Fit fit = fit_network(f.model, read_device(f.device), {.data = f.data, .output = scratch("fit")});
  ASSERT_EQ(fit.steps.size(), 2u);
  EXPECT_TRUE(fit.steps.back().fits);
  EXPECT_LT(fit.steps[1].arena_bytes, fit.steps[0].arena_bytes);
  const Firmware firmware = read_firmware(scratch("fit"));
  EXPECT_EQ(firmware.arena_bytes, fit.steps.back().arena_bytes);
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  ASSERT_TRUE(fit.use);
  EXPECT_EQ(fit.use->arena, firmware.arena_bytes);
  EXPECT_EQ(fit.use->weights, fit.steps.back().weight_bytes);
  EXPECT_LE(fit.use->sram(), 200000);
  // What it wrote is what its own model computes.
  const auto images = random_images(firmware.inputs, 3);
  EXPECT_EQ(
      differences(emulate_firmware(firmware, images, 600).outputs, run_engine(load_model(scratch("fit") + "/model.onnx").graph, images)),
      0);
}

TEST(Fit, MakesThePictureSmallerWhereMemoryIsShort) {
  const Files f(16000);  // tiles alone need more
  std::filesystem::create_directories(scratch("pictures"));
  for (int k = 0; k < 4; ++k) {
    Image picture{64, 64, std::vector<uint8_t>(64 * 64 * 3)};
    for (size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = static_cast<uint8_t>(i * 37 * static_cast<size_t>(k + 1) >> 3);
    write_png(scratch("pictures") + "/" + std::to_string(k) + ".png", picture);
  }
  const Fit fit = fit_network(f.model, read_device(f.device), {.data = scratch("pictures"), .output = scratch("small")});
  EXPECT_GT(fit.steps.size(), 2u);
  EXPECT_LT(fit.input[2], 64);
  EXPECT_LE(fit.steps.back().arena_bytes + kStackBytes, 16000);
}

TEST(FitCommand, ExitsWithThreeAndTheNearestMiss) {
  const Files f(5000);
  const ShellResult r = lathe_command("fit " + f.model + " --device " + f.device + " --data " + f.data + " -o " + scratch("none"));
  EXPECT_EQ(r.code, 3) << r.err;
  EXPECT_THAT(r.err, testing::AllOf(HasSubstr("Nearest miss"), HasSubstr("SRAM")));
  const Files flash(1 << 20, 10000);
  const ShellResult s =
      lathe_command("fit " + flash.model + " --device " + flash.device + " --data " + flash.data + " -o " + scratch("none"));
  EXPECT_EQ(s.code, 3) << s.err;
  EXPECT_THAT(s.err, HasSubstr("flash"));
  EXPECT_EQ(lathe_command("fit " + f.model + " --device " + f.device + " -o " + scratch("none")).code, 2);  // no data
}

TEST(EmitCommand, WhatItRefusesAndWhatEmulateSays) {
  const Files f(200000);
  const ShellResult in_float = lathe_command("emit-c " + f.model + " --device " + f.device + " -o " + scratch("float"));
  EXPECT_EQ(in_float.code, 1);
  EXPECT_THAT(in_float.err, HasSubstr("lathe quantize"));
  write_file(
      scratch("absurd.json"),
      R"({"name": "x", "source": "x", "compute": [{"name": "a", "instruction_sets": ["armv7e-m"]}], "memory": [], "limits": {"memory_bytes": -5}})");
  const ShellResult absurd = lathe_command("emit-c " + f.model + " --device " + scratch("absurd.json") + " -o " + scratch("float"));
  EXPECT_EQ(absurd.code, 1);
  EXPECT_THAT(absurd.err, HasSubstr("memory_bytes"));
  EXPECT_EQ(lathe_command("emulate " + scratch("nowhere")).code, 1);
  ASSERT_EQ(lathe_command("quantize " + f.model + " --data " + f.data + " -o " + scratch("int8.onnx")).code, 0);
  const ShellResult made = lathe_command("emit-c " + scratch("int8.onnx") + " --device " + f.device + " --json -o " + scratch("made"));
  ASSERT_EQ(made.code, 0) << made.err;
  if (!have_arm()) GTEST_SKIP() << "no arm-none-eabi-gcc or no qemu-system-arm";
  write_npy(scratch("x.npy"), random_tensor(DType::kF32, {2, 3, 64, 64}, 5));
  const ShellResult ran =
      lathe_command("emulate " + scratch("made") + " --json --input " + scratch("x.npy") + " --output " + scratch("y.npy"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto j = nlohmann::json::parse(ran.out);
  EXPECT_EQ(j["images"], 2);
  EXPECT_EQ(j["arena_bytes"], nlohmann::json::parse(made.out)["arena_bytes"]);
  EXPECT_EQ(read_npy(scratch("y.npy")).shape(), (Shape{2, 10}));
  EXPECT_GT(j["instructions"], j["layers"][0]["instructions"]);
  EXPECT_EQ(lathe_command("emulate " + scratch("made") + " --timeout 1 --input " + f.model).code, 1);  // no array
}

TEST(EmitCommand, Tiles) {
  const Files f(200000);
  ASSERT_EQ(lathe_command("quantize " + f.model + " --data " + f.data + " -o " + scratch("tiled.onnx")).code, 0);
  const std::string emit = "emit-c " + scratch("tiled.onnx") + " --device " + f.device + " -o " + scratch("tiled");
  const ShellResult whole = lathe_command(emit + " --json"), tiled = lathe_command(emit + " --tiles auto --outside-input --json");
  ASSERT_EQ(whole.code, 0) << whole.err;
  ASSERT_EQ(tiled.code, 0) << tiled.err;
  const auto a = nlohmann::json::parse(whole.out), b = nlohmann::json::parse(tiled.out);
  EXPECT_LT(b["arena_bytes"].get<int64_t>() * 2, a["arena_bytes"].get<int64_t>());
  EXPECT_EQ(a["weight_bytes"], b["weight_bytes"]);
  EXPECT_LE(b["tiles"]["overhead"], 0.15);
  for (const char* bad : {"--tiles banana", "--tiles 3", "--tiles 0x3", "--tiles 3x3x3", "--tile-end stem", "--tiles 2x2 --tile-end nowhere"})
    EXPECT_EQ(lathe_command(emit + " " + bad).code, 2) << bad;
  EXPECT_EQ(lathe_command(emit + " --tiles 999x999").code, 3);
}

TEST(PlanCommand, ForMicrocontrollers) {
  const Files f(200000);
  const std::string on = " --device " + f.device;
  const ShellResult in_float = lathe_command("plan " + f.model + on);
  EXPECT_EQ(in_float.code, 1);
  EXPECT_THAT(in_float.err, HasSubstr("lathe quantize"));
  ASSERT_EQ(lathe_command("quantize " + f.model + " --data " + f.data + " -o " + scratch("planned.onnx")).code, 0);
  const ShellResult planned = lathe_command("plan " + scratch("planned.onnx") + on + " --json --svg " + scratch("planned.svg"));
  ASSERT_EQ(planned.code, 0) << planned.err;
  const auto j = nlohmann::json::parse(planned.out);
  int64_t most = 0;
  for (const auto& step : j["steps"]) most = std::max(most, step["bytes"].get<int64_t>());
  EXPECT_EQ(most, j["lower_bound"]);
  const std::vector<uint8_t> picture = read_file(scratch("planned.svg"), 1 << 20);
  EXPECT_THAT(std::string(picture.begin(), picture.end()), HasSubstr("memory over time"));
  // A transformer in float has the method's table alone.
  export_onnx(build_model("deit_tiny", {}), scratch("deit.onnx"));
  const ShellResult table = lathe_command("plan " + scratch("deit.onnx") + on + " --json"), layers = lathe_command("plan " + scratch("deit.onnx") + on + " --json --no-integrate");
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_EQ(nlohmann::json::parse(table.out)["transformer"]["bytes"], 102164);
  EXPECT_EQ(nlohmann::json::parse(layers.out)["transformer"]["bytes"], 267723);
  EXPECT_EQ(lathe_command("plan " + scratch("planned.onnx") + " --no-integrate").code, 2);
  EXPECT_EQ(lathe_command("plan " + scratch("planned.onnx") + on + " --scratchpad 1000").code, 2);
  EXPECT_EQ(lathe_command("plan " + scratch("deit.onnx") + on + " --svg " + scratch("none.svg")).code, 2);
}

}  // namespace
}  // namespace lathe::mcu
