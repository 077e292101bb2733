// The subcommands for microcontrollers, as those of commands.h.
#pragma once

#include "commands.h"

namespace lathe::cli {

void add_fit(CLI::App& app);
void add_emit_c(CLI::App& app);
void add_emulate(CLI::App& app);

}  // namespace lathe::cli
