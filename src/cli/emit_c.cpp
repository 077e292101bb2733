#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "firmware_commands.h"
#include "formats/npy.h"
#include "options.h"
#include "runtime/load.h"
#include "targets/mcu/emit.h"
#include "targets/mcu/tiles.h"

namespace lathe::cli {
namespace {

// "models/vww-96.int8.onnx" → "vww_96_int8"
std::string c_name(const std::string& path) {
  std::string name;
  for (char c : std::filesystem::path(path).stem().string()) {
    const char lower = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    name += std::isalnum(static_cast<unsigned char>(lower)) ? lower : '_';
  }
  if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0]))) name = "network_" + name;
  return name.substr(0, 40);
}

struct EmitCommand {
  std::string model, device, output, name, sample;
  std::vector<std::string> shapes;
  std::string tiles, tile_end;
  double tile_overhead = 0.15;
  bool json = false, no_in_place = false, no_integrate = false, outside = false;
};

mcu::TileWish tile_wish(const EmitCommand& c) {
  mcu::TileWish wish{.end = c.tile_end, .most_overhead = c.tile_overhead};
  if (c.tiles == "auto") return wish;
  const auto [rows, columns] = parse_grid(c.tiles, fmt::format("--tiles {}: expected auto or ROWSxCOLUMNS, for instance 3x3", c.tiles));
  wish.grid = mcu::Tiles{.rows = rows, .columns = columns};
  return wish;
}

void run(const EmitCommand& c) {
  const Device device = read_device(c.device);
  (void)mcu::processor_of(device);
  Model model = load_model(c.model);
  mcu::ProgramOptions options{.outside_input = c.outside, .integrate = !c.no_integrate, .in_place = !c.no_in_place};
  ModelOptions shapes;
  shapes.shapes = c.shapes;
  options.input_shapes = shapes.input_shapes(model.graph);
  std::optional<mcu::TileChoice> tiled;
  mcu::McuProgram program;
  if (c.tiles.empty()) {
    program = mcu::make_program(std::move(model.graph), options);
  } else {
    mcu::TiledProgram made = mcu::make_tiled_program(std::move(model.graph), options, tile_wish(c));
    program = std::move(made.program);
    tiled = made.choice;
  }
  mcu::FirmwareOptions firmware{.name = c.name.empty() ? c_name(c.model) : c.name,
                                .source = std::filesystem::path(c.model).filename().string()};
  if (!c.sample.empty()) firmware.sample = {read_npy(c.sample)};
  mcu::emit_firmware(program, device, firmware, c.output);
  const mcu::FirmwareSize size = mcu::firmware_size(program);
  if (c.json) {
    nlohmann::json j = {{"model", c.model},
                        {"device", device.name},
                        {"output", c.output},
                        {"name", firmware.name},
                        {"layers", program.steps.size()},
                        {"arena_bytes", program.arena_bytes},
                        {"lower_bound", program.lower_bound},
                        {"weight_bytes", size.weights},
                        {"macs", program.macs}};
    if (tiled) j["tiles"] = {{"rows", tiled->tiles.rows}, {"columns", tiled->tiles.columns}, {"end", tiled->end}, {"overhead", tiled->overhead()}};
    fmt::print("{}\n", j.dump());
    return;
  }
  for (const mcu::McuBorder& b : program.outputs)
    if (!b.note.empty()) fmt::print(stderr, "lathe: note: output '{}': {}\n", b.name, b.note);
  fmt::print("{}: {} layers, {} multiply-accumulates\n", c.output, program.steps.size(), program.macs);
  if (tiled)
    fmt::print("tiles  {}x{}, one after the other up to '{}': {:+.1f} % of the network's multiply-accumulates\n", tiled->tiles.rows, tiled->tiles.columns, tiled->end,
               100 * tiled->overhead());
  fmt::print("SRAM   arena {} bytes (lower bound {}), stack {}; {} of {} has\n", program.arena_bytes, program.lower_bound, mcu::kStackBytes,
             *device.limits.memory_bytes, device.name);
  fmt::print("flash  weights {} bytes, and code; {} of {} has\n", size.weights, *device.limits.flash_bytes, device.name);
}

}  // namespace

void add_emit_c(CLI::App& app) {
  auto* command = app.add_subcommand("emit-c", "Write a quantized network as C for a microcontroller");
  command->footer(
      "The network must be quantized to codes of 8 bits (lathe quantize). The folder builds by itself, for the device and\n"
      "for this machine; docs/MCU.md tells what is in it. Where the network does not fit the device, exit code 3.\n\n"
      "Examples:\n  lathe emit-c net.int8.onnx --device devices/stm32f746.json -o firmware\n"
      "  lathe emit-c net.int8.onnx --device devices/stm32f746.json --sample x.npy --name detector -o firmware\n"
      "  lathe emit-c net.int8.onnx --device devices/stm32f746.json --tiles auto --outside-input -o firmware");
  auto c = std::make_shared<EmitCommand>();
  command->add_option("MODEL", c->model, "A quantized ONNX file")->required()->type_name("FILE");
  command->add_option("--device", c->device, "Description of the microcontroller (devices/*.json)")->required()->type_name("FILE");
  command->add_option("-o,--output", c->output, "Folder to write")->required()->type_name("DIR");
  command->add_option("--name", c->name, "Begins all names in C (after MODEL by default)");
  command->add_option("--sample", c->sample, "Input to link in, as the model takes it (random by default)")->type_name("FILE");
  command->add_option("--shape", c->shapes, "Shape of an input whose sizes are open, for instance x=1x3x96x96 (repeat for several)")
      ->type_name("NAME=SHAPE")
      ->allow_extra_args(false);
  auto* tiles = command->add_option("--tiles", c->tiles, "Compute the first part tile by tile, for less SRAM: auto (the least), or ROWSxCOLUMNS");
  command->add_option("--tile-end", c->tile_end, "The node after which the tiles end (the one that needs least)")->type_name("NODE")->needs(tiles);
  command->add_option("--tile-overhead", c->tile_overhead, "Multiply-accumulates of the network that tiles may do twice: 0.15 is 15 %")
      ->check(CLI::Range(0.0, 1e9))->capture_default_str()->needs(tiles);
  command->add_flag("--no-in-place", c->no_in_place, "Convolutions never write over their input, to see what that saves");
  command->add_flag("--no-integrate", c->no_integrate, "Transformers layer by layer instead of token by token, to see what that saves");
  command->add_flag("--outside-input", c->outside, "The input stays where the caller has it (flash, a camera's buffer) and takes no SRAM");
  command->add_flag("--json", c->json, "One JSON object on stdout");
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
