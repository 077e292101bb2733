// The version of lathe, as `lathe --version` prints it and files that lathe writes for itself carry it.
#pragma once

#include "lathe/version.h"

namespace lathe {

inline constexpr const char* kVersion = LATHE_VERSION;

}  // namespace lathe
