// The commands and options of `lathe` as data, read from CLI11: what completions and the man page are made of.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace lathe::cli {

struct OptionInfo {
  enum class Value { kNone, kText, kChoice, kFile, kFolder, kModel, kNamedFile };  // kNone: a flag

  std::string long_name, short_name;  // "--output", "-o"; "" where there is none
  std::string positional;             // "MODEL"; then it may have no other name
  std::string description;
  std::string value_name;             // what the help calls the value: "FILE", "UINT", …
  std::vector<std::string> choices;
  std::string default_value;
  Value value = Value::kNone;
  bool repeats = false, required = false;
};

struct CommandInfo {
  std::string name, description, footer;
  std::vector<OptionInfo> options;  // positionals too, in the order of their declaration
};

// Of one command alone, and of every subcommand.
CommandInfo command_info(const CLI::App& command);
std::vector<CommandInfo> subcommands(const CLI::App& app);

}  // namespace lathe::cli
