#include "tree.h"

#include <algorithm>

namespace lathe::cli {
namespace {

// "TEXT:{fp32,bf16}" is a type name with the description of an IsMember check.
void read_type(const CLI::Option& option, OptionInfo& info) {
  std::string type = option.get_type_name();
  size_t open = type.find(":{"), close = type.rfind('}');
  if (open != type.npos && close != type.npos && open < close) {
    std::string list = type.substr(open + 2, close - open - 2);
    for (size_t at = 0; at <= list.size();) {
      size_t comma = std::min(list.find(',', at), list.size());
      info.choices.push_back(list.substr(at, comma - at));
      at = comma + 1;
    }
  }
  info.value_name = type.substr(0, type.find(':'));
  if (option.get_items_expected_max() == 0) info.value = OptionInfo::Value::kNone;
  else if (!info.choices.empty()) info.value = OptionInfo::Value::kChoice;
  else if (info.positional == "MODEL") info.value = OptionInfo::Value::kModel;
  else if (info.value_name == "FILE") info.value = OptionInfo::Value::kFile;
  else if (info.value_name == "DIR") info.value = OptionInfo::Value::kFolder;
  else if (info.value_name == "NAME=FILE") info.value = OptionInfo::Value::kNamedFile;
  else info.value = OptionInfo::Value::kText;
}

}  // namespace

CommandInfo command_info(const CLI::App& command) {
  CommandInfo result{command.get_name(), command.get_description(), command.get_footer(), {}};
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    OptionInfo info;
    if (!option->get_lnames().empty()) info.long_name = "--" + option->get_lnames()[0];
    if (!option->get_snames().empty()) info.short_name = "-" + option->get_snames()[0];
    if (option->get_positional()) info.positional = option->get_name(true);
    info.description = option->get_description();
    info.default_value = option->get_default_str();
    info.repeats = option->get_expected_max() >= CLI::detail::expected_max_vector_size;
    info.required = option->get_required();
    read_type(*option, info);
    result.options.push_back(std::move(info));
  }
  return result;
}

std::vector<CommandInfo> subcommands(const CLI::App& app) {
  std::vector<CommandInfo> list;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    if (!command->get_name().empty()) list.push_back(command_info(*command));
  return list;
}

}  // namespace lathe::cli
