// C for a microcontroller: a folder that builds by itself, for the device and for the host.
//
//   emit_firmware(program, read_device("devices/stm32f746.json"), {.name = "vww"}, "firmware");
//
// docs/MCU.md says what lies in the folder and how to use it.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "targets/mcu/border.h"
#include "targets/mcu/budget.h"

namespace lathe::mcu {

struct FirmwareOptions {
  std::string name = "network";  // begins every name that a program sees; a C identifier
  std::string source = {};       // where the network came from, for comments
  std::vector<Tensor> sample =
      {};  // one tensor an input, as the model takes it: linked in, run when there is nothing else; empty: random ones
};

// Throws kUsage for a bad name and for a folder that holds other things. Files that are there already are replaced.
void emit_firmware(const McuProgram& program, const Device& device, const FirmwareOptions& options, const std::string& folder);

}  // namespace lathe::mcu
