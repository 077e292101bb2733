#include "targets/reproductions.h"

#include "targets/reproduction_files.h"

namespace lathe {

const std::vector<Reproduction>& firmware_reproductions() {
  static const std::vector<Reproduction> all = merged(reproductions(), firmware_reproduction_files());
  return all;
}

}  // namespace lathe
