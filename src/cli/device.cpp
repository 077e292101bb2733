#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "host_device.h"
#include "kernels/probe.h"

namespace lathe::cli {
namespace {

using nlohmann::json;

std::string cache_path() {
  std::string folder = user_cache_folder();
  return folder.empty() ? "" : folder + "/device.json";
}

// Nothing when the cache is missing or of another processor or version; throws when it is corrupt.
std::optional<Device> cached_device(const std::string& path, const std::string& identity) {
  if (path.empty() || !std::filesystem::exists(path)) return std::nullopt;
  std::vector<uint8_t> bytes = read_file(path, 1 << 20);
  json cache = parse_json(bytes, path);
  if (cache.at("lathe").get<std::string>() != kVersion) return std::nullopt;
  if (cache.at("processor").get<std::string>() != identity) return std::nullopt;
  return device_from_json(cache.at("device"), path);
}

std::string amount(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(units)) bytes /= 1024, ++unit;
  return fmt::format("{:.4g} {}", bytes, units[unit]);
}

std::string number(const std::optional<double>& value) {
  if (!value) return "-";
  return *value < 10 ? fmt::format("{:.3g}", *value) : fmt::format("{:.1f}", *value);
}

void print_rates(const char* title, const Rates& rates) {
  fmt::print("  {:<20} {:>10} {:>10} {:>10}\n", title, number(rates.f32), number(rates.bf16), number(rates.int8));
}

void print(const Device& device) {
  fmt::print("{}\n{}\n", device.name, device.source);
  for (const ComputeUnit& unit : device.compute) {
    fmt::print("\n{}: {} core{}, {} thread{}", unit.name, unit.cores, unit.cores > 1 ? "s" : "", unit.threads,
               unit.threads > 1 ? "s" : "");
    if (unit.clock_mhz) fmt::print(", {:.0f} MHz", *unit.clock_mhz);
    fmt::print("\n");
    if (!unit.instruction_sets.empty()) fmt::print("  {}\n", fmt::join(unit.instruction_sets, " "));
    fmt::print("  {:<20} {:>10} {:>10} {:>10}\n", "10^9 operations/s", "f32", "bf16", "int8");
    print_rates("one core", unit.per_core);
    if (unit.all_cores != Rates{}) print_rates("all threads", unit.all_cores);
  }
  if (!device.memory.empty())
    fmt::print("\n{:<12} {:>12} {:>10} {:>22} {:>22}\n{:<12} {:>12} {:>10} {:>11}{:>11} {:>11}{:>11}\n", "memory", "size",
               "shared by", "one thread, GB/s", "all threads, GB/s", "", "", "", "read", "copy", "read", "copy");
  for (const MemoryLevel& level : device.memory)
    fmt::print("{:<12.12} {:>12} {:>10} {:>11}{:>11} {:>11}{:>11}\n", level.name, amount(static_cast<double>(level.bytes)),
               level.shared_by, number(level.per_core.read), number(level.per_core.copy), number(level.all_cores.read),
               number(level.all_cores.copy));
  fmt::print("\n");
  if (device.limits.memory_bytes)
    fmt::print("memory limit {}\n", amount(static_cast<double>(*device.limits.memory_bytes)));
  if (device.limits.flash_bytes)
    fmt::print("flash limit  {}\n", amount(static_cast<double>(*device.limits.flash_bytes)));
  const OperationEnergy& energy = device.picojoule_per_operation;
  if (energy != OperationEnergy{})
    fmt::print("energy       f32 {}, bf16 {}, int8 {} pJ an operation\n", number(energy.f32), number(energy.bf16), number(energy.int8));
  for (const MemoryLevel& level : device.memory)
    if (level.picojoule_per_byte) fmt::print("             {} {} pJ a byte\n", level.name, number(level.picojoule_per_byte));
}

}  // namespace

Device host_device(bool refresh) {
  std::string path = cache_path(), identity = host_identity();
  if (!refresh) {
    try {
      if (auto device = cached_device(path, identity)) return *device;
    } catch (const std::exception& e) {
      fmt::print(stderr, "lathe: note: the cache {} is not usable, measuring anew: {}\n", path, e.what());
    }
  }
  bool terminal = ::isatty(2);
  Device device = probe_host([&](double part) {
    if (terminal) fmt::print(stderr, "\rmeasuring this machine {:3.0f} %", 100 * part);
  });
  if (terminal) fmt::print(stderr, "\r                            \r");
  if (path.empty()) return device;
  try {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    json cache = {{"lathe", kVersion}, {"processor", identity}, {"device", to_json(device)}};
    write_file(path, cache.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "lathe: note: the measurement is not kept: {}\n", e.what());
  }
  return device;
}

void add_device(CLI::App& app) {
  auto* command = app.add_subcommand("device", "Measure and describe this machine, or show a device file");
  command->footer("Examples:\n  lathe device\n  lathe device --refresh --json\n  lathe device --file devices/stm32f746.json");
  struct Options {
    bool json = false, refresh = false;
    std::string file;
  };
  auto o = std::make_shared<Options>();
  auto* file = command->add_option("--file", o->file, "Show this device file instead of this machine")->type_name("FILE");
  command->add_flag("--refresh", o->refresh, "Measure again even if an earlier measurement is kept")->excludes(file);
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] {
    Device device = o->file.empty() ? host_device(o->refresh) : read_device(o->file);
    if (o->json) fmt::print("{}\n", to_json(device).dump(-1, ' ', false, json::error_handler_t::replace));
    else print(device);
  });
}

}  // namespace lathe::cli
