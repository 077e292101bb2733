#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "formats/onnx.h"
#include "models/models.h"
#include "options.h"

namespace lathe::cli {
namespace {

struct Options {
  std::string name, output, family, input, depths, widths;
  std::vector<std::string> set;
  BuildOptions build;
  bool check = false, json = false;
};

std::string millions(int64_t count) { return fmt::format("{:.2f}M", static_cast<double>(count) / 1e6); }
std::string macs_text(int64_t macs) { return macs >= 1'000'000'000 ? fmt::format("{:.2f}G", static_cast<double>(macs) / 1e9) : fmt::format("{:.1f}M", static_cast<double>(macs) / 1e6); }
std::string sizes_text(const Shape& shape) { return fmt::format("{}", fmt::join(shape, "x")); }

nlohmann::json to_json(const ModelEntry& m, const ModelCounts& counted) {
  nlohmann::json j = {{"name", m.name}, {"family", m.family}, {"source", m.source}, {"input", m.input}, {"classes", m.classes}, {"parameters", counted.parameters},
                      {"frozen", counted.frozen}, {"macs", counted.macs}, {"options", m.options}};
  const auto told = [&](const char* key, const std::string& text) { j[key] = text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text); };
  told("published_parameters", m.published_parameters);
  told("published_macs", m.published_macs);
  told("published_accuracy", m.published_accuracy);
  return j;
}

std::vector<const ModelEntry*> chosen(const Options& o) {
  std::vector<const ModelEntry*> list;
  for (const ModelEntry& m : all_models())
    if (o.family.empty() || m.family == o.family) list.push_back(&m);
  if (!list.empty()) return list;
  std::vector<std::string> families;
  for (const ModelEntry& m : all_models())
    if (std::find(families.begin(), families.end(), m.family) == families.end()) families.push_back(m.family);
  fail(ErrorKind::kUsage, "no family {}; there are {}", o.family, fmt::join(families, ", "));
}

void print_list(const Options& o, int* exit_code) {
  nlohmann::json all = nlohmann::json::array();
  if (!o.json) fmt::print("{:<24} {:<11} {:>12} {:>12} {:>10} {:>10}  {}\n", "network", "input", "parameters", "MACs", "published", "", o.check ? "" : "published accuracy");
  std::string family;
  size_t wrong = 0, count = 0, variants = 0;
  for (const ModelEntry* m : chosen(o)) {
    ModelCheck check;
    if (o.check) check = check_counts(*m);
    else check.counted = m->counts;
    ++count;
    variants += m->variants.size();
    wrong += !check.wrong.empty();
    if (o.json) {
      nlohmann::json j = to_json(*m, check.counted);
      if (o.check) j["wrong"] = check.wrong;
      all.push_back(j);
      continue;
    }
    if (m->family != family) fmt::print("{}{}\n", m->family, m->family == "standard" ? "" : fmt::format(": {}", m->source));
    family = m->family;
    const std::string frozen = check.counted.frozen ? fmt::format(" and {} frozen", check.counted.frozen) : "";
    fmt::print("  {:<22} {:<11} {:>12} {:>12} {:>10} {:>10}  {}\n", m->name, sizes_text(m->input), o.check ? std::to_string(check.counted.parameters) : millions(check.counted.parameters),
               o.check ? std::to_string(check.counted.macs) : macs_text(check.counted.macs), m->published_parameters, m->published_macs,
               (o.check ? (check.wrong.empty() ? "equal" : "WRONG") : m->published_accuracy) + frozen);
    for (const std::string& note : {m->parameters_note, m->macs_note})
      if (o.check && !note.empty()) fmt::print("      {}\n", note);
    for (const std::string& line : check.wrong) fmt::print("      {}\n", line);
    std::fflush(stdout);
  }
  if (o.json) fmt::print("{}\n", all.dump());
  else if (o.check) fmt::print("\n{} networks and {} variants: {}\n", count, variants, wrong ? fmt::format("{} are not as published", wrong) : "all as published");
  if (wrong) *exit_code = 1;
}

void build(Options& o) {
  const ModelEntry& m = find_model(o.name);
  if (!o.input.empty()) o.build.input = parse_sizes(o.input, fmt::format("--input {}: expected sizes as {}", o.input, sizes_text(m.input)));
  o.build.depths = parse_numbers(o.depths, "--depths");
  o.build.widths = parse_numbers(o.widths, "--widths");
  o.build.more = parse_settings(o.set, "--set");
  o.build.draw = !o.output.empty();
  const Graph g = build_model(m, o.build);
  const ModelCounts counted = count_model(g);
  if (!o.output.empty()) export_onnx(g, o.output, {{"lathe.model", m.name}, {"lathe.seed", std::to_string(o.build.seed)}});
  if (o.json) {
    nlohmann::json j = to_json(m, counted);
    if (!o.output.empty()) j["output"] = o.output;
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{}: {}\n  parameters     {}{}\n  MACs           {} for {}\n", m.name, m.source, counted.parameters, counted.frozen ? fmt::format(" and {} frozen", counted.frozen) : "", counted.macs,
             sizes_text(o.build.input.empty() ? m.input : o.build.input));
  const auto row = [](const char* what, const std::string& text) {
    if (!text.empty()) fmt::print("  {:<14} {}\n", what, text);
  };
  row("published", fmt::format("{} {} {}", m.published_parameters, m.published_macs, m.published_accuracy));
  for (const std::string& option : m.options) row("option", option);
  row("seed", o.output.empty() ? "" : std::to_string(o.build.seed));
  row("written", o.output);
}

}  // namespace

void add_models(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("models", "List the model families, or build a network of one with fresh weights");
  command->footer("Examples:\n  lathe models\n  lathe models --check\n  lathe models caformer_s18 -o net.onnx --classes 10 --input 3x64x64\n"
                  "  lathe models resnet18 --set stem=small --input 3x32x32 --width 0.5 -o small.onnx");
  auto o = std::make_shared<Options>();
  command->add_option("NAME", o->name, "A network of the list");
  command->add_option("-o,--output", o->output, "Write the network as ONNX")->type_name("FILE");
  command->add_option("--classes", o->build.classes, "Classes (the published number)")->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  command->add_option("--input", o->input, "Size of a sample without the batch, as 3x224x224 (the published one)")->type_name("SIZES");
  command->add_option("--width", o->build.width, "Multiplies the channels")->capture_default_str();
  command->add_option("--depths", o->depths, "Blocks of each stage, with commas (the published ones)")->type_name("N,N,...");
  command->add_option("--widths", o->widths, "Channels of each stage, with commas (the published ones)")->type_name("N,N,...");
  command->add_option("--set", o->set, "An option of the family, KEY=VALUE (repeat for several)")->type_name("KEY=VALUE")->allow_extra_args(false);
  command->add_option("--seed", o->build.seed, "Of the weights")->capture_default_str();
  command->add_option("--list", o->family, "Only this family of the list")->type_name("FAMILY");
  command->add_flag("--check", o->check, "Count parameters and MACs of all, and compare them with the published figures; exit 1 if one differs");
  command->add_flag("--json", o->json, "JSON on stdout");
  command->callback([o, exit_code] {
    if (o->name.empty()) {
      if (!o->output.empty()) fail(ErrorKind::kUsage, "-o {}: which network? \"lathe models\" lists them", o->output);
      return print_list(*o, exit_code);
    }
    if (o->check) fail(ErrorKind::kUsage, "--check counts the networks of the list; leave out {}", o->name);
    build(*o);
  });
}

}  // namespace lathe::cli
