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

/* The largest whole number whose square is not above v: Newton's way down from a start above it, which floats find. */
static inline uint64_t whole_root(uint64_t v) {
  if (v < 2) return v;
  const float value = (float)(uint32_t)(v >> 32) * 4294967296.0f + (float)(uint32_t)v;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits >> 1) + (127u << 22); /* half the exponent: 6 % off at most */
  float guess;
  memcpy(&guess, &bits, sizeof guess);
  for (int i = 0; i < 3; ++i) guess = 0.5f * (guess + value / guess);
  uint64_t x = guess < 4294900000.0f ? (uint64_t)(uint32_t)guess : 4294967295u;
  x += (x >> 20) + 2;
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
LATHE_BODY void norm_rows_as(const struct norm *l, int is_signed) {
  const int32_t width = l->width, y_zero = l->y_zero, low = l->low, high = l->high;
  const int32_t *const weight = l->weight;
  const int64_t *const bias = l->bias;
  for (int32_t r = 0; r < l->rows; ++r) {
    const uint8_t *x = l->x + r * width;
    uint8_t *y = l->y + r * width;
    int32_t sum = 0;
    uint32_t squares = 0;
    for (int32_t i = 0; i < width; ++i) {
      const int32_t v = code_at(x + i, is_signed);
      sum += v;
      squares += (uint32_t)(v * v);
    }
    const int64_t variance = (((int64_t)width * (int64_t)squares - (int64_t)sum * sum) * 65536) + l->epsilon;
    const int64_t root = (int64_t)whole_root(variance > 0 ? (uint64_t)variance : 1u);
    const int64_t inverse = (((int64_t)1 << 38) + root / 2) / root;
    /* Shifted by 42 bits, 64 are a number of 22. */
    if (inverse <= INT32_MAX) { /* as nearly always: 32 bits times 32, and those times 32 */
      const int32_t narrow = (int32_t)inverse;
      for (int32_t i = 0; i < width; ++i) {
        const int32_t centred = width * code_at(x + i, is_signed) - sum;
        const int32_t code = (int32_t)(((int64_t)centred * narrow * weight[i] + (bias[i] + ((int64_t)1 << 41))) >> 42) + y_zero;
        y[i] = (uint8_t)(code < low ? low : code > high ? high : code);
      }
      continue;
    }
    for (int32_t i = 0; i < width; ++i) {
      const int64_t centred = (int64_t)width * code_at(x + i, is_signed) - sum;
      const int32_t code = (int32_t)((centred * inverse * weight[i] + bias[i] + ((int64_t)1 << 41)) >> 42) + y_zero;
      y[i] = (uint8_t)(code < low ? low : code > high ? high : code);
    }
  }
}
static inline void norm_rows(const struct norm *l) {
  if (l->is_signed) norm_rows_as(l, 1);
  else norm_rows_as(l, 0);
}

struct attention {
  const uint8_t *q, *k, *v;
  uint8_t *y;
  int32_t *scores; /* [keys] */
  int32_t heads, share, queries, keys, size, value_size; /* share: query heads to a head of keys */
  int32_t q_head, q_row, k_head, k_row, v_head, v_row, y_head, y_row; /* steps */
  int32_t is_signed, q_zero, k_zero, v_zero;
  int32_t unit, unit_shift, least; /* of a score, 26 bits behind the point: unit · 2^(unit_shift - 31); below -least nothing counts */
  int64_t ratio;                   /* v_scale / y_scale, 30 bits */
  int32_t y_zero, low, high;
};

LATHE_BODY int32_t score_weight(const struct attention *l, int32_t below) {
  if (below < -l->least) return 0;
  const int32_t left = l->unit_shift > 0 ? l->unit_shift : 0, right = l->unit_shift < 0 ? -l->unit_shift : 0;
  return exp_of_negative(divide_by_power(doubling_high((int32_t)((int64_t)below * ((int64_t)1 << left)), l->unit), right)) >> 16;
}

/* Sum of q·k, and of k for a zero point of q; words of four codes where there are. */
LATHE_BODY int32_t dot(const struct attention *l, const uint8_t *q, const uint8_t *k, int is_signed, int32_t q_sum) {
  uint32_t products = 0, k_sum = 0;
  int32_t d = 0;
  for (; d + 4 <= l->size; d += 4) {
    const uint32_t a = load_word(q + d), b = load_word(k + d);
    const uint32_t even = is_signed ? even_s8(b) : even_u8(b), odd = is_signed ? odd_s8(b) : odd_u8(b);
    products = mac_pair(is_signed ? even_s8(a) : even_u8(a), even, products);
    products = mac_pair(is_signed ? odd_s8(a) : odd_u8(a), odd, products);
    if (l->q_zero != 0) k_sum = mac_pair(0x00010001u, even, mac_pair(0x00010001u, odd, k_sum));
  }
  for (; d < l->size; ++d) {
    const int32_t a = code_at(q + d, is_signed), b = code_at(k + d, is_signed);
    products += (uint32_t)(a * b);
    k_sum += (uint32_t)b;
  }
  return (int32_t)products - l->q_zero * (int32_t)k_sum - l->k_zero * q_sum + l->size * l->q_zero * l->k_zero;
}

/* Four sums of weight times value at a time; 32 bits hold them up to 256 keys. */
LATHE_BODY void mix_four(const struct attention *l, const uint8_t *v, int is_signed, uint32_t sum[4]) {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  for (int32_t j = 0; j < l->keys; ++j, v += l->v_row) {
    const uint32_t word = load_word(v), weight = (uint32_t)l->scores[j];
    const uint32_t even = is_signed ? even_s8(word) : even_u8(word), odd = is_signed ? odd_s8(word) : odd_u8(word);
    a = mac_low_low(weight, even, a);
    b = mac_low_low(weight, odd, b);
    c = mac_low_high(weight, even, c);
    d = mac_low_high(weight, odd, d);
  }
  sum[0] = a;
  sum[1] = b;
  sum[2] = c;
  sum[3] = d;
}

LATHE_BODY void put_mixed(const struct attention *l, uint8_t *y, int64_t sum, int64_t one) {
  const int64_t code = ((sum * one + ((int64_t)1 << 29)) >> 30) + l->y_zero;
  *y = (uint8_t)(code < l->low ? l->low : code > l->high ? l->high : (int32_t)code);
}

/* One row of scores at a time: weights of 15 bits, and one division a row. What differs from call to call is apart from the structure, whose
 * constants the compiler can then use. */
LATHE_BODY void attend_as(const struct attention *l, int is_signed, int32_t queries, uint8_t *to) {
  const int narrow = l->keys <= 256;
  for (int32_t h = 0; h < l->heads; ++h) {
    const int32_t kv = h / l->share;
    for (int32_t i = 0; i < queries; ++i) {
      const uint8_t *q = l->q + h * l->q_head + i * l->q_row;
      int32_t most = INT32_MIN, q_sum = 0;
      for (int32_t d = 0; d < l->size; ++d) q_sum += code_at(q + d, is_signed);
      for (int32_t j = 0; j < l->keys; ++j) {
        l->scores[j] = dot(l, q, l->k + kv * l->k_head + j * l->k_row, is_signed, q_sum);
        if (l->scores[j] > most) most = l->scores[j];
      }
      int64_t all = 0;
      for (int32_t j = 0; j < l->keys; ++j) {
        l->scores[j] = score_weight(l, l->scores[j] - most);
        all += l->scores[j];
      }
      const int64_t one = (l->ratio + all / 2) / all, zeros = (int64_t)l->v_zero * all;
      const uint8_t *v = l->v + kv * l->v_head;
      uint8_t *y = to + h * l->y_head + i * l->y_row;
      int32_t d = 0;
      for (; narrow && d + 4 <= l->value_size; d += 4) {
        uint32_t sum[4];
        mix_four(l, v + d, is_signed, sum);
        for (int32_t e = 0; e < 4; ++e) put_mixed(l, y + d + e, (int64_t)(int32_t)sum[e] - zeros, one);
      }
      for (; d < l->value_size; ++d) {
        int64_t sum = 0;
        for (int32_t j = 0; j < l->keys; ++j) sum += (int64_t)l->scores[j] * code_at(v + d + j * l->v_row, is_signed);
        put_mixed(l, y + d, sum - zeros, one);
      }
    }
  }
}

/* Queries, keys and values of one type, i8 or u8. */
LATHE_APART void attend_some(const struct attention *l, int32_t queries, uint8_t *y) {
  if (l->is_signed) attend_as(l, 1, queries, y);
  else attend_as(l, 0, queries, y);
}
static inline void attend(const struct attention *l) { attend_some(l, l->queries, l->y); }

#endif
