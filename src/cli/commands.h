// The subcommands of `lathe`, one file each: nothing but parsing and printing. Each function declares its
// options on `app` and the work to do when it is chosen; `exit_code` may be set to report failed checks.
//
// Completions and the man page are made from what is declared here: an option whose value is a file has the
// type name FILE (or NAME=FILE), a folder DIR, choices a CLI::IsMember check; examples stand in the footer,
// each indented by two spaces.
#pragma once

#include <CLI/CLI.hpp>

#include "core/version.h"
#include "optimize/reproduce.h"

namespace lathe::cli {

using lathe::kVersion;

void add_run(CLI::App& app);
void add_inspect(CLI::App& app);
void add_bench(CLI::App& app);
void add_plan(CLI::App& app);
void add_pack(CLI::App& app);
void add_convert(CLI::App& app);
void add_patch(CLI::App& app);
void add_verify(CLI::App& app, int* exit_code);
void add_device(CLI::App& app);
// Of the whole of `app`, as it is when the command runs.
void add_completion(CLI::App& app);
void add_man(CLI::App& app);
void add_optimize(CLI::App& app);
void add_quantize(CLI::App& app);
void add_factorize(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_techniques(CLI::App& app);
// `argv` of the whole process, which goes to the program that trains.
void add_train(CLI::App& app, char** argv);
// Becomes that program, where it was built; else returns.
void try_training_program(char** argv);
void add_models(CLI::App& app, int* exit_code);
// `list`: those of this program; where none of them is asked for, or all are, `others` may go on in another program.
void add_reproduce(CLI::App& app, int* exit_code, const std::vector<Reproduction>& list, const std::function<void()>& others = nullptr,
                   const std::function<bool()>& stops = nullptr);

// As it was typed, quoted where a shell would need it.
const std::string& command_line();

}  // namespace lathe::cli
