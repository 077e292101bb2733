// "SAME" as TensorFlow means it, in float64 and plain loops: a window with a stride leaves the size divided by it, rounded up, and the odd one
// of what lies outside is below and to the right.
#pragma once

#include <limits>

#include "float64.h"

namespace lathe::testing {

// How much of a window at the first position lies outside.
inline int64_t before(int64_t size, int64_t kernel, int64_t stride) {
  const int64_t outputs = (size + stride - 1) / stride;
  return std::max<int64_t>((outputs - 1) * stride + kernel - size, 0) / 2;
}

// In a frame of zeros, so that a convolution without padding is that with SAME.
inline Map same(const Map& x, int64_t kernel, int64_t stride) {
  const int64_t h = (x.h + stride - 1) / stride, w = (x.w + stride - 1) / stride, top = before(x.h, kernel, stride), left = before(x.w, kernel, stride);
  Map y(x.c, std::max((h - 1) * stride + kernel, x.h), std::max((w - 1) * stride + kernel, x.w));
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.h; ++i)
      for (int64_t j = 0; j < x.w; ++j) y.at(c, i + top, j + left) = x.at(c, i, j);
  return y;
}

// `take(sum or maximum so far, element)` over what of the window lies inside; `finish(result, elements)`.
template <class Take, class Finish>
Map pool_same(const Map& x, int64_t kernel, int64_t stride, double start, Take take, Finish finish) {
  Map y(x.c, (x.h + stride - 1) / stride, (x.w + stride - 1) / stride);
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < y.h; ++i)
      for (int64_t j = 0; j < y.w; ++j) {
        double result = start;
        int64_t count = 0;
        for (int64_t p = 0; p < kernel; ++p)
          for (int64_t q = 0; q < kernel; ++q) {
            const int64_t row = i * stride + p - before(x.h, kernel, stride), column = j * stride + q - before(x.w, kernel, stride);
            if (row < 0 || row >= x.h || column < 0 || column >= x.w) continue;
            result = take(result, x.at(c, row, column));
            ++count;
          }
        y.at(c, i, j) = finish(result, count);
      }
  return y;
}
inline Map average_same(const Map& x, int64_t kernel, int64_t stride) {
  return pool_same(x, kernel, stride, 0, [](double a, double v) { return a + v; }, [](double a, int64_t n) { return a / static_cast<double>(n); });
}
inline Map max_same(const Map& x, int64_t kernel, int64_t stride) {
  return pool_same(x, kernel, stride, -std::numeric_limits<double>::infinity(), [](double a, double v) { return std::max(a, v); }, [](double a, int64_t) { return a; });
}

// Channels of all, one after the other.
inline Map beside(const std::vector<Map>& parts) {
  Map y(0, parts[0].h, parts[0].w);
  for (const Map& p : parts) {
    EXPECT_TRUE(p.h == y.h && p.w == y.w);
    y.c += p.c;
    y.v.insert(y.v.end(), p.v.begin(), p.v.end());
  }
  return y;
}

}  // namespace lathe::testing
