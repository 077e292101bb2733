// The version of lathe, as `lathe --version` prints it and files that lathe writes for itself carry it.
#pragma once

namespace lathe {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace lathe
