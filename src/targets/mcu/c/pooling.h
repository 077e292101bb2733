/* Pooling of codes, [height, width, channels]. */
#ifndef LATHE_POOLING_H
#define LATHE_POOLING_H

#include "dsp.h"

struct pool {
  const uint8_t *x;
  uint8_t *y;
  int32_t images, height, width, channels, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  int32_t x_signed, include_pad, x_zero, y_zero, low, high;
  float x_scale, y_scale;
};

enum { POOL_MEAN, POOL_AVERAGE, POOL_LARGEST };

LATHE_BODY int32_t code_of(const struct pool *l, const uint8_t *x) { return l->x_signed ? (int32_t)(int8_t)*x : (int32_t)*x; }

/* One channel of one output pixel: of rows × columns pixels from x on.
 *   mean     f32(Σ (x − zero)) · (x_scale / (y_scale · count)), rounded, plus the zero point
 *   average  Σ x_scale · (x − zero) in f32, / count / y_scale plus the zero point, rounded */
LATHE_BODY uint8_t pool_channel(const struct pool *l, int kind, const uint8_t *x, int32_t rows, int32_t columns, float count) {
  const int32_t line = l->width * l->channels;
  int32_t total = 0, largest = l->x_signed ? -128 : 0;
  float sum = 0.0f;
  for (int32_t r = 0; r < rows; ++r, x += line) {
    const uint8_t *from = x;
    for (int32_t k = 0; k < columns; ++k, from += l->channels) {
      const int32_t code = code_of(l, from);
      if (kind == POOL_LARGEST && code > largest) largest = code;
      if (kind == POOL_MEAN) total += code;
      if (kind == POOL_AVERAGE) sum += l->x_scale * (float)(code - l->x_zero);
    }
  }
  if (kind == POOL_LARGEST) return (uint8_t)largest;
  if (kind == POOL_MEAN) {
    total -= rows * columns * l->x_zero;
    return (uint8_t)to_code(OUT_LIMITS, (float)total * (l->x_scale / (l->y_scale * count)), l->y_zero, l->low, l->high);
  }
  return (uint8_t)to_code(OUT_LIMITS, sum / count / l->y_scale + (float)l->y_zero, 0, l->low, l->high);
}

LATHE_BODY int32_t inside(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

LATHE_BODY void pool_pixels(const struct pool *l, int kind) {
  uint8_t *y = l->y;
  for (int32_t image = 0; image < l->images; ++image)
    for (int32_t oy = 0; oy < l->out_height; ++oy) {
      const int32_t top = oy * l->stride_h - l->pad_top, y0 = inside(top, 0, l->height), y1 = inside(top + l->kernel_h, y0, l->height);
      for (int32_t ox = 0; ox < l->out_width; ++ox) {
        const int32_t left = ox * l->stride_w - l->pad_left, x0 = inside(left, 0, l->width), x1 = inside(left + l->kernel_w, x0, l->width);
        const int32_t taps = l->include_pad ? l->kernel_h * l->kernel_w : (y1 - y0) * (x1 - x0);
        const float count = (float)(taps > 1 ? taps : 1);
        const uint8_t *x = l->x + ((image * l->height + y0) * l->width + x0) * l->channels;
        for (int32_t c = 0; c < l->channels; ++c) *y++ = pool_channel(l, kind, x + c, y1 - y0, x1 - x0, count);
      }
    }
}

static inline void pool_mean(const struct pool *l) { pool_pixels(l, POOL_MEAN); }
static inline void pool_average(const struct pool *l) { pool_pixels(l, POOL_AVERAGE); }
static inline void pool_largest(const struct pool *l) { pool_pixels(l, POOL_LARGEST); }

#endif
