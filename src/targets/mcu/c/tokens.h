/* Layer norms and attention of codes, in whole numbers alone. */
#ifndef LATHE_TOKENS_H
#define LATHE_TOKENS_H

#include "dsp.h"

/* (a·b + 2^30) >> 31. */
LATHE_BODY int32_t doubling_high(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31); }

/* x / 2^n, rounded, ties away from zero. */
LATHE_BODY int32_t divide_by_power(int32_t x, int32_t n) {
  if (n == 0) return x;
  const int64_t half = (int64_t)1 << (n - 1), size = ((x < 0 ? -(int64_t)x : (int64_t)x) + half) >> n;
  return (int32_t)(x < 0 ? -size : size);
}

/* e^x, x <= 0 with 26 bits behind the point, as a fraction of 31 bits: a polynomial on [-1/4, 0), and a factor for each bit above. */
static inline int32_t exp_of_negative(int32_t x) {
  static const int32_t factors[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242}; /* e^(-2^k), k = -2 ... 4 */
  if (x == 0) return INT32_MAX;
  const int32_t quarter = 1 << 24, rest = (int32_t)((uint32_t)x & 0xffffffu) - quarter;
  const int32_t t = rest * 32 + (1 << 28);
  const int32_t t2 = doubling_high(t, t), t3 = doubling_high(t2, t), t4 = doubling_high(t2, t2);
  const int32_t third = 715827883, start = 1895147668; /* 2^31 / 3; e^(-1/8) */
  const int32_t tail = divide_by_power(doubling_high(divide_by_power(t4, 2) + t3, third) + t2, 1);
  int32_t y = start + doubling_high(start, t + tail);
  const int32_t quarters = (rest - x) >> 24;
  for (int32_t k = 0; k < 7; ++k)
    if ((quarters >> k) & 1) y = doubling_high(y, factors[k]);
  return y;
}

/* The largest whole number whose square is not above v. */
static inline uint64_t whole_root(uint64_t v) {
  if (v < 2) return v;
  uint32_t bits = 0;
  for (uint64_t rest = v; rest != 0; rest >>= 1) ++bits;
  uint64_t x = (uint64_t)1 << ((bits + 1) / 2);
  for (;;) {
    const uint64_t next = (x + v / x) / 2;
    if (next >= x) return x;
    x = next;
  }
}

LATHE_BODY int32_t code_at(const uint8_t *x, int32_t is_signed) { return is_signed ? (int32_t)(int8_t)*x : (int32_t)*x; }

struct norm {
  const uint8_t *x;
  uint8_t *y;            /* y may take the place of x */
  const int32_t *weight; /* gamma / y_scale, 12 bits behind the point */
  const int64_t *bias;   /* beta / y_scale, 42 bits */
  int32_t rows, width, is_signed;
  int64_t epsilon;       /* eps * width^2 / x_scale^2, 16 bits */
  int32_t y_zero, low, high;
};

/* y = (width·x - sum) · 2^38 / sqrt(2^16·variance) · weight + bias, rounded. */
static inline void norm_rows(const struct norm *l) {
  const int32_t width = l->width;
  for (int32_t r = 0; r < l->rows; ++r) {
    const uint8_t *x = l->x + r * width;
    uint8_t *y = l->y + r * width;
    int32_t sum = 0;
    uint32_t squares = 0;
    for (int32_t i = 0; i < width; ++i) {
      const int32_t v = code_at(x + i, l->is_signed);
      sum += v;
      squares += (uint32_t)(v * v);
    }
    const int64_t variance = (((int64_t)width * (int64_t)squares - (int64_t)sum * sum) * 65536) + l->epsilon;
    const int64_t root = (int64_t)whole_root(variance > 0 ? (uint64_t)variance : 1u);
    const int64_t inverse = (((int64_t)1 << 38) + root / 2) / root;
    for (int32_t i = 0; i < width; ++i) {
      const int64_t centred = (int64_t)width * code_at(x + i, l->is_signed) - sum;
      const int64_t code = ((centred * inverse * l->weight[i] + l->bias[i] + ((int64_t)1 << 41)) >> 42) + l->y_zero;
      y[i] = (uint8_t)(code < l->low ? l->low : code > l->high ? l->high : (int32_t)code);
    }
  }
}

struct attention {
  const uint8_t *q, *k, *v;
  uint8_t *y;
  int32_t *scores; /* [keys] */
  int32_t heads, share, queries, keys, size, value_size; /* share: query heads to a head of keys */
  int32_t q_head, q_row, k_head, k_row, v_head, v_row, y_head, y_row; /* steps */
  int32_t q_signed, k_signed, v_signed, q_zero, k_zero, v_zero;
  int32_t unit, unit_shift, least; /* of a score, 26 bits behind the point: unit · 2^(unit_shift - 31); below -least nothing counts */
  int64_t ratio;                   /* v_scale / y_scale, 30 bits */
  int32_t y_zero, low, high;
};

LATHE_BODY int32_t score_weight(const struct attention *l, int32_t below) {
  if (below < -l->least) return 0;
  const int32_t left = l->unit_shift > 0 ? l->unit_shift : 0, right = l->unit_shift < 0 ? -l->unit_shift : 0;
  return exp_of_negative(divide_by_power(doubling_high((int32_t)((int64_t)below * ((int64_t)1 << left)), l->unit), right)) >> 16;
}

/* One row of scores at a time: weights of 15 bits, and one division a row. */
static inline void attend(const struct attention *l) {
  for (int32_t h = 0; h < l->heads; ++h) {
    const int32_t kv = h / l->share;
    for (int32_t i = 0; i < l->queries; ++i) {
      const uint8_t *q = l->q + h * l->q_head + i * l->q_row;
      int32_t most = INT32_MIN;
      for (int32_t j = 0; j < l->keys; ++j) {
        const uint8_t *k = l->k + kv * l->k_head + j * l->k_row;
        int32_t sum = 0;
        for (int32_t d = 0; d < l->size; ++d) sum += (code_at(q + d, l->q_signed) - l->q_zero) * (code_at(k + d, l->k_signed) - l->k_zero);
        l->scores[j] = sum;
        if (sum > most) most = sum;
      }
      int64_t all = 0;
      for (int32_t j = 0; j < l->keys; ++j) {
        l->scores[j] = score_weight(l, l->scores[j] - most);
        all += l->scores[j];
      }
      const int64_t one = (l->ratio + all / 2) / all;
      for (int32_t d = 0; d < l->value_size; ++d) {
        const uint8_t *v = l->v + kv * l->v_head + d;
        int64_t sum = 0;
        for (int32_t j = 0; j < l->keys; ++j) sum += (int64_t)l->scores[j] * (code_at(v + j * l->v_row, l->v_signed) - l->v_zero);
        const int64_t code = ((sum * one + ((int64_t)1 << 29)) >> 30) + l->y_zero;
        l->y[h * l->y_head + i * l->y_row + d] = (uint8_t)(code < l->low ? l->low : code > l->high ? l->high : (int32_t)code);
      }
    }
  }
}

#endif
