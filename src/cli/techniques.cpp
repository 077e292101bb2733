#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "optimize/technique.h"

namespace lathe::cli {
namespace {

std::string values_text(const Knob& k) {
  switch (k.kind) {
    case Knob::Kind::kWhole: return "whole numbers, chosen for the network and the machine";
    case Knob::Kind::kRange: return fmt::format("{:.6g}, or {:.6g} to {:.6g}{}", k.first, k.low, k.high, k.logarithmic ? " by its logarithm" : "");
    case Knob::Kind::kChoice: return fmt::format("{}", fmt::join(k.choices, ", "));
    case Knob::Kind::kLayers: return fmt::format("{}, for each layer", fmt::join(k.choices, ", "));
  }
  return "";
}

nlohmann::json to_json(const Technique& t) {
  constexpr const char* kinds[] = {"whole", "range", "choice", "layers"};
  nlohmann::json knobs = nlohmann::json::array();
  for (const Knob& k : t.knobs) {
    nlohmann::json j = {{"name", k.name}, {"meaning", k.meaning}, {"kind", kinds[static_cast<int>(k.kind)]}};
    if (k.kind == Knob::Kind::kRange) j.update({{"first", k.first}, {"low", k.low}, {"high", k.high}, {"logarithmic", k.logarithmic}});
    if (!k.choices.empty()) j["choices"] = k.choices;
    if (!k.bits.empty()) j["bits"] = k.bits;
    knobs.push_back(j);
  }
  return {{"key", t.key}, {"summary", t.summary}, {"applies_to", t.applies_to}, {"stage", name_of(t.stage)}, {"needs", name_of(t.need)}, {"exact", t.exact},
          {"conflicts", t.conflicts}, {"knobs", knobs}, {"source", t.source}, {"reproduction", t.reproduction.empty() ? nlohmann::json(nullptr) : nlohmann::json(t.reproduction)}};
}

void print_one(const Technique& t) {
  fmt::print("{}: {}\n", t.key, t.summary);
  auto row = [](std::string_view what, const std::string& text) {
    if (!text.empty()) fmt::print("  {:<14} {}\n", what, text);
  };
  row("applies to", t.applies_to);
  row("changes", t.exact ? "no answer beyond rounding" : "answers: they are compared");
  row("stage", std::string(name_of(t.stage)));
  row("needs", std::string(name_of(t.need)));
  row("conflicts", fmt::format("{}", fmt::join(t.conflicts, ", ")));
  for (const Knob& k : t.knobs) row("knob " + k.name, fmt::format("{}: {}", k.meaning, values_text(k)));
  row("source", t.source);
  row("reproduction", t.reproduction.empty() ? "" : "lathe reproduce " + t.reproduction);
}

}  // namespace

void add_techniques(CLI::App& app) {
  auto* command = app.add_subcommand("techniques", "Show what lathe optimize can do to a network");
  command->footer("Examples:\n  lathe techniques\n  lathe techniques bf16\n  lathe techniques --json | jq '.[].key'");
  struct Options {
    std::string key;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  command->add_option("KEY", o->key, "One of them, in full");
  command->add_flag("--json", o->json, "JSON on stdout: a list, or one object");
  command->callback([o] {
    if (!o->key.empty()) {
      const Technique& t = find_technique(o->key);
      if (o->json) fmt::print("{}\n", to_json(t).dump());
      else print_one(t);
      return;
    }
    if (o->json) {
      nlohmann::json all = nlohmann::json::array();
      for (const Technique& t : catalogue()) all.push_back(to_json(t));
      fmt::print("{}\n", all.dump());
      return;
    }
    for (const Technique& t : catalogue()) fmt::print("{:<12} {:<10} {}\n", t.key, name_of(t.stage), t.summary);
  });
}

}  // namespace lathe::cli
