// Element types of tensors (lathe/tensor.h, which users see), what they are like, and the conversions between
// the narrow float formats and float. In memory every element takes at least one byte: 2- and 4-bit types
// are unpacked, one element a byte; only files and packed weights hold them dense.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "lathe/tensor.h"

namespace lathe {

// Bits of one element in a file.
int bits_of(DType type);
DType dtype_from_name(std::string_view name);  // throws kUsage when unknown
bool is_float(DType type);                  // any floating format, narrow ones included
bool is_integer(DType type);                // any integer, bool excluded
bool is_signed(DType type);

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

float to_float(F16 value);
F16 to_f16(float value);       // round to nearest even, overflow to infinity
F16 to_f16(double value);      // a single rounding
inline float to_float(BF16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
inline BF16 to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// The narrow formats of 4 and 8 bits, by type. `saturate` is ONNX Cast's attribute: out-of-range values
// become the largest finite one instead of NaN or infinity.
float narrow_to_float(DType type, uint8_t bits);
uint8_t float_to_narrow(DType type, float value, bool saturate = true);

}  // namespace lathe
