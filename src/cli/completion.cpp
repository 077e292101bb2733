#include <fmt/format.h>

#include "commands.h"
#include "core/error.h"
#include "tree.h"

namespace lathe::cli {
namespace {

using Value = OptionInfo::Value;

constexpr const char* kShells[] = {"bash", "zsh", "fish"};

std::string shell_quoted(std::string_view text) {  // for bash and zsh
  std::string result = "'";
  for (char c : text) {
    if (c == '\'') result += "'\\''";
    else result += c;
  }
  return result + "'";
}

// fish has backslash escapes inside single quotes, and does not know '\''.
std::string fish_quoted(std::string_view text) {
  std::string result = "'";
  for (char c : text) {
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result + "'";
}

std::string names_of(const CommandInfo& command) {
  std::string words;
  for (const OptionInfo& o : command.options)
    for (const std::string& name : {o.long_name, o.short_name})
      if (!name.empty()) words += (words.empty() ? "" : " ") + name;
  return words;
}

std::string bash_value(const OptionInfo& o) {
  switch (o.value) {
    case Value::kChoice: return fmt::format("_lathe_words {}", shell_quoted(fmt::format("{}", fmt::join(o.choices, " "))));
    case Value::kFile: return "_lathe_files";
    case Value::kModel: return "_lathe_files onnx lathe";
    case Value::kFolder: return "_lathe_folders";
    case Value::kNamedFile: return "[[ $equals ]] && _lathe_files";
    default: return ":";  // a number or a name: nothing to offer
  }
}

std::string bash_command(const CommandInfo& command) {
  std::string text = fmt::format("    {})\n      case $option in\n", command.name);
  for (const OptionInfo& o : command.options) {
    std::string names = o.long_name + (o.long_name.empty() || o.short_name.empty() ? "" : "|") + o.short_name;
    if (o.value != Value::kNone && !names.empty()) text += fmt::format("        {}) {}; return ;;\n", names, bash_value(o));
  }
  text += fmt::format("      esac\n      if [[ $word == -* ]]; then _lathe_words {}; return; fi\n      case $position in\n",
                      shell_quoted(names_of(command)));
  int position = 0;
  for (const OptionInfo& o : command.options) {
    if (o.positional.empty()) continue;
    text += fmt::format("        {}) {} ;;\n", o.repeats ? "*" : std::to_string(position), bash_value(o));
    ++position;
    if (o.repeats) break;
  }
  return text + "      esac ;;\n";
}

// Bash splits the line at '=' too: "--precision=bf" arrives as three words.
constexpr const char* kBashHead = R"(# Bash completion for lathe, made by "lathe completion bash".

_lathe_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word"); }
_lathe_folders() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$word"); }
_lathe_files() {  # with extensions: only such files, and folders
  local name extension
  compopt -o filenames 2>/dev/null
  COMPREPLY=()
  while IFS= read -r name; do
    [[ $# == 0 || -d $name ]] && { COMPREPLY+=("$name"); continue; }
    for extension in "$@"; do [[ $name == *".$extension" ]] && COMPREPLY+=("$name"); done
  done < <(compgen -f -- "$word")
}

_lathe() {
  local word=${COMP_WORDS[COMP_CWORD]} option= equals= command= position=0 i=1 before
  COMPREPLY=()
  while ((i < COMP_CWORD)) && [[ ${COMP_WORDS[i]} == -* ]]; do ((i++)); done
  ((i < COMP_CWORD)) && command=${COMP_WORDS[i]}
  # The option whose value is being typed, and how many positional words stand before it.
  for ((i++; i < COMP_CWORD; i++)); do
    before=${COMP_WORDS[i]}
    if [[ $before == -* ]]; then
      option=$before equals=
      [[ " $_lathe_flags " == *" $option "* ]] && option=
    elif [[ $before == = ]]; then equals=1
    elif [[ ! $option ]]; then ((position++))
    elif [[ ${COMP_WORDS[i + 1]} != = ]]; then option= equals=
    fi
  done
  [[ $word == = ]] && { word= equals=1; }
  case $command in
)";

std::string bash_script(const std::vector<CommandInfo>& commands, const CommandInfo& top) {
  std::string flags, names;
  for (const CommandInfo& c : commands) {
    names += c.name + " ";
    for (const OptionInfo& o : c.options)
      if (o.value == Value::kNone) flags += o.long_name + " " + o.short_name + " ";
  }
  std::string text = kBashHead;
  text += fmt::format("    '') _lathe_words {} ;;\n", shell_quoted(names + names_of(top)));
  for (const CommandInfo& c : commands) text += bash_command(c);
  text += "  esac\n}\n\n";
  return text + fmt::format("_lathe_flags={}\ncomplete -F _lathe lathe\n", shell_quoted(flags));
}

std::string zsh_action(const OptionInfo& o) {
  switch (o.value) {
    case Value::kChoice: return fmt::format("({})", fmt::join(o.choices, " "));
    case Value::kModel: return "_files -g \"*.(onnx|lathe)\"";
    case Value::kFile: return "_files";
    case Value::kFolder: return "_files -/";
    case Value::kNamedFile: return "_lathe_named_file";
    default: return " ";
  }
}

std::string zsh_escaped(std::string_view text) {  // inside an _arguments specification
  std::string result;
  for (char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_script(const std::vector<CommandInfo>& commands) {
  std::string text = "#compdef lathe\n# Zsh completion for lathe, made by \"lathe completion zsh\".\n\n"
                     "_lathe_named_file() { compset -P '*=' && _files }\n\n_lathe() {\n"
                     "  if (( CURRENT == 2 )); then\n    local -a commands=(\n";
  for (const CommandInfo& c : commands)
    text += fmt::format("      {}\n", shell_quoted(c.name + ":" + zsh_escaped(c.description)));
  text += "    )\n    _describe command commands\n    return\n  fi\n  local command=$words[2]\n"
          "  shift words\n  (( CURRENT-- ))\n  case $command in\n";
  for (const CommandInfo& c : commands) {
    text += fmt::format("    {})\n      _arguments", c.name);
    int position = 1;
    for (const OptionInfo& o : c.options) {
      std::string tail = o.value == Value::kNone ? "" : fmt::format(":{}:{}", zsh_escaped(o.value_name), zsh_action(o));
      for (const std::string& name : {o.long_name, o.short_name})
        if (!name.empty())
          text += fmt::format(" \\\n        {}", shell_quoted(fmt::format("{}{}[{}]{}", o.repeats ? "*" : "", name, zsh_escaped(o.description), tail)));
      if (!o.positional.empty())
        text += fmt::format(" \\\n        {}", shell_quoted(fmt::format("{}:{}:{}", o.repeats ? "*" : std::to_string(position++), o.positional, zsh_action(o))));
    }
    text += " ;;\n";
  }
  return text + "  esac\n}\n\n"
                "if [[ $funcstack[1] == _lathe ]]; then _lathe \"$@\"; else compdef _lathe lathe; fi\n";
}

std::string fish_script(const std::vector<CommandInfo>& commands) {
  std::string text = "# Fish completion for lathe, made by \"lathe completion fish\".\n\n"
                     "complete -c lathe -f\n";
  for (const CommandInfo& c : commands)
    text += fmt::format("complete -c lathe -n __fish_use_subcommand -a {} -d {}\n", c.name, fish_quoted(c.description));
  for (const CommandInfo& c : commands) {
    std::string when = fmt::format("complete -c lathe -n '__fish_seen_subcommand_from {}'", c.name);
    for (const OptionInfo& o : c.options) {
      std::string action;
      if (o.value == Value::kChoice) action = fmt::format(" -x -a {}", fish_quoted(fmt::format("{}", fmt::join(o.choices, " "))));
      else if (o.value == Value::kModel) action = " -k -a '(__fish_complete_suffix .onnx .lathe)'";
      else if (o.value == Value::kFolder) action = " -x -a '(__fish_complete_directories)'";
      else if (o.value == Value::kFile || o.value == Value::kNamedFile) action = " -r -F";
      else if (o.value == Value::kText) action = " -x";
      if (!o.positional.empty() && o.value != Value::kText)
        text += fmt::format("{} {}\n", when, o.value == Value::kFile ? "-F" : action.substr(o.value == Value::kModel ? 1 : 4));
      if (o.long_name.empty() && o.short_name.empty()) continue;
      std::string names;
      if (!o.short_name.empty()) names += " -s " + o.short_name.substr(1);
      if (!o.long_name.empty()) names += " -l " + o.long_name.substr(2);
      text += fmt::format("{}{}{} -d {}\n", when, names, action, fish_quoted(o.description));
    }
  }
  return text;
}

}  // namespace

void add_completion(CLI::App& app) {
  auto* command = app.add_subcommand("completion", "Print the completions for a shell");
  command->footer("Examples:\n  source <(lathe completion bash)\n"
                  "  lathe completion zsh > ~/.zfunc/_lathe\n"
                  "  lathe completion fish > ~/.config/fish/completions/lathe.fish");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember(std::vector<std::string>(std::begin(kShells), std::end(kShells))));
  command->callback([shell, &app] {
    std::vector<CommandInfo> commands = subcommands(app);
    if (*shell == "bash") fmt::print("{}", bash_script(commands, command_info(app)));
    else if (*shell == "zsh") fmt::print("{}", zsh_script(commands));
    else fmt::print("{}", fish_script(commands));
  });
}

}  // namespace lathe::cli
