#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "firmware_commands.h"
#include "formats/npy.h"
#include "core/error.h"
#include "targets/mcu/emulate.h"

namespace lathe::cli {
namespace {

struct EmulateCommand {
  std::string folder, output;
  std::vector<std::string> inputs;
  double timeout = 300;
  bool json = false;
};

// One file an input: an image, or several along axis 0.
std::vector<std::vector<Tensor>> images_of(const mcu::Firmware& f, const std::vector<std::string>& files) {
  if (files.empty()) return {};
  if (files.size() != f.inputs.size())
    fail(ErrorKind::kUsage, "--input: {} files are given, the network has {} inputs", files.size(), f.inputs.size());
  std::vector<std::vector<Tensor>> images;
  for (size_t i = 0; i < files.size(); ++i) {
    const Tensor x = read_npy(files[i]);
    const int64_t each = element_count(f.inputs[i].model_shape);
    if (x.size() == 0 || x.size() % each != 0)
      fail(ErrorKind::kInput, "{}: shape {}, expected {} or several of them along axis 0", files[i], to_string(x.shape()),
           to_string(f.inputs[i].model_shape));
    if (i == 0) images.resize(static_cast<size_t>(x.size() / each));
    if (static_cast<int64_t>(images.size()) != x.size() / each)
      fail(ErrorKind::kInput, "{}: {} images, the first file has {}", files[i], x.size() / each, images.size());
    for (size_t k = 0; k < images.size(); ++k) {
      Tensor one(x.dtype(), f.inputs[i].model_shape);
      std::memcpy(one.raw(), static_cast<const char*>(x.raw()) + k * one.bytes(), one.bytes());
      images[k].push_back(std::move(one));
    }
  }
  return images;
}

// All images of one output, along axis 0.
Tensor joined(const mcu::Emulation& e, size_t output) {
  const Tensor& first = e.outputs[0][output];
  Shape shape = first.shape();
  if (shape.empty()) shape = {1};
  shape[0] *= static_cast<int64_t>(e.outputs.size());
  Tensor all(first.dtype(), shape);
  for (size_t k = 0; k < e.outputs.size(); ++k)
    std::memcpy(static_cast<char*>(all.raw()) + k * first.bytes(), e.outputs[k][output].raw(), first.bytes());
  return all;
}

void run(const EmulateCommand& c) {
  const mcu::Firmware f = mcu::read_firmware(c.folder);
  const auto images = images_of(f, c.inputs);
  const mcu::MemoryUse use = mcu::build_firmware(f, c.timeout);
  const mcu::Emulation e = mcu::emulate_firmware(f, images, c.timeout);
  if (!c.output.empty()) write_npy(c.output, joined(e, 0));
  if (c.json) {
    nlohmann::json layers = nlohmann::json::array(), outputs = nlohmann::json::array();
    for (size_t i = 0; i < f.layers.size(); ++i)
      layers.push_back({{"name", f.layers[i].name}, {"macs", f.layers[i].macs}, {"instructions", e.layer_instructions[i]}});
    for (const auto& image : e.outputs) {
      nlohmann::json list = nlohmann::json::array();
      for (const Tensor& y : image) list.push_back(y.to_f32());
      outputs.push_back(std::move(list));
    }
    fmt::print("{}\n", nlohmann::json{{"firmware", c.folder},
                                      {"device", f.device},
                                      {"machine", f.machine},
                                      {"images", e.images},
                                      {"instructions", e.instructions},
                                      {"layers", layers},
                                      {"outputs", outputs},
                                      {"sram_bytes", use.sram()},
                                      {"arena_bytes", use.arena},
                                      {"data_bytes", use.data},
                                      {"stack_bytes", use.stack},
                                      {"stack_used_bytes", e.stack_bytes},
                                      {"flash_bytes", use.flash()},
                                      {"code_bytes", use.code},
                                      {"constant_bytes", use.constants},
                                      {"weight_bytes", use.weights},
                                      {"sample_bytes", use.sample}}
                           .dump());
    return;
  }
  fmt::print("{:>5}  {:40} {:20} {:>14} {:>12} {:>10}\n", "layer", "node", "output", "instructions", "MACs", "an MAC");
  for (size_t i = 0; i < f.layers.size(); ++i) {
    const auto& l = f.layers[i];
    fmt::print("{:>5}  {:40.40} {:20} {:>14.0f} {:>12} {:>10}\n", i, l.name, to_string(l.output), e.layer_instructions[i], l.macs,
               l.macs ? fmt::format("{:.2f}", e.layer_instructions[i] / static_cast<double>(l.macs)) : "");
  }
  fmt::print("\n{} {}, {:.0f} instructions an image on {} (SysTick under -icount: whole ticks of about 40)\n", e.images,
             e.images == 1 ? "image" : "images", e.instructions, f.machine);
  fmt::print("SRAM   {} bytes of {}: arena {}, other data {}, stack {} ({} used)\n", use.sram(), f.memory_bytes, use.arena, use.data,
             use.stack, e.stack_bytes);
  fmt::print("flash  {} bytes of {}: code {}, constants {} (weights {}, the linked sample {})\n", use.flash(), f.flash_bytes, use.code,
             use.constants, use.weights, use.sample);
  constexpr int64_t kShown = 16;
  for (size_t k = 0; k < e.outputs.size() && k < 4; ++k)
    for (size_t i = 0; i < f.outputs.size(); ++i) {
      const Tensor& y = e.outputs[k][i];
      std::string text;
      for (int64_t at = 0; at < std::min(y.size(), kShown); ++at) text += fmt::format(" {:.6g}", y.get(at));
      fmt::print("image {}  {} {}:{}{}\n", k, f.outputs[i].name, to_string(y.shape()), text, y.size() > kShown ? " …" : "");
    }
}

}  // namespace

void add_emulate(CLI::App& app) {
  auto* command = app.add_subcommand("emulate", "Build and run what emit-c wrote, in an emulated microcontroller");
  command->footer(
      "Needs arm-none-eabi-gcc, make and qemu-system-arm (scripts/install.sh). Instructions are counted, and the same at every run.\n\n"
      "Examples:\n  lathe emulate firmware\n  lathe emulate firmware --input x.npy --output y.npy\n  lathe emulate firmware --json | jq "
      ".instructions");
  auto c = std::make_shared<EmulateCommand>();
  command->add_option("FIRMWARE", c->folder, "A folder of lathe emit-c")->required()->type_name("DIR");
  command
      ->add_option("--input", c->inputs,
                   "Array of an input, as the model takes it, or several along axis 0; one file an input (the linked sample by default)")
      ->type_name("FILE");
  command->add_option("--output", c->output, "Where to write the first output, all images along axis 0, as .npy")->type_name("FILE");
  command->add_option("--timeout", c->timeout, "Seconds that building, and then the emulator, may take")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  command->add_flag("--json", c->json, "One JSON object on stdout");
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
