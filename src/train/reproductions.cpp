#include "train/reproductions.h"

#include "train/reproduction_files.h"

namespace lathe {

const std::vector<Reproduction>& training_reproductions() {
  static const std::vector<Reproduction> all = training_reproduction_files();
  return all;
}

}  // namespace lathe
