#include <fmt/format.h>

#include "commands.h"
#include "tree.h"

namespace lathe::cli {
namespace {

// Text that roff shall not read as requests or escapes; hyphens become minus signs, which copy as typed.
std::string escaped(std::string_view text) {
  std::string result;
  for (char c : text) {
    if (c == '\\') result += "\\e";
    else if (c == '-') result += "\\-";
    else if (c == '^') result += "\\(ha";
    else if (c == '~') result += "\\(ti";
    else if (c == '\'') result += "\\(aq";
    else if (c == '`') result += "\\(ga";
    else result += c;
  }
  return result;
}

// A line of text: one that begins with a dot would be a request.
std::string line(std::string_view text) {
  std::string result = escaped(text);
  return (result.starts_with('.') ? "\\&" + result : result) + "\n";
}

std::string option_entry(const OptionInfo& o) {
  std::string head;
  for (const std::string& name : {o.short_name, o.long_name})
    if (!name.empty()) head += fmt::format("{}\\fB{}\\fR", head.empty() ? "" : ", ", escaped(name));
  if (!o.positional.empty()) head += fmt::format("{}\\fI{}\\fR", head.empty() ? "" : ", ", escaped(o.positional));
  if (o.value != OptionInfo::Value::kNone && o.positional.empty()) head += fmt::format(" \\fI{}\\fR", escaped(o.value_name));
  if (o.repeats) head += " ...";
  // Descriptions that name the choices need not be followed by them.
  bool told = true;
  for (const std::string& choice : o.choices) told = told && o.description.find(choice) != std::string::npos;
  std::string text = o.description + ".";
  if (!told) text += fmt::format(" One of {}.", fmt::join(o.choices, ", "));
  if (!o.default_value.empty()) text += fmt::format(" Default: {}.", o.default_value);
  return fmt::format(".TP\n{}\n{}", head, line(text));
}

// Indented lines are shown as they are, others are paragraphs.
std::string footer_text(const std::string& footer) {
  std::string text;
  bool literal = false, begun = false;
  for (size_t at = 0; at < footer.size();) {
    size_t end = std::min(footer.find('\n', at), footer.size());
    std::string_view one(footer.data() + at, end - at);
    at = end + 1;
    bool indented = one.starts_with("  ");
    if (indented != literal) text += indented ? ".PP\n.RS 4\n.nf\n" : ".fi\n.RE\n";
    if (!indented && (!begun || one.empty() || literal)) text += ".PP\n";
    begun = true;
    literal = indented;
    if (!one.empty()) text += line(indented ? one.substr(2) : one);
  }
  if (literal) text += ".fi\n.RE\n";
  // An empty line makes a paragraph on either side of itself; one is enough.
  for (size_t at; (at = text.find(".PP\n.PP\n")) != text.npos;) text.erase(at, 4);
  return text.ends_with(".PP\n") ? text.substr(0, text.size() - 4) : text;
}

std::string command_section(const CommandInfo& c) {
  std::string synopsis = fmt::format("\\fBlathe {}\\fR [\\fIOPTION\\fR]...", escaped(c.name));
  for (const OptionInfo& o : c.options)
    if (!o.positional.empty())
      synopsis += fmt::format(" {}\\fI{}\\fR{}{}", o.required ? "" : "[", escaped(o.positional), o.required ? "" : "]", o.repeats ? "..." : "");
  std::string text = fmt::format(".SS lathe {}\n{}.PP\n{}\n", escaped(c.name), line(c.description + "."), synopsis);
  for (const OptionInfo& o : c.options) text += option_entry(o);
  return text + footer_text(c.footer);
}

std::string man_page(const CLI::App& app) {
  std::vector<CommandInfo> commands = subcommands(app);
  std::string text = fmt::format(".\\\" Made by \"lathe man\".\n.TH LATHE 1 \"\" \"lathe {}\" \"User Commands\"\n", kVersion);
  text += ".SH NAME\nlathe \\- turn a neural network until it fits its device\n";
  text += ".SH SYNOPSIS\n\\fBlathe\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n";
  text += ".SH DESCRIPTION\n" + line(app.get_description());
  for (const CommandInfo& c : commands)
    text += fmt::format(".TP\n\\fBlathe {}\\fR\n{}", escaped(c.name), line(c.description + "."));
  text += ".SH OPTIONS\n";
  for (const OptionInfo& o : command_info(app).options) text += option_entry(o);
  text += ".SH COMMANDS\n";
  for (const CommandInfo& c : commands) text += command_section(c);
  text += ".SH EXIT STATUS\n.TP\n0\nDone.\n.TP\n1\nA file, model or check failed; the reason is on standard error.\n"
          ".TP\n2\nThe command line makes no sense.\n.TP\n3\nNo candidate meets the budget.\n";
  text += ".SH FILES\n.TP\n\\fI$XDG_CACHE_HOME/lathe/device.json\\fR\n"
          "What \\fBlathe device\\fR measured of this machine; made anew when it is missing.\n"
          ".TP\n\\fIMODEL.preprocess.json\\fR\nHow \\fBlathe run\\fR prepares pictures for the model beside it.\n";
  return text;
}

}  // namespace

void add_man(CLI::App& app) {
  auto* command = app.add_subcommand("man", "Print the manual page, in roff");
  command->footer("Example:\n  lathe man > lathe.1 && man -l lathe.1");
  command->callback([&app] { fmt::print("{}", man_page(app)); });
}

}  // namespace lathe::cli
