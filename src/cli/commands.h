// The subcommands of `lathe`, one file each: nothing but parsing and printing. Each function declares its
// options on `app` and the work to do when it is chosen; `exit_code` may be set to report failed checks.
#pragma once

#include <CLI/CLI.hpp>

namespace lathe::cli {

inline constexpr const char* kVersion = "0.1.0";

void add_run(CLI::App& app);
void add_inspect(CLI::App& app);
void add_bench(CLI::App& app);
void add_plan(CLI::App& app);
void add_convert(CLI::App& app);
void add_verify(CLI::App& app, int* exit_code);
void add_device(CLI::App& app);
void add_optimize(CLI::App& app);

// As it was typed, quoted where a shell would need it.
const std::string& command_line();

}  // namespace lathe::cli
