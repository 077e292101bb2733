// C for a microcontroller: a folder that builds by itself, for the device and for the host.
//
//   emit_firmware(program, read_device("devices/stm32f746.json"), {.name = "vww"}, "firmware");
//
// docs/MCU.md says what lies in the folder and how to use it.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "targets/mcu/program.h"

namespace lathe::mcu {

// How a device's processor is compiled for, and which board of QEMU has it.
struct Processor {
  std::string cpu, fpu;  // of arm-none-eabi-gcc; fpu "": in software
  std::string machine;   // of qemu-system-arm
};
// Throws kUnsupported for a device that is not a Cortex-M with the DSP extension, kInput for one without limits.
Processor processor_of(const Device& device);

struct FirmwareOptions {
  std::string name = "network";  // begins every name that a program sees; a C identifier
  std::string source = {};       // where the network came from, for comments
  std::vector<Tensor> sample =
      {};  // one tensor an input, as the model takes it: linked in, run when there is nothing else; empty: random ones
};

struct FirmwareSize {
  int64_t arena = 0, weights = 0;  // bytes; weights with biases, multipliers and tables
};

// Bytes that a program keeps free for its stack.
constexpr int64_t kStackBytes = 2048;

// Bytes of the tensor behind an input: the model's values (f32, of its shape) rounded and moved as the network's first
// operators do it, or codes. Throws kInput for another type or shape.
std::vector<uint8_t> input_bytes(const McuBorder& input, const Tensor& values);
// What the model's output is for what the program left in the tensor behind it: f32, or codes where the model has codes.
Tensor output_values(const McuBorder& output, const uint8_t* bytes);

FirmwareSize firmware_size(const McuProgram& program);
// Throws kBudget, saying by how much and at which step, when arena and stack, or weights alone, are more than the device has.
void check_budget(const McuProgram& program, const Device& device);
// Throws kUsage for a bad name and for a folder that holds other things. Files that are there already are replaced.
void emit_firmware(const McuProgram& program, const Device& device, const FirmwareOptions& options, const std::string& folder);

}  // namespace lathe::mcu
