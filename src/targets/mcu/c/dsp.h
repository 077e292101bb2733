/* The machine instructions that the layers are built from: the DSP and floating-point extensions of Cortex-M4 and M7,
 * each with a portable form that gives the same bits. -DLATHE_PORTABLE takes the portable forms everywhere. */
#ifndef LATHE_DSP_H
#define LATHE_DSP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are packed for little-endian processors"
#endif

/* Bodies of layers are inlined into one function for each form of layer, so that sizes of windows are constants there. */
#define LATHE_BODY static inline __attribute__((always_inline))
/* Not inlined, for long loops that need all registers. */
#define LATHE_APART static __attribute__((noinline, unused))

#if defined(__clang__)
#define LATHE_PRAGMA(text) _Pragma(#text)
#define LATHE_UNROLL(times) LATHE_PRAGMA(clang loop unroll_count(times))
#elif defined(__GNUC__)
#define LATHE_PRAGMA(text) _Pragma(#text)
#define LATHE_UNROLL(times) LATHE_PRAGMA(GCC unroll times)
#else
#define LATHE_UNROLL(times)
#endif

/* Four bytes, or two halfwords, at any address. */
LATHE_BODY uint32_t load_word(const void *p) {
  uint32_t word;
  memcpy(&word, p, sizeof word);
  return word;
}
LATHE_BODY void store_word(void *p, uint32_t word) { memcpy(p, &word, sizeof word); }

/* A sum that wraps, as the processor's does. */
LATHE_BODY uint32_t low_half(uint32_t x) { return (uint32_t)(int32_t)(int16_t)(uint16_t)x; }
LATHE_BODY uint32_t high_half(uint32_t x) { return (uint32_t)(int32_t)(int16_t)(uint16_t)(x >> 16); }

#if defined(__ARM_FEATURE_DSP) && !defined(LATHE_PORTABLE)

/* Bytes 0 and 2 (1 and 3) of a word, each in 16 bits. */
LATHE_BODY uint32_t even_s8(uint32_t x) { uint32_t y; __asm__("sxtb16 %0, %1" : "=r"(y) : "r"(x)); return y; }
LATHE_BODY uint32_t odd_s8(uint32_t x) { uint32_t y; __asm__("sxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x)); return y; }
LATHE_BODY uint32_t even_u8(uint32_t x) { uint32_t y; __asm__("uxtb16 %0, %1" : "=r"(y) : "r"(x)); return y; }
LATHE_BODY uint32_t odd_u8(uint32_t x) { uint32_t y; __asm__("uxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x)); return y; }
/* sum + the products of halves: low by low and high by high; or one pair of them (a's half first). */
LATHE_BODY uint32_t mac_pair(uint32_t a, uint32_t b, uint32_t sum) { uint32_t y; __asm__("smlad %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(sum)); return y; }
LATHE_BODY uint32_t mac_low_low(uint32_t a, uint32_t b, uint32_t sum) { uint32_t y; __asm__("smlabb %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(sum)); return y; }
LATHE_BODY uint32_t mac_low_high(uint32_t a, uint32_t b, uint32_t sum) { uint32_t y; __asm__("smlabt %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(sum)); return y; }
LATHE_BODY uint32_t mac_high_low(uint32_t a, uint32_t b, uint32_t sum) { uint32_t y; __asm__("smlatb %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(sum)); return y; }
/* The low halves of both in one word. */
LATHE_BODY uint32_t join_halves(uint32_t low, uint32_t high) { uint32_t y; __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(y) : "r"(low), "r"(high)); return y; }
LATHE_BODY int32_t saturate_s8(int32_t x) { int32_t y; __asm__("ssat %0, #8, %1" : "=r"(y) : "r"(x)); return y; }
LATHE_BODY int32_t saturate_u8(int32_t x) { int32_t y; __asm__("usat %0, #8, %1" : "=r"(y) : "r"(x)); return y; }

#else

LATHE_BODY uint32_t two_halves(uint32_t low, uint32_t high) { return (low & 0xffffu) | (high << 16); }
LATHE_BODY uint32_t byte_s8(uint32_t x) { return (uint32_t)(int32_t)(int8_t)(uint8_t)x; }
LATHE_BODY uint32_t even_s8(uint32_t x) { return two_halves(byte_s8(x), byte_s8(x >> 16)); }
LATHE_BODY uint32_t odd_s8(uint32_t x) { return two_halves(byte_s8(x >> 8), byte_s8(x >> 24)); }
LATHE_BODY uint32_t even_u8(uint32_t x) { return x & 0x00ff00ffu; }
LATHE_BODY uint32_t odd_u8(uint32_t x) { return (x >> 8) & 0x00ff00ffu; }
LATHE_BODY uint32_t mac_low_low(uint32_t a, uint32_t b, uint32_t sum) { return sum + low_half(a) * low_half(b); }
LATHE_BODY uint32_t mac_low_high(uint32_t a, uint32_t b, uint32_t sum) { return sum + low_half(a) * high_half(b); }
LATHE_BODY uint32_t mac_high_low(uint32_t a, uint32_t b, uint32_t sum) { return sum + high_half(a) * low_half(b); }
LATHE_BODY uint32_t mac_pair(uint32_t a, uint32_t b, uint32_t sum) { return sum + low_half(a) * low_half(b) + high_half(a) * high_half(b); }
LATHE_BODY uint32_t join_halves(uint32_t low, uint32_t high) { return two_halves(low, high); }
LATHE_BODY int32_t saturate_s8(int32_t x) { return x < -128 ? -128 : x > 127 ? 127 : x; }
LATHE_BODY int32_t saturate_u8(int32_t x) { return x < 0 ? 0 : x > 255 ? 255 : x; }

#endif

/* Bits of a word of parameters as a float. */
LATHE_BODY float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* The innermost loops of products. `x`: a column of taps in 16 bits, [quads, 2 pixels, 2 words]; `w`: weights of two
 * channels a and b, [quads, 2 words]. The sums of products are added to sum: a and b of pixel 0, then of pixel 1. Returns
 * the end of the weights. */
#if defined(__ARM_FEATURE_DSP) && !defined(LATHE_PORTABLE) && defined(__OPTIMIZE__)
/* Both in assembly, since they use all but one of the registers and a compiler spills some of them: 15 instructions for 16
 * products, and 10 for 8. */
#define LATHE_QUAD_OF_TWO_PIXELS                                                       \
  "ldrd %[wa], %[wb], [%[w]], #8\n\t"                                                  \
  "sxtb16 %[ea], %[wa]\n\tsxtb16 %[wa], %[wa], ror #8\n\t"                            \
  "sxtb16 %[eb], %[wb]\n\tsxtb16 %[wb], %[wb], ror #8\n\t"                            \
  "ldrd %[xe], %[xo], [%[x]], #8\n\t"                                                  \
  "smlad %[a0], %[xe], %[ea], %[a0]\n\tsmlad %[b0], %[xe], %[eb], %[b0]\n\t"          \
  "smlad %[a0], %[xo], %[wa], %[a0]\n\tsmlad %[b0], %[xo], %[wb], %[b0]\n\t"          \
  "ldrd %[xe], %[xo], [%[x]], #8\n\t"                                                  \
  "smlad %[a1], %[xe], %[ea], %[a1]\n\tsmlad %[b1], %[xe], %[eb], %[b1]\n\t"          \
  "smlad %[a1], %[xo], %[wa], %[a1]\n\tsmlad %[b1], %[xo], %[wb], %[b1]\n\t"
#define LATHE_QUAD_OF_ONE_PIXEL                                                        \
  "ldrd %[wa], %[wb], [%[w]], #8\n\t"                                                  \
  "sxtb16 %[ea], %[wa]\n\tsxtb16 %[wa], %[wa], ror #8\n\t"                            \
  "sxtb16 %[eb], %[wb]\n\tsxtb16 %[wb], %[wb], ror #8\n\t"                            \
  "ldrd %[xe], %[xo], [%[x]], #16\n\t"                                                 \
  "smlad %[a0], %[xe], %[ea], %[a0]\n\tsmlad %[b0], %[xe], %[eb], %[b0]\n\t"          \
  "smlad %[a0], %[xo], %[wa], %[a0]\n\tsmlad %[b0], %[xo], %[wb], %[b0]\n\t"
/* An odd quad first, then two at a time. */
#define LATHE_LOOP_OF_QUADS(quad)                                                      \
  "sub %[ea], %[end], %[w]\n\ttst %[ea], #8\n\tbeq 1f\n\t" quad                       \
  "cmp %[w], %[end]\n\tbeq 2f\n"                                                      \
  "1:\n\t" quad quad "cmp %[w], %[end]\n\tbne 1b\n2:"
LATHE_BODY const uint32_t *multiply_two_pixels(const uint32_t *x, const uint32_t *w, int32_t quads, uint32_t *sum) {
  const uint32_t *const end = w + 2 * quads;
  uint32_t wa, wb, ea, eb, xe, xo;
  __asm__(LATHE_LOOP_OF_QUADS(LATHE_QUAD_OF_TWO_PIXELS)
          : [x] "+r"(x), [w] "+r"(w), [a0] "+r"(sum[0]), [b0] "+r"(sum[1]), [a1] "+r"(sum[2]), [b1] "+r"(sum[3]), [wa] "=&r"(wa), [wb] "=&r"(wb),
            [ea] "=&r"(ea), [eb] "=&r"(eb), [xe] "=&r"(xe), [xo] "=&r"(xo)
          : [end] "r"(end)
          : "cc", "memory");
  return end;
}
LATHE_BODY const uint32_t *multiply_one_pixel(const uint32_t *x, const uint32_t *w, int32_t quads, uint32_t *sum) {
  const uint32_t *const end = w + 2 * quads;
  uint32_t wa, wb, ea, eb, xe, xo;
  __asm__(LATHE_LOOP_OF_QUADS(LATHE_QUAD_OF_ONE_PIXEL)
          : [x] "+r"(x), [w] "+r"(w), [a0] "+r"(sum[0]), [b0] "+r"(sum[1]), [wa] "=&r"(wa), [wb] "=&r"(wb), [ea] "=&r"(ea), [eb] "=&r"(eb),
            [xe] "=&r"(xe), [xo] "=&r"(xo)
          : [end] "r"(end)
          : "cc", "memory");
  return end;
}
#else
LATHE_BODY const uint32_t *multiply_one_pixel(const uint32_t *x, const uint32_t *w, int32_t quads, uint32_t *sum) {
  for (int32_t q = 0; q < quads; ++q, x += 4, w += 2) {
    sum[0] = mac_pair(x[1], odd_s8(w[0]), mac_pair(x[0], even_s8(w[0]), sum[0]));
    sum[1] = mac_pair(x[1], odd_s8(w[1]), mac_pair(x[0], even_s8(w[1]), sum[1]));
  }
  return w;
}
LATHE_BODY const uint32_t *multiply_two_pixels(const uint32_t *x, const uint32_t *w, int32_t quads, uint32_t *sum) {
  (void)multiply_one_pixel(x + 2, w, quads, sum + 2);
  return multiply_one_pixel(x, w, quads, sum);
}
#endif

/* The nearest integer, ties to even; what is beyond 32 bits becomes the largest number of its sign. */
#if defined(__ARM_FP) && (__ARM_FP & 4) && !defined(LATHE_PORTABLE)
LATHE_BODY int32_t nearest(float x) {
  float bits;
  int32_t y;
  __asm__("vcvtr.s32.f32 %0, %1" : "=t"(bits) : "t"(x));
  memcpy(&y, &bits, sizeof y);
  return y;
}
#else
LATHE_BODY int32_t nearest(float x) { return x >= 2147483520.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN : (int32_t)lrintf(x); }
#endif

/* a·b + c, rounded once. Without an instruction for it: the product of a code and a float is exact in double, the rest
 * of the sum decides its last bit (rounding to odd: Boldo and Melquiond 2008), and the conversion then rounds right. */
#if defined(__ARM_FEATURE_FMA) && !defined(LATHE_PORTABLE)
LATHE_BODY float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
LATHE_BODY float multiply_add(float a, float b, float c) {
  const double product = (double)a * (double)b, other = (double)c;
  const double sum = product + other, back = sum - product;
  const double rest = (product - (sum - back)) + (other - back);
  uint64_t bits;
  memcpy(&bits, &sum, sizeof bits);
  if (rest < 0.0 || rest > 0.0) {
    if ((bits & 1u) == 0) bits += (rest > 0.0) == (sum > 0.0) ? 1u : (uint64_t)-1;
    double odd;
    memcpy(&odd, &bits, sizeof odd);
    return (float)odd;
  }
  return (float)sum;
}
#endif

/* How sums become an output. The numbers are flags of a form, so that each is decided when the form is compiled. */
enum {
  OUT_SIGNED = 1, /* i8 codes, else u8 */
  OUT_LIMITS = 2, /* limits narrower than the type, or sums beyond what the short way takes */
  OUT_TABLE = 4,  /* codes are looked up in a table */
  OUT_FLOAT = 8,  /* f32: sum·multiplier */
  OUT_SUMS = 16,  /* i32: the sums */
  /* Not of the output, but of weights whose codes less their zero points need nine bits: */
  OFFSETS = 32, /* products: bytes, and for each channel what is missing from all of them */
  WIDE = 64     /* depthwise convolutions: 16 bits */
};

/* clamp(round(value), low − zero, high − zero) + zero. */
LATHE_BODY int32_t to_code(int out, float value, int32_t zero, int32_t low, int32_t high) {
  int32_t code = nearest(value);
  if (out & OUT_LIMITS) {
    const int32_t least = low - zero, most = high - zero;
    if (code < least) code = least;
    if (code > most) code = most;
    return code + zero;
  }
  return out & OUT_SIGNED ? saturate_s8(code + zero) : saturate_u8(code + zero);
}

/* What finishes a sum of products, beside its multiplier. */
struct finish {
  int32_t zero, low, high;
  const uint8_t *table;
};
LATHE_BODY uint8_t finish_code(struct finish f, int out, uint32_t sum, float multiplier) {
  const uint8_t code = (uint8_t)to_code(out, (float)(int32_t)sum * multiplier, f.zero, f.low, f.high);
  return out & OUT_TABLE ? f.table[code] : code;
}

#endif
