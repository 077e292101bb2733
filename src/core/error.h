// Errors: one exception type with a category (lathe/error.h, which users see). Throw with fail(), which
// formats the message: what was expected, what was found, where, and what to do. The command line maps
// categories to exit codes.
#pragma once

#include <fmt/format.h>

#include "lathe/error.h"

namespace lathe {

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> text, Args&&... args) {
  throw Error(kind, fmt::format(text, std::forward<Args>(args)...));
}

// Defects of lathe itself: states that no input should be able to reach.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> text, Args&&... args) {
  if (!condition) fail(ErrorKind::kInternal, text, std::forward<Args>(args)...);
}

// Invalid networks: conditions that a well-formed model satisfies.
template <class... Args>
void check_model(bool condition, fmt::format_string<Args...> text, Args&&... args) {
  if (!condition) fail(ErrorKind::kModel, text, std::forward<Args>(args)...);
}

}  // namespace lathe
