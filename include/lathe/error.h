// Errors: everything that lathe refuses or cannot do is a lathe::Error, whose kind tells programs what went
// wrong and whose text tells people: what was expected, what was found, where, and what to do.
//
//   try { ... } catch (const lathe::Error& e) { if (e.kind() == lathe::ErrorKind::kInput) ... }
#pragma once

#include <stdexcept>
#include <string>

#include "lathe/export.h"

namespace lathe {

enum class ErrorKind {
  kUsage,        // the caller asked for something that makes no sense (exit 2 on the command line)
  kInput,        // a file or tensor is missing, broken or of the wrong type or shape
  kModel,        // the network itself is invalid
  kUnsupported,  // valid, but lathe cannot do it
  kBudget,       // does not fit: no candidate meets the budget, or the device is too small (exit 3)
  kInternal,     // a defect of lathe
};

class LATHE_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace lathe
