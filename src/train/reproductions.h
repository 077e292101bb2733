// Reproductions that train, beside those of optimize/reproduce.h: one file each in reproduce/.
#pragma once

#include "optimize/reproduce.h"

namespace lathe {

// Those of optimize/reproduce.h and these; of one key, the checks of both.
const std::vector<Reproduction>& all_reproductions();

}  // namespace lathe
