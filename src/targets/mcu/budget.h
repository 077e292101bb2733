// What a device has for a network, and what a network takes of it.
#pragma once

#include <string>

#include "core/device.h"
#include "targets/mcu/program.h"

namespace lathe::mcu {

// How a device's processor is compiled for, and which board of QEMU has it.
struct Processor {
  std::string cpu, fpu;  // of arm-none-eabi-gcc; fpu "": in software
  std::string machine;   // of qemu-system-arm
};
// A Cortex-M with the DSP extension.
bool is_microcontroller(const Device& device);
// Throws kUnsupported for a device that is not a Cortex-M with the DSP extension, kInput for one without limits.
Processor processor_of(const Device& device);

struct FirmwareSize {
  int64_t arena = 0, weights = 0;  // bytes; weights with biases, multipliers and tables
};

// Bytes that a program keeps free for its stack.
constexpr int64_t kStackBytes = 2048;

FirmwareSize firmware_size(const McuProgram& program);
// Throws kBudget, saying by how much and at which step, when arena and stack, or weights alone, are more than the device has.
void check_budget(const McuProgram& program, const Device& device);

}  // namespace lathe::mcu
