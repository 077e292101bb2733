// Reproductions that train, beside those of optimize/reproduce.h and targets/reproductions.h: one file each in reproduce/.
#pragma once

#include "optimize/reproduce.h"

namespace lathe {

const std::vector<Reproduction>& training_reproductions();

}  // namespace lathe
