#include "optimize/reproduce.h"

#include <algorithm>

#include "core/error.h"
#include "optimize/reproduction_files.h"

namespace lathe {

const std::vector<Reproduction>& reproductions() {
  static const std::vector<Reproduction> all = reproduction_files();
  return all;
}

std::vector<Reproduction> merged(std::vector<Reproduction> list, std::vector<Reproduction> more) {
  for (Reproduction& r : more) {
    const auto same = std::find_if(list.begin(), list.end(), [&](const Reproduction& other) { return other.key == r.key; });
    if (same == list.end()) list.push_back(std::move(r));
    else same->checks.insert(same->checks.end(), r.checks.begin(), r.checks.end());
  }
  std::sort(list.begin(), list.end(), [](const Reproduction& a, const Reproduction& b) { return a.key < b.key; });
  return list;
}

const Reproduction& find_reproduction(std::string_view key, const std::vector<Reproduction>& list, std::string_view missing) {
  std::string known;
  for (const Reproduction& r : list) {
    if (r.key == key) return r;
    known += (known.empty() ? "" : ", ") + r.key;
  }
  fail(ErrorKind::kUsage, "there is no reproduction '{}'; known are {}{}", key, known, missing);
}

}  // namespace lathe
