// Elements of heads that stand inside other tensors (HeadView in graph/ops/attention.h).
#pragma once

#include "graph/ops/attention.h"

namespace lathe::reference {

// Calls f(index in [B, H, S, D], index in the tensor that holds it).
template <class F>
void over_view(const ops::HeadView& v, const Shape& sizes, F f) {
  int64_t i = 0;
  for (int64_t b = 0; b < sizes[0]; ++b)
    for (int64_t h = 0; h < sizes[1]; ++h)
      for (int64_t s = 0; s < sizes[2]; ++s)
        for (int64_t d = 0; d < sizes[3]; ++d) f(i++, v.offset + b * v.batch + h * v.head + s * v.row + d);
}

}  // namespace lathe::reference
