// What a model is refused with.
#pragma once

#include <gtest/gtest.h>

#include "models/models.h"

namespace lathe::testing {

inline std::string error_of(std::string_view name, const BuildOptions& options) {
  try {
    build_model(name, options);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage) << e.what();
    return e.what();
  }
  return "";
}

}  // namespace lathe::testing
