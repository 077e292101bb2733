#include "train/reproductions.h"

#include <algorithm>

#include "train/reproduction_files.h"

namespace lathe {

const std::vector<Reproduction>& all_reproductions() {
  static const std::vector<Reproduction> all = [] {
    std::vector<Reproduction> list = reproductions();
    for (Reproduction& r : training_reproduction_files()) {
      const auto same = std::find_if(list.begin(), list.end(), [&](const Reproduction& other) { return other.key == r.key; });
      if (same == list.end()) list.push_back(std::move(r));
      else same->checks.insert(same->checks.end(), r.checks.begin(), r.checks.end());
    }
    std::sort(list.begin(), list.end(), [](const Reproduction& a, const Reproduction& b) { return a.key < b.key; });
    return list;
  }();
  return all;
}

}  // namespace lathe
