// Reproductions that emit firmware, beside those of optimize/reproduce.h: one file each in reproduce/.
#pragma once

#include "optimize/reproduce.h"

namespace lathe {

// Those of optimize/reproduce.h and these.
const std::vector<Reproduction>& firmware_reproductions();

}  // namespace lathe
