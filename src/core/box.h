// An axis-parallel box by its corners, in whatever unit its user has, and how much two of them share.
#pragma once

#include <algorithm>

namespace lathe {

struct Box {
  float x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // left, top, right, bottom
};

// Intersection over union; 0 where nothing is shared, of empty boxes too.
inline float overlap(const Box& a, const Box& b) {
  const float w = std::min(a.x1, b.x1) - std::max(a.x0, b.x0), h = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  if (!(w > 0 && h > 0)) return 0;
  const float both = w * h, sum = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0);
  return both / (sum - both);
}

}  // namespace lathe
