/* Products with constant weights: convolutions over all channels, and matrix products.
 *
 * Two output pixels at a time: their taps are widened to 16 bits once, into `columns`, and two output channels at a time
 * take four sums of products from them. A word of weights holds four taps; taps 0 and 2 of it (1 and 3) meet taps 0 and 2
 * (1 and 3) of the column in one instruction. All that a pair of channels needs stands together in `parameters`: two biases,
 * two multipliers (x_scale · w_scale / y_scale, the bits of floats), and words of weights, of the two channels in turn, with
 * taps in the order ky, kx, channel. The zero point of x is in the bias; taps outside the picture have it as their code, so
 * that they add nothing. With offsets, two more words tell what is missing from all weights of each channel: so
 * many times the sum of the taps is added. */
#ifndef LATHE_DENSE_H
#define LATHE_DENSE_H

#include "dsp.h"

struct dense {
  const uint8_t *x;           /* [height, width] pixels of `channels`, x_pixel bytes apart */
  void *y;                    /* [out_height, out_width] pixels of `outputs`, y_pixel elements apart */
  const uint32_t *parameters; /* [outputs / 2, 4 + 2 · quads], with offsets 6 + 2 · quads */
  const uint8_t *table;       /* [256], or none */
  uint32_t *columns;          /* scratch: [quads, 2 pixels, 2 words] */
  int32_t height, width, channels, x_pixel;
  int32_t out_height, out_width, outputs, y_pixel;
  int32_t pad_top, pad_left, x_zero, y_zero, low, high;
  int32_t backwards; /* the last pixels first: y takes the place of x and has the larger pixels */
};

/* What layers of one form have in common, as constants: channels is 0 where they differ in it. */
struct dense_form {
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, channels;
  int is_signed, out;
};

/* `quads` words of codes to a column; words of the two pixels take turns. */
LATHE_BODY uint32_t *widen(int is_signed, uint32_t *column, const uint8_t *x, int32_t quads) {
LATHE_UNROLL(2)
  for (; quads > 0; --quads, x += 4, column += 4) {
    const uint32_t word = load_word(x);
    column[0] = is_signed ? even_s8(word) : even_u8(word);
    column[1] = is_signed ? odd_s8(word) : odd_u8(word);
  }
  return column;
}

/* Two pixels, `step` bytes apart. */
LATHE_BODY void widen_two(int is_signed, uint32_t *column, const uint8_t *x, int32_t step, int32_t quads) {
  LATHE_UNROLL(2)
  for (; quads > 0; --quads, x += 4, column += 4) {
    const uint32_t a = load_word(x), b = load_word(x + step);
    column[0] = is_signed ? even_s8(a) : even_u8(a);
    column[1] = is_signed ? odd_s8(a) : odd_u8(a);
    column[2] = is_signed ? even_s8(b) : even_u8(b);
    column[3] = is_signed ? odd_s8(b) : odd_u8(b);
  }
}

/* Whole words and the rest, of which the last word is filled up with zeros. */
LATHE_BODY void widen_all(int is_signed, uint32_t *column, const uint8_t *x, int32_t count) {
  column = widen(is_signed, column, x, count / 4);
  if (count % 4 == 0) return;
  uint8_t rest[4] = {0, 0, 0, 0};
  for (int32_t i = 0; i < count % 4; ++i) rest[i] = x[count / 4 * 4 + i];
  (void)widen(is_signed, column, rest, 1);
}

LATHE_BODY uint32_t *fill(uint32_t *column, int32_t zero, int32_t quads) {
  const uint32_t pair = ((uint32_t)zero & 0xffffu) | ((uint32_t)zero << 16);
  for (; quads > 0; --quads, column += 4) column[0] = column[1] = pair;
  return column;
}

/* The taps of output pixel (oy, ox) where pixels are whole words. */
LATHE_BODY void gather_words(const struct dense *l, struct dense_form k, int32_t oy, int32_t ox, uint32_t *column) {
  const int32_t quads = l->channels / 4, left = ox * k.stride_w - l->pad_left;
  for (int32_t ky = 0; ky < k.kernel_h; ++ky) {
    const int32_t iy = oy * k.stride_h - l->pad_top + ky * k.dilation_h;
    if (iy < 0 || iy >= l->height) {
      column = fill(column, l->x_zero, quads * k.kernel_w);
      continue;
    }
    const uint8_t *row = l->x + iy * l->width * l->x_pixel;
    if (k.dilation_w == 1 && left >= 0 && left + k.kernel_w <= l->width && l->x_pixel == l->channels) {
      column = widen(k.is_signed, column, row + left * l->x_pixel, quads * k.kernel_w);
      continue;
    }
    for (int32_t kx = 0; kx < k.kernel_w; ++kx) {
      const int32_t ix = left + kx * k.dilation_w;
      if (ix < 0 || ix >= l->width) column = fill(column, l->x_zero, quads);
      else column = widen(k.is_signed, column, row + ix * l->x_pixel, quads);
    }
  }
}

/* The same for any number of channels: taps are brought together as bytes first, behind the columns. */
LATHE_BODY void gather_bytes(const struct dense *l, struct dense_form k, int32_t oy, int32_t ox, uint32_t *column) {
  const int32_t channels = k.channels ? k.channels : l->channels, taps = k.kernel_h * k.kernel_w * channels;
  const int32_t left = ox * k.stride_w - l->pad_left;
  uint8_t *const bytes = (uint8_t *)(l->columns + (taps + 3) / 4 * 4);
  uint8_t *to = bytes;
  for (int32_t ky = 0; ky < k.kernel_h; ++ky) {
    const int32_t iy = oy * k.stride_h - l->pad_top + ky * k.dilation_h;
    const int whole = iy >= 0 && iy < l->height && left >= 0 && left + k.kernel_w <= l->width;
    if (whole && k.dilation_w == 1 && l->x_pixel == channels) {
      memcpy(to, l->x + (iy * l->width + left) * channels, (size_t)(k.kernel_w * channels));
      to += k.kernel_w * channels;
      continue;
    }
    for (int32_t kx = 0; kx < k.kernel_w; ++kx, to += channels) {
      const int32_t ix = left + kx * k.dilation_w;
      const int inside = iy >= 0 && iy < l->height && ix >= 0 && ix < l->width;
      if (inside) memcpy(to, l->x + (iy * l->width + ix) * l->x_pixel, (size_t)channels);
      else memset(to, l->x_zero & 255, (size_t)channels);
    }
  }
  for (int32_t i = taps; i % 4 != 0; ++i) *to++ = 0;
  (void)widen(k.is_signed, column, bytes, (taps + 3) / 4);
}

/* A sum becomes element i of y. */
LATHE_BODY void finish_sum(struct finish f, int out, uint8_t *y, int32_t i, uint32_t sum, float multiplier) {
  if (out & OUT_SUMS) {
    memcpy(y + 4 * i, &sum, sizeof sum);
    return;
  }
  if (out & OUT_FLOAT) {
    const float value = (float)(int32_t)sum * multiplier;
    memcpy(y + 4 * i, &value, sizeof value);
    return;
  }
  y[i] = finish_code(f, out, sum, multiplier);
}

/* The sum of all taps of a column. */
LATHE_BODY uint32_t sum_of_taps(const uint32_t *column, int32_t quads) {
  uint32_t sum = 0;
  for (; quads > 0; --quads, column += 4) sum = mac_pair(column[1], 0x00010001u, mac_pair(column[0], 0x00010001u, sum));
  return sum;
}

/* All channels of one pixel, or two, from their columns; the first is number p of y. */
LATHE_BODY void multiply_columns(const struct dense *l, int out, int32_t quads, int32_t p, int pixels) {
  const int32_t size = out & (OUT_SUMS | OUT_FLOAT) ? 4 : 1, y_pixel = l->y_pixel;
  const struct finish f = {l->y_zero, l->low, l->high, l->table};
  const uint32_t *w = l->parameters;
  const uint32_t *const columns = l->columns;
  uint8_t *y = (uint8_t *)l->y + p * y_pixel * size;
  uint32_t taps[2] = {0, 0};
  if (out & OFFSETS) {
    taps[0] = sum_of_taps(columns, quads);
    if (pixels == 2) taps[1] = sum_of_taps(columns + 2, quads);
  }
  for (int32_t left = l->outputs; left > 0; left -= 2, y += 2 * size) {
    uint32_t sum[4] = {w[0], w[1], w[0], w[1]};
    const float a = float_of(w[2]), b = float_of(w[3]);
    if (out & OFFSETS) {
      for (int i = 0; i < 4; ++i) sum[i] += w[4 + i % 2] * taps[i / 2];
      w += 2;
    }
    w = pixels == 2 ? multiply_two_pixels(columns, w + 4, quads, sum) : multiply_one_pixel(columns, w + 4, quads, sum);
    finish_sum(f, out, y, 0, sum[0], a);
    if (pixels == 2) finish_sum(f, out, y, y_pixel, sum[2], a);
    if (left == 1) break;
    finish_sum(f, out, y, 1, sum[1], b);
    if (pixels == 2) finish_sum(f, out, y, y_pixel + 1, sum[3], b);
  }
}

/* A convolution. With words, pixels of x are whole words. */
LATHE_BODY void convolve(const struct dense *l, struct dense_form k, int words) {
  const int32_t channels = k.channels ? k.channels : l->channels, quads = (k.kernel_h * k.kernel_w * channels + 3) / 4;
  const int32_t count = l->out_height * l->out_width;
  int32_t oy = 0, ox = 0;
  for (int32_t p = 0; p < count; p += 2) {
    for (int32_t i = 0; i < 2 && p + i < count; ++i) {
      if (words) gather_words(l, k, oy, ox, l->columns + 2 * i);
      else gather_bytes(l, k, oy, ox, l->columns + 2 * i);
      if (++ox == l->out_width) ox = 0, ++oy;
    }
    if (p + 1 < count) multiply_columns(l, k.out, quads, p, 2);
    else multiply_columns(l, k.out, quads, p, 1);
  }
}

/* A window of one pixel without padding, and a product of many rows. y may take the place of x. */
LATHE_BODY void convolve_pixels(const struct dense *l, int is_signed, int words, int out) {
  const int32_t quads = (l->channels + 3) / 4, count = l->out_height * l->out_width;
  for (int32_t done = 0; done < count;) {
    const int pixels = (count - done) & 1 && (l->backwards || count - done == 1) ? 1 : 2;
    const int32_t p = l->backwards ? count - done - pixels : done;
    const uint8_t *const x = l->x + p * l->x_pixel;
    if (words && pixels == 2) widen_two(is_signed, l->columns, x, l->x_pixel, quads);
    else if (words) (void)widen(is_signed, l->columns, x, quads);
    else
      for (int i = 0; i < pixels; ++i) widen_all(is_signed, l->columns + 2 * i, x + i * l->x_pixel, l->channels);
    if (pixels == 2) multiply_columns(l, out, quads, p, 2);
    else multiply_columns(l, out, quads, p, 1);
    done += pixels;
  }
}

/* One row by a matrix. y may take the place of x. */
LATHE_BODY void multiply_row(const struct dense *l, int is_signed, int words, int out) {
  const int32_t quads = (l->channels + 3) / 4;
  if (words) (void)widen(is_signed, l->columns, l->x, quads);
  else widen_all(is_signed, l->columns, l->x, l->channels);
  multiply_columns(l, out, quads, 0, 1);
}

#endif
