/* What stands between products: sums and products of two tensors, tables, softmax, moves. */
#ifndef LATHE_ELEMENTWISE_H
#define LATHE_ELEMENTWISE_H

#include "dsp.h"

/* Two tensors of codes. b repeats: it is [outer, 1, inner] of [outer, middle, inner]. */
struct binary {
  const uint8_t *a, *b;
  uint8_t *y;
  int32_t outer, middle, inner;
  float a_ratio, b_ratio; /* add: a_scale / y_scale, b_scale / y_scale; multiply: a_scale · b_scale / y_scale, and nothing */
  float constant;         /* the output's zero point, for add less those of the operands, all moved to u8 */
  int32_t a_flip, b_flip, y_flip; /* add: 128 for i8 codes, which are moved to u8, else 0 */
  int32_t a_zero, b_zero; /* multiply */
  int32_t low, high;      /* add: moved to u8 */
  int32_t a_signed, b_signed;
};

LATHE_BODY int32_t within(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

/* round(a·a_ratio + (b·b_ratio + constant)), each sum rounded once; with `swapped` b is the operand that is added last. y may take
 * the place of a or b. */
LATHE_BODY void add_operands(const struct binary *l, int swapped) {
  const uint8_t *a = l->a, *b = l->b;
  uint8_t *y = l->y;
  const uint32_t a_flip = (uint32_t)l->a_flip, b_flip = (uint32_t)l->b_flip, y_flip = (uint32_t)l->y_flip;
  const int32_t low = l->low, high = l->high;
  const float a_ratio = l->a_ratio, b_ratio = l->b_ratio, constant = l->constant;
  for (int32_t o = 0; o < l->outer; ++o, b += l->inner)
    for (int32_t m = 0; m < l->middle; ++m)
      for (int32_t i = 0; i < l->inner; ++i) {
        const float fa = (float)(int32_t)(*a++ ^ a_flip), fb = (float)(int32_t)(b[i] ^ b_flip);
        const float inner = swapped ? multiply_add(fa, a_ratio, constant) : multiply_add(fb, b_ratio, constant);
        const float sum = swapped ? multiply_add(fb, b_ratio, inner) : multiply_add(fa, a_ratio, inner);
        *y++ = (uint8_t)((uint32_t)within(nearest(sum), low, high) ^ y_flip);
      }
}

static inline void add_codes(const struct binary *l) { add_operands(l, 0); }
static inline void add_codes_swapped(const struct binary *l) { add_operands(l, 1); }

/* round((a − a_zero)·(b − b_zero)·ratio + y_zero). */
static inline void multiply_codes(const struct binary *l) {
  const uint8_t *a = l->a, *b = l->b;
  uint8_t *y = l->y;
  for (int32_t o = 0; o < l->outer; ++o, b += l->inner)
    for (int32_t m = 0; m < l->middle; ++m)
      for (int32_t i = 0; i < l->inner; ++i, ++a) {
        const int32_t ca = (l->a_signed ? (int32_t)(int8_t)*a : (int32_t)*a) - l->a_zero;
        const int32_t cb = (l->b_signed ? (int32_t)(int8_t)b[i] : (int32_t)b[i]) - l->b_zero;
        const float product = (float)(ca * cb) * l->a_ratio;
        *y++ = (uint8_t)within(nearest(product + l->constant), l->low, l->high);
      }
}

struct lookup {
  const uint8_t *x;
  uint8_t *y;
  const uint8_t *table; /* [256] */
  int32_t count;
};

/* y may take the place of x. */
static inline void look_up(const struct lookup *l) {
  for (int32_t i = 0; i < l->count; ++i) l->y[i] = l->table[l->x[i]];
}

struct softmax {
  const uint8_t *x;
  uint8_t *y;
  const float *powers; /* [256] exp(−i·x_scale) */
  int32_t rows, width;
  uint32_t x_flip; /* 128 for i8 codes, else 0 */
  float inverse;   /* 1 / y_scale */
  int32_t y_zero, low, high;
};

/* y may take the place of x. */
static inline void softmax_codes(const struct softmax *l) {
  const uint8_t *x = l->x;
  uint8_t *y = l->y;
  for (int32_t row = 0; row < l->rows; ++row, x += l->width, y += l->width) {
    uint32_t largest = 0;
    for (int32_t i = 0; i < l->width; ++i)
      if ((x[i] ^ l->x_flip) > largest) largest = x[i] ^ l->x_flip;
    float sum = 0.0f;
    for (int32_t i = 0; i < l->width; ++i) sum += l->powers[largest - (x[i] ^ l->x_flip)];
    for (int32_t i = 0; i < l->width; ++i) {
      const float scaled = l->powers[largest - (x[i] ^ l->x_flip)] * l->inverse;
      y[i] = (uint8_t)to_code(OUT_LIMITS, scaled / sum, l->y_zero, l->low, l->high);
    }
  }
}

/* Rows of bytes from one place to another: joins, cuts. */
struct rows {
  const uint8_t *x;
  uint8_t *y;
  int32_t rows, bytes, x_step, y_step;
};

static inline void copy_rows(const struct rows *l) {
  for (int32_t i = 0; i < l->rows; ++i) memcpy(l->y + i * l->y_step, l->x + i * l->x_step, (size_t)l->bytes);
}

/* A block of one value. */
struct block {
  uint8_t *y;
  int32_t bytes, value;
};

static inline void fill_block(const struct block *l) { memset(l->y, l->value, (size_t)l->bytes); }

/* Axes in another order: y[i, j, k, m, n] lies in x at the sum of index times step. */
struct moved {
  const uint8_t *x;
  uint8_t *y;
  int32_t size[5], step[5];
};

static inline void move_axes(const struct moved *l) {
  uint8_t *y = l->y;
  for (int32_t i = 0; i < l->size[0]; ++i)
    for (int32_t j = 0; j < l->size[1]; ++j)
      for (int32_t k = 0; k < l->size[2]; ++k)
        for (int32_t m = 0; m < l->size[3]; ++m) {
          const uint8_t *x = l->x + i * l->step[0] + j * l->step[1] + k * l->step[2] + m * l->step[3];
          for (int32_t n = 0; n < l->size[4]; ++n) *y++ = x[n * l->step[4]];
        }
}

#endif
