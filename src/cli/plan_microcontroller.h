// `lathe plan` for a microcontroller: the steps that `lathe emit-c` would write, and what each technique saves.
#pragma once

#include "core/device.h"
#include "options.h"

namespace lathe::cli {

struct MicrocontrollerOptions {
  std::string svg;  // a file to draw memory over time to
  bool no_decompose = false, no_integrate = false, no_overwrite = false, json = false;
};

void plan_for_microcontroller(const ModelOptions& model, const Device& device, const MicrocontrollerOptions& options);

}  // namespace lathe::cli
