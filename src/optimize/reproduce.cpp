#include "optimize/reproduce.h"

#include "core/error.h"
#include "optimize/reproduction_files.h"

namespace lathe {

const std::vector<Reproduction>& reproductions() {
  static const std::vector<Reproduction> all = reproduction_files();
  return all;
}

const Reproduction& find_reproduction(std::string_view key, const std::vector<Reproduction>& list) {
  std::string known;
  for (const Reproduction& r : list) {
    if (r.key == key) return r;
    known += (known.empty() ? "" : ", ") + r.key;
  }
  fail(ErrorKind::kUsage, "there is no reproduction '{}'; known are {}", key, known);
}

}  // namespace lathe
