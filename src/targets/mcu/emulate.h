// Firmware that emit_firmware() wrote: built, measured by the linker, and run in QEMU, where time is counted in instructions
// and is the same at every run.
#pragma once

#include <string>
#include <vector>

#include "targets/mcu/program.h"

namespace lathe::mcu {

struct Firmware {
  std::string folder = {}, name = {}, machine = {}, device = {};
  int64_t memory_bytes = 0, flash_bytes = 0, arena_bytes = 0, lower_bound = 0, weight_bytes = 0, macs = 0;
  std::vector<McuBorder> inputs = {}, outputs = {};
  std::vector<int64_t> input_bytes = {}, output_bytes = {};
  struct Layer {
    std::string name;
    int64_t macs = 0;
    Shape output;
  };
  std::vector<Layer> layers = {};
};

// What firmware.json in the folder says. Throws kInput when it is missing or no such file.
Firmware read_firmware(const std::string& folder);

// Bytes that the linker gave out.
struct MemoryUse {
  int64_t arena = 0, data = 0, stack = 0;  // SRAM: data is all variables besides the arena
  int64_t code = 0, constants = 0;         // flash: constants are weights and what the code reads; initial values of variables are in both
  int64_t weights = 0, sample = 0;         // of the constants, the weights and the input that is linked in
  int64_t sram() const { return arena + data + stack; }
  int64_t flash() const { return code + constants; }
};

// Compiles for the device. Throws kInput, with the compiler's words, when it fails or is missing, and kBudget when the linker says that it does not fit.
MemoryUse build_firmware(const Firmware& firmware, double seconds);
// Of a map that GNU ld wrote; `name` is the firmware's.
MemoryUse memory_of_map(const std::string& text, const std::string& name);

struct Emulation {
  int64_t images = 0;
  std::vector<std::vector<Tensor>> outputs;  // by image, by output
  std::vector<double> layer_instructions;    // an image
  double instructions = 0;                   // an image, all layers
  int64_t stack_bytes = 0;                   // that were used
};

// Runs what build_firmware() made. `inputs`: by image, by input, as the model takes them (input_bytes()); empty: the linked
// sample. Throws kInput when QEMU is missing, fails, or takes longer.
Emulation emulate_firmware(const Firmware& firmware, const std::vector<std::vector<Tensor>>& inputs, double seconds);
// The same for the program of this machine, without counts; builds it first with `flags`.
Emulation run_on_host(const Firmware& firmware, const std::vector<std::vector<Tensor>>& inputs, const std::string& flags, double seconds);

}  // namespace lathe::mcu
