// Where Pad reads: shared by every kernel of it.
#pragma once

#include <string>

#include "core/error.h"

namespace lathe::ops {

// The source of position `i` (which may lie outside [0, size)) under a Pad mode; −1: the padding value.
inline int64_t pad_source(const std::string& mode, int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (mode == "constant") return -1;
  check_model(size > 0, "Pad in mode '{}' needs elements to repeat, the axis is empty", mode);
  if (mode == "edge") return i < 0 ? 0 : size - 1;
  if (mode == "wrap") return (i % size + size) % size;
  if (size == 1) return 0;
  int64_t period = 2 * (size - 1), phase = (i % period + period) % period;
  return phase < size ? phase : period - phase;
}

}  // namespace lathe::ops
