#include "optimize/technique.h"

#include <algorithm>

#include "optimize/technique_files.h"

namespace lathe {

const std::vector<Technique>& catalogue() {
  static const std::vector<Technique> all = [] {
    std::vector<Technique> list = technique_files();
    std::stable_sort(list.begin(), list.end(), [](const Technique& a, const Technique& b) { return a.stage < b.stage; });
    for (size_t i = 0; i < list.size(); ++i)
      for (size_t j = 0; j < i; ++j) require(list[i].key != list[j].key, "two techniques are called '{}'", list[i].key);
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

std::vector<Settings> settings_of(const Technique& technique, const Candidate& candidate, const TechniqueContext& context) {
  std::vector<Settings> all{{}};
  for (const Knob& knob : technique.knobs) {
    std::vector<Settings> longer;
    for (const Settings& s : all)
      for (int64_t value : knob.values(candidate, context)) {
        longer.push_back(s);
        longer.back()[knob.name] = value;
      }
    all = std::move(longer);
  }
  return all;
}

std::string label_of(const Technique& technique, const Settings& settings) {
  std::string text;
  for (const auto& [name, value] : settings) text += fmt::format("{}{}={}", text.empty() ? "" : ", ", name, value);
  return text.empty() ? technique.key : fmt::format("{}({})", technique.key, text);
}

}  // namespace lathe
