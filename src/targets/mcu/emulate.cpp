#include "targets/mcu/emulate.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.h"
#include "core/json.h"
#include "targets/mcu/emit.h"
#include "targets/mcu/process.h"

namespace lathe::mcu {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostManifest = int64_t{16} << 20, kMostMap = int64_t{64} << 20;

std::string last_lines(const std::string& text) { return text.size() > 2000 ? "…" + text.substr(text.size() - 2000) : text; }

std::string absolute(const std::string& path) { return fs::absolute(path).string(); }

void make(const Firmware& f, const std::vector<std::string>& targets, const char* compiler, double seconds) {
  std::vector<std::string> arguments = {"make", "-s"};
  arguments.insert(arguments.end(), targets.begin(), targets.end());
  const ProcessResult r = run_process(arguments, f.folder, seconds);
  if (r.timed_out) fail(ErrorKind::kInput, "{}: building took longer than {} seconds", f.folder, seconds);
  if (r.code == 0) return;
  for (const char* region : {"RAM", "FLASH"})
    if (const size_t at = r.err.find(fmt::format("region `{}' overflowed by", region)); at != r.err.npos) {
      const std::string bytes = r.err.substr(at + std::string(region).size() + 23);
      fail(ErrorKind::kBudget, "{}: {} is too small by {} bytes for '{}' (the linker says)", f.device,
           region == std::string("RAM") ? "SRAM" : "flash", std::atoll(bytes.c_str()), f.name);
    }
  if (r.err.find("not found") != r.err.npos || r.err.find("No such file or directory") != r.err.npos)
    fail(ErrorKind::kInput, "{}: it cannot be built; is {} installed? (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi)\n{}", f.folder,
         compiler, last_lines(r.err));
  fail(ErrorKind::kInput, "{}: it cannot be built\n{}", f.folder, last_lines(r.err + r.out));
}

std::string concatenated(const Firmware& f, const std::vector<std::vector<Tensor>>& inputs) {
  std::string all;
  for (const std::vector<Tensor>& image : inputs) {
    if (image.size() != f.inputs.size()) fail(ErrorKind::kInput, "{} inputs are given, the network has {}", image.size(), f.inputs.size());
    for (size_t i = 0; i < image.size(); ++i) {
      const std::vector<uint8_t> bytes = input_bytes(f.inputs[i], image[i]);
      all.append(bytes.begin(), bytes.end());
    }
  }
  return all;
}

std::vector<std::vector<Tensor>> split(const Firmware& f, const std::vector<uint8_t>& bytes) {
  std::vector<std::vector<Tensor>> images;
  int64_t each = 0;
  for (int64_t b : f.output_bytes) each += b;
  if (each == 0 || static_cast<int64_t>(bytes.size()) % each != 0)
    fail(ErrorKind::kInput, "{}: outputs.bin has {} bytes, expected a multiple of {}", f.folder, bytes.size(), each);
  for (const uint8_t* at = bytes.data(); at < bytes.data() + bytes.size();) {
    std::vector<Tensor> image;
    for (size_t i = 0; i < f.outputs.size(); at += f.output_bytes[i++]) image.push_back(output_values(f.outputs[i], at));
    images.push_back(std::move(image));
  }
  return images;
}

// What main.c printed and wrote.
Emulation results(const Firmware& f, const ProcessResult& r, const std::string& folder, bool files) {
  Emulation e;
  double ticks_of_two_million = 0;
  std::vector<double> ticks(f.layers.size(), 0);
  std::istringstream lines(r.out + r.err);  // QEMU prints a program's words on either
  std::vector<uint8_t> sample;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string what, bytes;
    int64_t index = 0, value = 0;
    words >> what >> index;
    if (what == "output") {
      words >> bytes;
      for (size_t i = 0; i + 1 < bytes.size(); i += 2) sample.push_back(static_cast<uint8_t>(std::stoi(bytes.substr(i, 2), nullptr, 16)));
      continue;
    }
    words >> value;
    if (what == "ticks_of_instructions") ticks_of_two_million = static_cast<double>(value);
    if (what == "images") e.images = value;
    if (what == "stack") e.stack_bytes = value;
    if (what == "layer_ticks" && index >= 0 && index < static_cast<int64_t>(ticks.size())) ticks[index] = static_cast<double>(value);
  }
  if (e.images == 0) fail(ErrorKind::kInput, "{}: the program ended without having run\n{}", f.folder, last_lines(r.out + r.err));
  const double each = ticks_of_two_million > 0 ? 2e6 / ticks_of_two_million : 0;
  for (double t : ticks) {
    e.layer_instructions.push_back(t * each / static_cast<double>(e.images));
    e.instructions += e.layer_instructions.back();
  }
  e.outputs = split(f, files ? read_file(folder + "/outputs.bin", int64_t{1} << 30) : sample);
  return e;
}

Emulation run(const Firmware& f, const std::vector<std::string>& arguments, const std::vector<std::vector<Tensor>>& inputs,
              double seconds) {
  const TemporaryFolder folder = TemporaryFolder::of_system("lathe_run");
  if (!inputs.empty()) write_file(folder.path() + "/inputs.bin", concatenated(f, inputs));
  const ProcessResult r = run_process(arguments, folder.path(), seconds);
  if (r.timed_out) fail(ErrorKind::kInput, "{}: it ran longer than {} seconds and was ended (--timeout)", f.folder, seconds);
  if (r.code != 0) fail(ErrorKind::kInput, "{}: {} ended with code {}\n{}", f.folder, arguments[0], r.code, last_lines(r.out + r.err));
  return results(f, r, folder.path(), !inputs.empty());
}

std::vector<McuBorder> borders(const nlohmann::json& list, std::vector<int64_t>& bytes) {
  std::vector<McuBorder> result;
  for (const auto& j : list) {
    McuBorder b{.name = j.at("name"),
                .type = dtype_from_name(j.at("type").get<std::string>()),
                .model_shape = j.at("model_shape").get<Shape>(),
                .channels_last = j.at("channels_last"),
                .scale = j.at("scale"),
                .zero = j.at("zero_point")};
    bytes.push_back(j.at("bytes"));
    if (element_count(b.model_shape) * static_cast<int64_t>(size_of(b.type)) != bytes.back())
      fail(ErrorKind::kInput, "'{}' has {} bytes", b.name, bytes.back());
    result.push_back(std::move(b));
  }
  return result;
}

}  // namespace

Firmware read_firmware(const std::string& folder) {
  const std::string path = folder + "/firmware.json";
  Firmware f{.folder = absolute(folder)};
  try {
    const nlohmann::json j = parse_json(read_file(path, kMostManifest), path);
    if (j.at("lathe_firmware") != 1) fail(ErrorKind::kInput, "it is of another version");
    f.name = j.at("name");
    f.machine = j.at("machine");
    f.device = j.at("device");
    f.memory_bytes = j.at("memory_bytes");
    f.flash_bytes = j.at("flash_bytes");
    f.arena_bytes = j.at("arena_bytes");
    f.lower_bound = j.at("lower_bound");
    f.weight_bytes = j.at("weight_bytes");
    f.macs = j.at("macs");
    f.inputs = borders(j.at("inputs"), f.input_bytes);
    f.outputs = borders(j.at("outputs"), f.output_bytes);
    for (const auto& l : j.at("layers")) f.layers.push_back({l.at("name"), l.at("macs"), l.at("output").get<Shape>()});
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kInput, "{}: not what lathe emit-c writes: {}", path, e.what());
  } catch (const Error& e) {
    fail(ErrorKind::kInput, "{}: {} (lathe emit-c writes such folders)", path, e.what());
  }
  return f;
}

MemoryUse memory_of_map(const std::string& text, const std::string& name) {
  MemoryUse use;
  // Output sections stand at the beginning of a line: name, address, size; a long name has a line of its own.
  std::istringstream lines(text);
  bool in_map = false;
  std::string pending;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("Linker script and memory map")) in_map = true;
    if (!in_map) continue;
    std::istringstream words(line);
    std::string section, address, size, object;
    if (line.starts_with(".")) {
      words >> section >> address >> size;
      pending = address.empty() ? section : "";
    } else if (line.starts_with(" .rodata")) {  // of one file
      words >> section >> address >> size >> object;
      pending = address.empty() ? section : "";
    } else if (!pending.empty() && line.starts_with(" ")) {
      words >> address >> size >> object;
      section = pending;
      pending.clear();
    } else {
      continue;
    }
    if (size.empty() || !size.starts_with("0x")) continue;
    const int64_t bytes = static_cast<int64_t>(std::stoull(size, nullptr, 16));
    const bool output = line.starts_with(".") || (object.empty() && section.find('.', 1) == section.npos);
    if (!output) {
      if (section.starts_with(".rodata") && section.find("." + name + "_layer_") != section.npos) use.weights += bytes;
      if (section.starts_with(".rodata") && section.find("." + name + "_constant_") != section.npos) use.weights += bytes;
      if (section.starts_with(".rodata.input_")) use.sample += bytes;
      continue;
    }
    if (section == ".arena") use.arena = bytes;
    if (section == ".bss") use.data += bytes;
    if (section == ".stack") use.stack = bytes;
    if (section == ".data") use.data += bytes, use.constants += bytes;
    if (section == ".text") use.code += bytes;
    if (section == ".rodata" || section == ".ARM.exidx") use.constants += bytes;
  }
  return use;
}

MemoryUse build_firmware(const Firmware& f, double seconds) {
  make(f, {"build/arm/" + f.name + ".elf"}, "arm-none-eabi-gcc", seconds);
  const std::vector<uint8_t> map = read_file(f.folder + "/build/arm/" + f.name + ".map", kMostMap);
  const MemoryUse use = memory_of_map({map.begin(), map.end()}, f.name);
  if (use.arena == 0 || use.code == 0) fail(ErrorKind::kInput, "{}: the linker's map does not say where the arena lies", f.folder);
  return use;
}

Emulation emulate_firmware(const Firmware& f, const std::vector<std::vector<Tensor>>& inputs, double seconds) {
  return run(f,
             {"qemu-system-arm", "-M", f.machine, "-icount", "shift=0", "-display", "none", "-monitor", "none", "-serial", "none",
              "-semihosting-config", "enable=on,target=native", "-kernel", f.folder + "/build/arm/" + f.name + ".elf"},
             inputs, seconds);
}

Emulation run_on_host(const Firmware& f, const std::vector<std::vector<Tensor>>& inputs, const std::string& flags, double seconds) {
  make(f, {"-B", "build/host/" + f.name, "HOST_FLAGS=" + flags}, "a C compiler", seconds);
  return run(f, {f.folder + "/build/host/" + f.name}, inputs, seconds);
}

}  // namespace lathe::mcu
