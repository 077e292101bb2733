// Device: a description of hardware as data. The planner and the budgeted search read nothing else about
// the machine that a network is to run on. The host is measured (kernels/probe.h); other devices are JSON
// files in devices/, written from data sheets:
//
//   Device d = read_device("devices/stm32f746.json");
//   write_device("copy.json", d);
//
// Everything that may be unknown is optional and left out of the JSON. Reading is strict: a field that is
// missing, unknown, of the wrong type or out of range is an error that names the file and the field, so
// that a misspelt field never counts as "unknown".
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace lathe {

// 10⁹ operations a second by element type. A multiply-accumulate counts as two operations.
struct Rates {
  std::optional<double> f32, bf16, int8;
  bool operator==(const Rates&) const = default;
};

struct ComputeUnit {
  std::string name;
  int64_t cores = 1;    // physical ones
  int64_t threads = 1;  // that they run at once, >= cores
  std::optional<double> clock_mhz;
  std::vector<std::string> instruction_sets;
  Rates per_core;   // one thread on an otherwise idle core
  Rates all_cores;  // all threads at once
  bool operator==(const ComputeUnit&) const = default;
};

// 10⁹ bytes a second. A copied byte counts twice: it is read and written.
struct Bandwidth {
  std::optional<double> read, copy;
  bool operator==(const Bandwidth&) const = default;
};

struct MemoryLevel {
  std::string name;       // "L1", "SRAM", "memory", …
  int64_t bytes = 0;      // of one instance
  int64_t shared_by = 1;  // hardware threads that share an instance
  Bandwidth per_core, all_cores;
  std::optional<double> picojoule_per_byte;
  bool operator==(const MemoryLevel&) const = default;
};

// What a network may take. `memory` is for activations (and weights, where there is no flash), `flash` for
// weights and code.
struct Limits {
  std::optional<int64_t> memory_bytes, flash_bytes;
  bool operator==(const Limits&) const = default;
};

struct OperationEnergy {
  std::optional<double> f32, bf16, int8;  // picojoules
  bool operator==(const OperationEnergy&) const = default;
};

struct Device {
  std::string name;
  std::string source;  // where the numbers come from: "measured", a data sheet
  std::vector<ComputeUnit> compute;  // at least one
  std::vector<MemoryLevel> memory;   // nearest to the compute units first
  Limits limits;
  OperationEnergy picojoule_per_operation;
  bool operator==(const Device&) const = default;
};

nlohmann::json to_json(const Device& device);
// Throws kInput; `where` begins the message, for instance a file name.
Device device_from_json(const nlohmann::json& json, const std::string& where);

Device read_device(const std::string& path);
void write_device(const std::string& path, const Device& device);

}  // namespace lathe
