// Errors: one exception type with a category. Throw with fail(), which formats the message: what was
// expected, what was found, where, and what to do. The command line maps categories to exit codes.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace lathe {

enum class ErrorKind {
  kUsage,        // the caller asked for something that makes no sense (exit 2 on the command line)
  kInput,        // a file or tensor is missing, broken or of the wrong type or shape
  kModel,        // the network itself is invalid
  kUnsupported,  // valid, but lathe cannot do it
  kBudget,       // no candidate meets the budget (exit 3)
  kInternal,     // a defect of lathe
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

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
