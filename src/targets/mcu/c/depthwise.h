/* Depthwise convolutions: one channel after another.
 *
 * A channel of x is copied to `plane` in 16 bits, with its padding around it, and convolved from there: so y may take the
 * place of x, whatever the stride, where both have as many channels and y no more pixels. A word of weights holds four
 * taps of a row of the window, or two where weights are wide. The zero point of x is in the bias, and is what stands in the padding. */
#ifndef LATHE_DEPTHWISE_H
#define LATHE_DEPTHWISE_H

#include "dsp.h"

struct depthwise {
  const uint8_t *x;           /* [height, width, channels] */
  uint8_t *y;                 /* [out_height, out_width, channels · multiplier] */
  const uint32_t *parameters; /* [channels · multiplier, 2 + words of a window] */
  const uint8_t *table;       /* [256], or none */
  int16_t *plane;             /* scratch: [plane_height, plane_width] and two more */
  int32_t height, width, channels, multiplier;
  int32_t out_height, out_width, plane_height, plane_width;
  int32_t pad_top, pad_left, x_zero, y_zero, low, high;
};

struct depthwise_form {
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int is_signed, out;
};

LATHE_BODY uint32_t tap_of(int is_signed, const uint8_t *x) { return is_signed ? (uint32_t)(int32_t)(int8_t)*x : *x; }

/* Channel c of x into the middle of the plane. */
LATHE_BODY void take_channel(const struct depthwise *l, int is_signed, int32_t c) {
  const int32_t step = l->channels, width = l->width, line = l->plane_width;
  const uint8_t *x = l->x + c;
  int16_t *row = l->plane + l->pad_top * line + l->pad_left;
  for (int32_t rows = l->height; rows > 0; --rows, row += line) {
    int16_t *to = row;
    for (int32_t left = width / 4; left > 0; --left, to += 4, x += 4 * step) {
      store_word(to, join_halves(tap_of(is_signed, x), tap_of(is_signed, x + step)));
      store_word(to + 2, join_halves(tap_of(is_signed, x + 2 * step), tap_of(is_signed, x + 3 * step)));
    }
    if (width & 2) {
      store_word(to, join_halves(tap_of(is_signed, x), tap_of(is_signed, x + step)));
      to += 2;
      x += 2 * step;
    }
    if (width & 1) {
      *to = (int16_t)tap_of(is_signed, x);
      x += step;
    }
  }
}

/* One row of a window of three by three: two neighbouring outputs share their taps; stride 0: the first alone. w01 and w12 hold
 * neighbouring weights. */
LATHE_BODY void add_row_of_3(const int16_t *x, int32_t stride, uint32_t w01, uint32_t w12, uint32_t *first, uint32_t *second) {
  const uint32_t a = load_word(x), b = load_word(x + 2);
  *first = mac_low_high(b, w12, mac_pair(a, w01, *first));
  if (stride == 0) return;
  if (stride == 1) *second = mac_pair(b, w12, mac_high_low(a, w01, *second));
  else *second = mac_low_high((uint32_t)x[4], w12, mac_pair(b, w01, *second));
}

/* A window of three by three, stride 1 or 2. A word of weights is w0, w1, w1, w2; wide, two words for that. */
LATHE_BODY void slide_3x3(const struct depthwise *l, int32_t stride, int out, int32_t o) {
  const int wide = (out & WIDE) != 0;
  const uint32_t *const all = l->parameters + (wide ? 8 : 5) * o, *const w = all + 2;
  const uint32_t w01 = wide ? w[0] : even_s8(w[0]), w12 = wide ? w[1] : odd_s8(w[0]), v01 = wide ? w[2] : even_s8(w[1]), v12 = wide ? w[3] : odd_s8(w[1]),
                 u01 = wide ? w[4] : even_s8(w[2]), u12 = wide ? w[5] : odd_s8(w[2]);
  const uint32_t bias = all[0];
  const float multiplier = float_of(all[1]);
  const struct finish f = {l->y_zero, l->low, l->high, l->table};
  const int32_t step = l->channels * l->multiplier, line = l->plane_width, width = l->out_width;
  const int16_t *row = l->plane;
  uint8_t *y = l->y + o;
  for (int32_t rows = l->out_height; rows > 0; --rows, row += stride * line) {
    const int16_t *x = row;
    for (int32_t pairs = width / 2; pairs > 0; --pairs, x += 2 * stride, y += 2 * step) {
      uint32_t first = bias, second = bias;
      add_row_of_3(x, stride, w01, w12, &first, &second);
      add_row_of_3(x + line, stride, v01, v12, &first, &second);
      add_row_of_3(x + 2 * line, stride, u01, u12, &first, &second);
      y[0] = finish_code(f, out, first, multiplier);
      y[step] = finish_code(f, out, second, multiplier);
    }
    if (width & 1) {
      uint32_t sum = bias;
      add_row_of_3(x, 0, w01, w12, &sum, 0);
      add_row_of_3(x + line, 0, v01, v12, &sum, 0);
      add_row_of_3(x + 2 * line, 0, u01, u12, &sum, 0);
      *y = finish_code(f, out, sum, multiplier);
      y += step;
    }
  }
}

/* Any other window without dilation: pairs of taps along a row. A word of weights is w0, w2, w1, w3. */
LATHE_BODY void slide_rows(const struct depthwise *l, struct depthwise_form k, int32_t o) {
  enum { MOST_PAIRS = 32 };
  const int32_t words = (k.kernel_w + 3) / 4, pairs = (k.kernel_w + 1) / 2;
  uint32_t w[MOST_PAIRS];
  const uint32_t *const all = l->parameters + o * (2 + k.kernel_h * words), *const packed = all + 2;
LATHE_UNROLL(16)
  for (int32_t ky = 0; ky < k.kernel_h; ++ky)
LATHE_UNROLL(16)
    for (int32_t i = 0; i < pairs; ++i) w[ky * pairs + i] = i & 1 ? odd_s8(packed[ky * words + i / 2]) : even_s8(packed[ky * words + i / 2]);
  const uint32_t bias = all[0];
  const float multiplier = float_of(all[1]);
  const struct finish f = {l->y_zero, l->low, l->high, l->table};
  const int32_t step = l->channels * l->multiplier, line = l->plane_width, width = l->out_width;
  const int16_t *row = l->plane;
  uint8_t *y = l->y + o;
  for (int32_t rows = l->out_height; rows > 0; --rows, row += k.stride_h * line) {
    const int16_t *x = row;
    for (int32_t left = width; left > 0; --left, x += k.stride_w, y += step) {
      uint32_t sum = bias;
LATHE_UNROLL(16)
      for (int32_t ky = 0; ky < k.kernel_h; ++ky)
LATHE_UNROLL(16)
        for (int32_t i = 0; i < pairs; ++i) {
          if (2 * i + 1 == k.kernel_w) sum = mac_low_low((uint32_t)x[ky * line + 2 * i], w[ky * pairs + i], sum);
          else sum = mac_pair(load_word(x + ky * line + 2 * i), w[ky * pairs + i], sum);
        }
      *y = finish_code(f, k.out, sum, multiplier);
    }
  }
}

/* Any window: one tap after another. Weights are bytes, or halves of words, [kernel_h, kernel_w] filled up to whole words. */
LATHE_BODY void slide_taps(const struct depthwise *l, struct depthwise_form k, int32_t o) {
  const int wide = (k.out & WIDE) != 0;
  const uint32_t *const all = l->parameters + o * (2 + (k.kernel_h * k.kernel_w + (wide ? 1 : 3)) / (wide ? 2 : 4));
  const int8_t *const bytes = (const int8_t *)(all + 2);
  const int16_t *const halves = (const int16_t *)(const void *)(all + 2);
  const struct finish f = {l->y_zero, l->low, l->high, l->table};
  const int32_t step = l->channels * l->multiplier, line = l->plane_width;
  uint8_t *y = l->y + o;
  for (int32_t oy = 0; oy < l->out_height; ++oy)
    for (int32_t ox = 0; ox < l->out_width; ++ox, y += step) {
      const int16_t *x = l->plane + oy * k.stride_h * line + ox * k.stride_w;
      uint32_t sum = all[0];
      for (int32_t ky = 0; ky < k.kernel_h; ++ky)
        for (int32_t kx = 0; kx < k.kernel_w; ++kx)
          sum += (uint32_t)(x[ky * k.dilation_h * line + kx * k.dilation_w] * (wide ? halves[ky * k.kernel_w + kx] : bytes[ky * k.kernel_w + kx]));
      *y = finish_code(f, k.out, sum, float_of(all[1]));
    }
}

LATHE_BODY void convolve_channels(const struct depthwise *l, struct depthwise_form k) {
  const uint32_t pair = ((uint32_t)l->x_zero & 0xffffu) | ((uint32_t)l->x_zero << 16);
  for (int32_t i = 0; i < l->plane_height * l->plane_width + 2; i += 2) store_word(l->plane + i, pair);
  for (int32_t c = 0; c < l->channels; ++c) {
    take_channel(l, k.is_signed, c);
    for (int32_t o = c * l->multiplier; o < (c + 1) * l->multiplier; ++o) {
      if (k.kernel_h == 3 && k.kernel_w == 3 && k.stride_h == k.stride_w && k.stride_h <= 2 && k.dilation_h == 1 && k.dilation_w == 1)
        slide_3x3(l, k.stride_h, k.out, o);
      else if (!(k.out & WIDE) && k.dilation_h == 1 && k.dilation_w == 1 && k.kernel_h * ((k.kernel_w + 1) / 2) <= 32) slide_rows(l, k, o);
      else slide_taps(l, k, o);
    }
  }
}

#endif
