// Heads: tells by number, types and shapes of a network's outputs what kind of answer they hold, so that a program
// knows which of classify(), detect(), text_regions() and segment() to call.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace lathe {

enum class Head {
  kNone,     // no known form
  kClasses,  // one output [N, C] of floats, possibly with sizes of 1 after it: classify()
  kBoxes,    // what detector_form() knows: detect()
  kMap,      // one class map [1, H, W] of integers, or scores [1, C, H, W]: segment()
  kText,     // one probability map [1, 1, H, W]: text_regions()
};
Head head_of(const std::vector<Tensor>& outputs);

}  // namespace lathe
