#include "targets/mcu/emit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/version.h"
#include "mcu_sources.h"
#include "runtime/load.h"
#include "targets/mcu/c_text.h"
#include "targets/mcu/layers.h"

namespace lathe::mcu {
namespace {

namespace fs = std::filesystem;

// Both memories of QEMU's MPS2 boards.
constexpr int64_t kBoardBytes = int64_t{4} << 20;

// What the files around the layers hold.
struct Files {
  const McuProgram& p;
  const LayerText& l;
  const Device& device;
  const FirmwareOptions& options;
  std::string name = options.name, NAME = upper(options.name);

  std::string border_text(const McuBorder& b) const {
    std::string text = fmt::format("\"{}\": {} {}", comment(b.name), to_string(p.tensors[b.tensor].shape), name_of(b.type));
    if (b.channels_last)
      text += fmt::format(", rows of pixels, all channels of a pixel together ({} in the model)", to_string(b.model_shape));
    if (b.scale != 0) text += fmt::format(";\n * code q stands for {:.9g} * (q - {})", b.scale, b.zero);
    if (!b.note.empty()) text += fmt::format(";\n * {}", comment(b.note));
    return text;
  }
  static const char* c_type(DType type) {
    return type == DType::kI8 ? "int8_t" : type == DType::kU8 ? "uint8_t" : type == DType::kF32 ? "float" : "int32_t";
  }

  std::string header() const {
    std::string text = fmt::format(
        "/* {}, made by lathe {}{}.\n *\n *   {}_init();\n *   … write the codes of a picture to {}_input() …\n *   {}_run();\n *   … read "
        "{}_output() …\n *\n"
        " * Inputs and outputs lie in one static arena, which a run writes over: write inputs before each run. Nothing is\n * allocated; "
        "one network runs once at a time. README.md tells what each layer is. */\n",
        name, kVersion, options.source.empty() ? "" : fmt::format(" from {}", comment(options.source)), name, name, name, name);
    text += fmt::format(
        "#ifndef LATHE_{0}_H\n#define LATHE_{0}_H\n\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n", NAME);
    text += fmt::format(
        "#define {}_ARENA_BYTES {} /* of SRAM */\n#define {}_WEIGHT_BYTES {} /* of flash */\n#define {}_LAYERS {}\n#define {}_INPUTS "
        "{}\n#define {}_OUTPUTS {}\n\n",
        NAME, p.arena_bytes, NAME, l.weight_bytes, NAME, p.steps.size(), NAME, p.inputs.size(), NAME, p.outputs.size());
    auto border = [&](const McuBorder& b, const std::string& what, size_t index, bool in) {
      const std::string suffix = index ? fmt::format("_{}", index) : "", WHAT = upper(what);
      text += fmt::format("/* {} {}, {}. */\n", in ? "Input" : "Output", index, border_text(b));
      text += fmt::format("#define {}_{}{}_COUNT {}\n", NAME, WHAT, suffix, element_count(p.tensors[b.tensor].shape));
      if (b.scale != 0)
        text += fmt::format("#define {}_{}{}_SCALE {}\n#define {}_{}{}_ZERO_POINT {}\n", NAME, WHAT, suffix, exact(b.scale), NAME, WHAT,
                            suffix, b.zero);
      if (p.tensors[b.tensor].outside)
        text += fmt::format("#define {}_INPUT_OUTSIDE 1\n/* Where the codes lie, in any memory; before each run. They are read while it runs. */\nvoid {}_set_input(const {} *codes);\n\n", NAME, name, c_type(b.type));
      else
        text += fmt::format("{}{} *{}_{}{}(void);\n\n", in ? "" : "const ", c_type(b.type), name, what, suffix);
    };
    for (size_t i = 0; i < p.inputs.size(); ++i) border(p.inputs[i], "input", i, true);
    for (size_t i = 0; i < p.outputs.size(); ++i) border(p.outputs[i], "output", i, false);
    text += fmt::format(
        "void {0}_init(void); /* clears the arena */\nvoid {0}_run(void);\n\n/* For measuring: a run is layers 0 to {1}_LAYERS − 1 in "
        "turn. */\nvoid {0}_run_layer(int layer);\nconst char *{0}_layer_name(int layer);\n\n"
        "/* All inputs and outputs, for programs that serve any network. */\nstruct {0}_tensor {{\n  const char *name;\n  void *data;\n  "
        "uint32_t bytes;\n}};\nextern const struct {0}_tensor {0}_inputs[{1}_INPUTS], {0}_outputs[{1}_OUTPUTS];\n\n",
        name, NAME);
    return text + "#ifdef __cplusplus\n}\n#endif\n\n#endif\n";
  }

  std::string source() const {
    std::string text = fmt::format(
        "/* The layers of {}, in the order in which they run. What they compute stands in kernels/; their weights in {}_weights.c. "
        "*/\n#include \"{}.h\"\n\n#include <string.h>\n\n#include \"{}_weights.h\"\n",
        name, name, name, name);
    for (const std::string& h : l.headers) text += fmt::format("#include \"{}\"\n", h);
    text += fmt::format(
        "\n#if defined(__arm__)\n__attribute__((section(\".bss.arena\"), aligned(8)))\n#else\n__attribute__((aligned(8)))\n#endif\nstatic "
        "uint8_t arena[{}_ARENA_BYTES];\n\n",
        NAME);
    if (!l.forms.empty()) text += "/* ---- One function for each form of layer: layers of one form share it. */\n\n" + l.forms;
    if (p.tensors[p.inputs[0].tensor].outside) text += "\nstatic const uint8_t *outside; /* the input, which the caller keeps */\n";
    text += "\n/* ---- The layers. */\n\n" + l.layers;
    text +=
        fmt::format("static const struct {{\n  void (*run)(void);\n  const char *name;\n}} layers[{}_LAYERS] = {{\n{}}};\n\n", NAME, l.table);
    auto tensors = [&](const std::vector<McuBorder>& borders, const std::string& what) {
      text += fmt::format("const struct {0}_tensor {0}_{1}[{2}_{3}] = {{\n", name, what, NAME, upper(what));
      for (const McuBorder& b : borders)
        text += fmt::format("    {{\"{}\", {}, {}}},\n", escaped(b.name), p.tensors[b.tensor].outside ? "0" : address(p.tensors[b.tensor]), p.tensors[b.tensor].bytes());
      text += "};\n";
    };
    tensors(p.inputs, "inputs");
    tensors(p.outputs, "outputs");
    text += "\n";
    if (p.tensors[p.inputs[0].tensor].outside)
      text += fmt::format("void {}_set_input(const {} *codes) {{ outside = (const uint8_t *)codes; }}\n", name, c_type(p.inputs[0].type));
    for (size_t i = 0; i < p.inputs.size(); ++i)
      if (!p.tensors[p.inputs[i].tensor].outside) text += fmt::format("{} *{}_input{}(void) {{ return ({} *){}_inputs[{}].data; }}\n", c_type(p.inputs[i].type), name,
                          i ? fmt::format("_{}", i) : "", c_type(p.inputs[i].type), name, i);
    for (size_t i = 0; i < p.outputs.size(); ++i)
      text += fmt::format("const {} *{}_output{}(void) {{ return (const {} *){}_outputs[{}].data; }}\n", c_type(p.outputs[i].type), name,
                          i ? fmt::format("_{}", i) : "", c_type(p.outputs[i].type), name, i);
    text += fmt::format(
        "\nvoid {0}_init(void) {{ memset(arena, 0, sizeof arena); }}\n\nvoid {0}_run_layer(int layer) {{ layers[layer].run(); }}\n\nconst "
        "char *{0}_layer_name(int layer) {{ return layers[layer].name; }}\n\n"
        "void {0}_run(void) {{\n  for (int i = 0; i < {1}_LAYERS; ++i) layers[i].run();\n}}\n",
        name, NAME);
    return text;
  }

  static std::string escaped(const std::string& text) {
    std::string out;
    for (char c : text) {
      if (c == '"' || c == '\\' || c == '?') out += '\\';  // ? for trigraphs
      out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
    return out;
  }

  std::string sample_header() const {
    return fmt::format(
        "/* An input for main.c to run where no file is at hand. */\n#ifndef SAMPLE_H\n#define SAMPLE_H\n\n#include <stdint.h>\n\nextern "
        "const uint8_t *const sample_inputs[{}];\n\n#endif\n",
        p.inputs.size());
  }
  std::string sample_source() const {
    std::string text = "#include \"sample.h\"\n", list;
    std::vector<Tensor> sample = options.sample;
    for (size_t i = 0; i < p.inputs.size(); ++i) {
      const McuBorder& b = p.inputs[i];
      const std::vector<uint8_t> bytes = i < sample.size() ? input_bytes(b, sample[i]) : random_codes(b, i);
      text += fmt::format("\nstatic const uint8_t input_{}[{}] = {{{}}};\n", i, bytes.size(),
                          array_of(bytes, 24, [](uint8_t x) { return std::to_string(x); }));
      list += fmt::format("{}input_{}", i ? ", " : "", i);
    }
    return text + fmt::format("\nconst uint8_t *const sample_inputs[{}] = {{{}}};\n", p.inputs.size(), list);
  }
  std::vector<uint8_t> random_codes(const McuBorder& b, size_t seed) const {
    const Tensor uniform = random_tensor(DType::kF32, p.tensors[b.tensor].shape, seed + 1);
    std::vector<uint8_t> bytes(static_cast<size_t>(uniform.size()));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(uniform.data<float>()[i] * 255.99f);
    return bytes;
  }

  nlohmann::json manifest(const Processor& cpu) const {
    auto borders = [&](const std::vector<McuBorder>& list) {
      nlohmann::json j = nlohmann::json::array();
      for (const McuBorder& b : list)
        j.push_back({{"name", b.name},
                     {"type", name_of(b.type)},
                     {"model_shape", b.model_shape},
                     {"channels_last", b.channels_last},
                     {"scale", b.scale},
                     {"zero_point", b.zero},
                     {"bytes", p.tensors[b.tensor].bytes()}});
      return j;
    };
    nlohmann::json steps = nlohmann::json::array();
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const McuStep& s = p.steps[i];
      steps.push_back({{"name", s.name},
                       {"function", l.functions[i]},
                       {"macs", s.macs},
                       {"input", s.inputs.empty() ? Shape{} : p.tensors[s.inputs[0]].shape},
                       {"output", p.tensors[s.output].shape},
                       {"offset", p.tensors[s.output].offset},
                       {"scratch_bytes", s.scratch_bytes},
                       {"in_place", s.in_place >= 0}});
      const Node& n = p.graph[s.node];
      if (n.op->name == "IntegerConv") {
        const Shape& w = p.graph[n.inputs[1]].constant.shape();
        steps.back()["window"] = {{"kernel", {w[2], w[3]}},
                                  {"strides", n.get_ints("strides")},
                                  {"pads", n.get_ints("pads")},
                                  {"dilations", n.get_ints("dilations")},
                                  {"group", n.get_int("group")}};
      }
    }
    return {{"lathe_firmware", 1},
            {"name", name},
            {"source", options.source},
            {"device", device.name},
            {"memory_bytes", *device.limits.memory_bytes},
            {"flash_bytes", *device.limits.flash_bytes},
            {"machine", cpu.machine},
            {"arena_bytes", p.arena_bytes},
            {"lower_bound", p.lower_bound},
            {"weight_bytes", l.weight_bytes},
            {"macs", p.macs},
            {"inputs", borders(p.inputs)},
            {"outputs", borders(p.outputs)},
            {"layers", steps}};
  }

  std::string readme() const {
    std::string text = fmt::format("# {}\n\nC99 made by lathe {}{} for {}.\n\n", name, kVersion,
                                   options.source.empty() ? "" : " from " + options.source, device.name);
    text += fmt::format(
        "- `{0}.h`: what a program calls. `{0}.c`: the layers. `{0}_weights.c`: their weights. `kernels/`: how layers are computed.\n"
        "- `board/`: start-up, linker script and a `main()` for QEMU's board; a program of its own needs none of it.\n"
        "- `make` builds for the device (arm-none-eabi-gcc), `make host` for this machine; so does `CMakeLists.txt`.\n"
        "- `lathe emulate .` builds, runs and measures it.\n\nArena {1} bytes of SRAM (lower bound of its tensors {2}), weights {3} bytes "
        "of flash, {4} multiply-accumulates.\n\n",
        name, p.arena_bytes, p.lower_bound, l.weight_bytes, p.macs);
    text +=
        "| layer | function | node | shapes | place in the arena | multiply-accumulates | bytes of constants "
        "|\n|---|---|---|---|---|---|---|\n" +
        l.rows;
    return text;
  }
};

std::string replaced(std::string text, const std::vector<std::pair<std::string, std::string>>& words) {
  for (const auto& [from, to] : words)
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

// Only an empty or new folder, or one of firmware.
void check_folder(const std::string& folder) {
  std::error_code error;
  if (folder.empty()) fail(ErrorKind::kUsage, "-o: the name of a folder is empty");
  const fs::path path = folder;
  if (!fs::exists(path, error)) return;
  if (!fs::is_directory(path, error)) fail(ErrorKind::kUsage, "-o {}: it is not a folder", folder);
  if (!fs::is_empty(path, error) && !fs::exists(path / "firmware.json", error))
    fail(ErrorKind::kUsage, "-o {}: the folder holds other things than firmware of lathe; choose another", folder);
}

}  // namespace

void emit_firmware(const McuProgram& p, const Device& device, const FirmwareOptions& options, const std::string& folder) {
  const Processor cpu = processor_of(device);
  const bool plain = !options.name.empty() && !std::isdigit(static_cast<unsigned char>(options.name[0])) && options.name.size() <= 40 &&
                     options.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == options.name.npos;
  if (!plain) fail(ErrorKind::kUsage, "--name {}: expected lower-case letters, digits and _, as names in C are", options.name);
  if (p.inputs.empty() || p.outputs.empty() || p.steps.empty())
    fail(ErrorKind::kUnsupported, "the network has no input, no output or nothing to compute");
  check_budget(p, device);
  check_folder(folder);
  LayerText l = write_layers(p, options.name);
  const Files e{.p = p, .l = l, .device = device, .options = options};
  const std::string arm =
      fmt::format("-mcpu={} {}", cpu.cpu, cpu.fpu.empty() ? "-mfloat-abi=soft" : fmt::format("-mfpu={} -mfloat-abi=hard", cpu.fpu));
  const std::vector<std::pair<std::string, std::string>> words = {
      {"@name@", e.name},
      {"@NAME@", e.NAME},
      {"@arm_flags@", arm},
      {"@device@", comment(device.name)},
      {"@machine@", cpu.machine},
      {"@memory@", std::to_string(std::min(*device.limits.memory_bytes, kBoardBytes))},
      {"@flash@", std::to_string(std::min(*device.limits.flash_bytes, kBoardBytes))},
      {"@stack@", std::to_string(kStackBytes)},
      {"@outside@", cpu.machine == "mps2-an500" ? "0x60000000" : "0x21000000"}};  // the board's external RAM
  std::error_code error;
  for (const char* inner : {"", "/kernels", "/board"})
    if (fs::create_directories(folder + inner, error); error) fail(ErrorKind::kInput, "-o {}: cannot be made: {}", folder, error.message());
  // The manifest last: it says that the rest is there.
  fs::remove(fs::path(folder) / "firmware.json", error);
  write_file(folder + "/" + e.name + ".h", e.header());
  write_file(folder + "/" + e.name + ".c", e.source());
  write_file(
      folder + "/" + e.name + "_weights.h",
      fmt::format("#ifndef LATHE_{0}_WEIGHTS_H\n#define LATHE_{0}_WEIGHTS_H\n\n#include <stdint.h>\n\n{1}\n#endif\n", e.NAME, l.weights_h));
  write_file(folder + "/" + e.name + "_weights.c",
             fmt::format("/* Parameters of the layers as kernels/ reads them: biases with the input's zero point in them, multipliers, "
                         "weights. */\n#include \"{}_weights.h\"\n{}",
                         e.name, l.weights_c));
  l.headers.insert("dsp.h");  // what the others include
  for (const auto& [file, text] : mcu_sources()) {
    const std::string name(file);
    if (name.starts_with("board_")) {
      const std::string board = name.substr(6);
      const bool top = board == "Makefile" || board == "CMakeLists.txt";
      write_file((fs::path(folder) / (top ? "" : "board") / board).string(), replaced(std::string(text), words));
    } else if (l.headers.contains(name)) {
      write_file((fs::path(folder) / "kernels" / name).string(), text);
    } else {
      fs::remove(fs::path(folder) / "kernels" / name, error);
    }
  }
  write_file(folder + "/board/sample.h", e.sample_header());
  write_file(folder + "/board/sample.c", e.sample_source());
  write_file(folder + "/README.md", e.readme());
  write_file(folder + "/firmware.json", e.manifest(cpu).dump(2) + "\n");
}

}  // namespace lathe::mcu
