#include "optimize/technique.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "optimize/technique_files.h"

namespace lathe {
namespace {

template <class T>
const T* find_setting(const Settings& settings, const std::string& knob) {
  auto it = settings.find(knob);
  if (it == settings.end()) return nullptr;
  const T* value = std::get_if<T>(&it->second);
  require(value != nullptr, "the knob '{}' is set to a value of another kind", knob);
  return value;
}

// FNV-1a (Fowler, Noll and Vo), folded to 16 bits: tells choices of the same counts apart in a label.
unsigned short_digest(std::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211u;
  return static_cast<unsigned>((hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) & 0xffff);
}

nlohmann::json to_json(const Setting& setting) {
  return std::visit([](const auto& value) { return nlohmann::json(value); }, setting);
}

// "3 f32, 2 int4 #9a2c"
std::string text_of_layers(const LayerChoices& layers) {
  std::map<std::string, int> counts;
  for (const auto& [layer, choice] : layers) ++counts[choice];
  std::string text;
  for (const auto& [choice, count] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, choice);
  return fmt::format("{} #{:04x}", text, short_digest(nlohmann::json(layers).dump()));
}

std::string text_of(const Setting& setting) {
  if (const auto* layers = std::get_if<LayerChoices>(&setting)) return text_of_layers(*layers);
  if (const auto* number = std::get_if<double>(&setting)) return fmt::format("{:.6g}", *number);
  if (const auto* whole = std::get_if<int64_t>(&setting)) return std::to_string(*whole);
  return std::get<std::string>(setting);
}

}  // namespace

int64_t Settings::whole(const std::string& knob, int64_t otherwise) const {
  const auto* value = find_setting<int64_t>(*this, knob);
  return value ? *value : otherwise;
}
double Settings::number(const std::string& knob, double otherwise) const {
  const auto* value = find_setting<double>(*this, knob);
  return value ? *value : otherwise;
}
std::string Settings::choice(const std::string& knob, const std::string& otherwise) const {
  const auto* value = find_setting<std::string>(*this, knob);
  return value ? *value : otherwise;
}
LayerChoices Settings::layers(const std::string& knob) const {
  const auto* value = find_setting<LayerChoices>(*this, knob);
  return value ? *value : LayerChoices{};
}

Knob Knob::whole(std::string name, std::string meaning, decltype(values) values) {
  Knob k;
  k.name = std::move(name);
  k.meaning = std::move(meaning);
  k.values = std::move(values);
  return k;
}

Knob Knob::range(std::string name, std::string meaning, double first, double low, double high, int steps, bool logarithmic) {
  Knob k;
  k.name = std::move(name);
  k.meaning = std::move(meaning);
  k.kind = Kind::kRange;
  k.first = first;
  k.low = low;
  k.high = high;
  k.steps = steps;
  k.logarithmic = logarithmic;
  return k;
}

Knob Knob::choice(std::string name, std::string meaning, std::vector<std::string> choices) {
  Knob k;
  k.name = std::move(name);
  k.meaning = std::move(meaning);
  k.kind = Kind::kChoice;
  k.choices = std::move(choices);
  return k;
}

Knob Knob::per_layer(std::string name, std::string meaning, std::vector<std::string> choices, std::map<std::string, int> bits, decltype(layers) layers) {
  Knob k = choice(std::move(name), std::move(meaning), std::move(choices));
  k.kind = Kind::kLayers;
  k.bits = std::move(bits);
  k.layers = std::move(layers);
  return k;
}

std::string_view name_of(Technique::Stage stage) {
  constexpr std::string_view names[] = {"graph", "precision", "plan"};
  return names[static_cast<int>(stage)];
}

std::string_view name_of(Technique::Need need) {
  constexpr std::string_view names[] = {"nothing", "data", "labels", "training"};
  return names[static_cast<int>(need)];
}

const std::vector<Technique>& catalogue() {
  static const std::vector<Technique> all = [] {
    std::vector<Technique> list = technique_files();
    std::stable_sort(list.begin(), list.end(), [](const Technique& a, const Technique& b) { return a.stage < b.stage; });
    for (size_t i = 0; i < list.size(); ++i) {
      require(list[i].obstacle && list[i].apply, "the technique '{}' does not say when and how it is applied", list[i].key);
      for (size_t j = 0; j < i; ++j) require(list[i].key != list[j].key, "two techniques are called '{}'", list[i].key);
    }
    return list;
  }();
  return all;
}

const Technique& find_technique(std::string_view key) {
  std::string known;
  for (const Technique& t : catalogue()) {
    if (t.key == key) return t;
    known += (known.empty() ? "" : ", ") + t.key;
  }
  fail(ErrorKind::kUsage, "there is no technique '{}'; known are {}", key, known);
}

bool conflict(const Technique& a, const Technique& b) {
  auto names = [](const Technique& one, const Technique& other) { return std::find(one.conflicts.begin(), one.conflicts.end(), other.key) != one.conflicts.end(); };
  return a.key == b.key || names(a, b) || names(b, a);
}

std::string obstacle(const Technique& technique, const Candidate& candidate, const TechniqueContext& context) {
  if (technique.need == Technique::Need::kTraining) return "it needs training, which this lathe does not do";
  if (technique.need != Technique::Need::kNone && context.calibration.count == 0)
    return "it needs samples to be fitted to, and none could be held back: give more of them";
  if (technique.need == Technique::Need::kLabels && !context.calibration.labelled) return "it needs labelled samples";
  return technique.obstacle(candidate, context);
}

std::vector<Setting> values_of(const Knob& knob, const Candidate& candidate, const TechniqueContext& context) {
  std::vector<Setting> all;
  switch (knob.kind) {
    case Knob::Kind::kWhole:
      for (int64_t value : knob.values(candidate, context)) all.emplace_back(value);
      break;
    case Knob::Kind::kRange:
      require(knob.steps > 1 && knob.low < knob.high && (!knob.logarithmic || knob.low > 0), "the range of the knob '{}' is none", knob.name);
      all.emplace_back(knob.first);
      for (int i = 0; i < knob.steps; ++i) {
        double part = static_cast<double>(i) / (knob.steps - 1);
        double value = knob.logarithmic ? knob.low * std::pow(knob.high / knob.low, part) : knob.low + (knob.high - knob.low) * part;
        if (std::fabs(value - knob.first) > 1e-9 * std::fabs(knob.high - knob.low)) all.emplace_back(value);
      }
      break;
    case Knob::Kind::kChoice:
      for (const std::string& choice : knob.choices) all.emplace_back(choice);
      break;
    case Knob::Kind::kLayers: all.emplace_back(LayerChoices{}); break;
  }
  return all;
}

std::vector<Settings> settings_of(const Technique& technique, const Candidate& candidate, const TechniqueContext& context) {
  Settings first;
  std::vector<Settings> all;
  for (const Knob& knob : technique.knobs) {
    if (knob.kind != Knob::Kind::kWhole) continue;
    std::vector<Setting> values = values_of(knob, candidate, context);
    if (!values.empty()) first[knob.name] = values[0];
  }
  all.push_back(first);
  for (const Knob& knob : technique.knobs) {
    std::vector<Setting> values = values_of(knob, candidate, context);
    for (size_t i = 1; i < values.size(); ++i) {
      all.push_back(first);
      all.back()[knob.name] = values[i];
    }
  }
  return all;
}

std::string label_of(const Technique& technique, const Settings& settings) {
  std::string text;
  for (const auto& [name, value] : settings) {
    const auto* layers = std::get_if<LayerChoices>(&value);
    if (layers && layers->empty()) continue;
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", name, text_of(value));
  }
  return text.empty() ? technique.key : fmt::format("{}({})", technique.key, text);
}

Candidate compose(const Candidate& base, std::vector<Applied> parts, const TechniqueContext& context) {
  std::stable_sort(parts.begin(), parts.end(), [](const Applied& a, const Applied& b) { return a.technique->stage < b.technique->stage; });
  Candidate c = base;
  for (const Applied& part : parts) {
    for (const Knob& knob : part.technique->knobs) {
      if (knob.kind != Knob::Kind::kLayers) continue;
      LayerChoices set = part.settings.layers(knob.name);
      for (const std::string& layer : knob.layers(base, context)) {
        auto it = set.find(layer);
        c.layers[layer] = it == set.end() ? knob.choices.at(0) : it->second;
      }
    }
    part.technique->apply(c, part.settings, context);
    c.applied.push_back(label_of(*part.technique, part.settings));
  }
  return c;
}

std::string canonical(const std::vector<Applied>& parts) {
  nlohmann::json all = nlohmann::json::object();
  for (const Applied& part : parts) {
    nlohmann::json settings = nlohmann::json::object();
    for (const auto& [name, value] : part.settings) {
      const auto* layers = std::get_if<LayerChoices>(&value);
      if (!layers || !layers->empty()) settings[name] = to_json(value);
    }
    all[part.technique->key] = settings;
  }
  return all.dump();
}

}  // namespace lathe
