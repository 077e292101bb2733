#include "core/dtype.h"

#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace lathe {
namespace {

struct TypeInfo {
  std::string_view name;
  uint8_t bytes;
  uint8_t bits;
  enum Class : uint8_t { kOther, kFloat, kSigned, kUnsigned } kind;
};

constexpr std::array<TypeInfo, 27> kTypes{{
    {"undefined", 0, 0, TypeInfo::kOther}, {"f32", 4, 32, TypeInfo::kFloat},
    {"u8", 1, 8, TypeInfo::kUnsigned},     {"i8", 1, 8, TypeInfo::kSigned},
    {"u16", 2, 16, TypeInfo::kUnsigned},   {"i16", 2, 16, TypeInfo::kSigned},
    {"i32", 4, 32, TypeInfo::kSigned},     {"i64", 8, 64, TypeInfo::kSigned},
    {"string", 0, 0, TypeInfo::kOther},    {"bool", 1, 8, TypeInfo::kOther},
    {"f16", 2, 16, TypeInfo::kFloat},      {"f64", 8, 64, TypeInfo::kFloat},
    {"u32", 4, 32, TypeInfo::kUnsigned},   {"u64", 8, 64, TypeInfo::kUnsigned},
    {"c64", 0, 64, TypeInfo::kOther},      {"c128", 0, 128, TypeInfo::kOther},
    {"bf16", 2, 16, TypeInfo::kFloat},     {"f8e4m3fn", 1, 8, TypeInfo::kFloat},
    {"f8e4m3fnuz", 1, 8, TypeInfo::kFloat},{"f8e5m2", 1, 8, TypeInfo::kFloat},
    {"f8e5m2fnuz", 1, 8, TypeInfo::kFloat},{"u4", 1, 4, TypeInfo::kUnsigned},
    {"i4", 1, 4, TypeInfo::kSigned},       {"f4e2m1", 1, 4, TypeInfo::kFloat},
    {"f8e8m0", 1, 8, TypeInfo::kFloat},    {"u2", 1, 2, TypeInfo::kUnsigned},
    {"i2", 1, 2, TypeInfo::kSigned},
}};

const TypeInfo& info(DType type) {
  auto index = static_cast<size_t>(type);
  return kTypes[index < kTypes.size() ? index : 0];
}

// A float format of at most 8 bits: sign, exponent, mantissa and what its extreme codes mean.
struct NarrowFormat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  bool has_infinity;     // IEEE-like: all-ones exponent is infinity or NaN
  bool unsigned_zero;    // "UZ": the code of -0 is the only NaN
  float largest;         // the largest finite value
};

NarrowFormat format_of(DType type) {
  switch (type) {
    case DType::kF8E4M3FN: return {4, 3, 7, false, false, 448.0f};
    case DType::kF8E4M3FNUZ: return {4, 3, 8, false, true, 240.0f};
    case DType::kF8E5M2: return {5, 2, 15, true, false, 57344.0f};
    case DType::kF8E5M2FNUZ: return {5, 2, 16, false, true, 57344.0f};
    case DType::kF4E2M1: return {2, 1, 1, false, false, 6.0f};
    default: fail(ErrorKind::kInternal, "{} is not a narrow float format", name_of(type));
  }
}

}  // namespace

size_t size_of(DType type) { return info(type).bytes; }
int bits_of(DType type) { return info(type).bits; }
std::string_view name_of(DType type) { return info(type).name; }
bool is_float(DType type) { return info(type).kind == TypeInfo::kFloat; }
bool is_integer(DType type) {
  return info(type).kind == TypeInfo::kSigned || info(type).kind == TypeInfo::kUnsigned;
}
bool is_signed(DType type) { return is_float(type) || info(type).kind == TypeInfo::kSigned; }

DType dtype_from_name(std::string_view name) {
  if (name == "fp32" || name == "float32") return DType::kF32;
  for (size_t i = 1; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return static_cast<DType>(i);
  fail(ErrorKind::kUsage, "unknown element type '{}'; known are f32, f64, f16, bf16, i8, u8, i16 …", name);
}

float to_float(F16 value) {
  uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  uint32_t exponent = (value.bits >> 10) & 31u;
  uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -magnitude : magnitude;
}

F16 to_f16(double value) {
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return {static_cast<uint16_t>(sign | 0x7e00)};
  double magnitude = std::fabs(value);
  if (magnitude >= 65520.0) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  // nearbyint rounds half to even; a carry out of the mantissa moves to the next exponent by itself.
  auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  int code = magnitude < 0x1p-14 ? steps : ((exponent + 14) << 10) + steps;
  return {static_cast<uint16_t>(sign | code)};
}

F16 to_f16(float value) { return to_f16(static_cast<double>(value)); }

float narrow_to_float(DType type, uint8_t bits) {
  if (type == DType::kF8E8M0)
    return bits == 0xff ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, int{bits} - 127);
  NarrowFormat f = format_of(type);
  int sign_bit = 1 << (f.exponent_bits + f.mantissa_bits);
  bool negative = (bits & sign_bit) != 0;
  int magnitude = bits & (sign_bit - 1);
  if (f.unsigned_zero && negative && magnitude == 0) return std::numeric_limits<float>::quiet_NaN();
  int exponent = magnitude >> f.mantissa_bits;
  int mantissa = magnitude & ((1 << f.mantissa_bits) - 1);
  float result;
  if (f.has_infinity && exponent == (1 << f.exponent_bits) - 1) {
    result = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (type == DType::kF8E4M3FN && magnitude == 0x7f) {
    result = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    result = std::ldexp(static_cast<float>(mantissa), 1 - f.bias - f.mantissa_bits);
  } else {
    result = std::ldexp(static_cast<float>(mantissa + (1 << f.mantissa_bits)),
                        exponent - f.bias - f.mantissa_bits);
  }
  return negative ? -result : result;
}

uint8_t float_to_narrow(DType type, float value, bool saturate) {
  if (type == DType::kF8E8M0) {
    if (std::isnan(value)) return 0xff;
    float magnitude = std::fabs(value);
    if (magnitude == 0) return 0;
    if (std::isinf(magnitude)) return saturate ? 0xfe : 0xff;
    // Rounds up to the next power of two when the mantissa asks for it (ONNX Cast, round_mode "up").
    int exponent = std::ilogb(magnitude);
    if (std::ldexp(1.0f, exponent) < magnitude) ++exponent;
    if (exponent + 127 > 254) return saturate ? 0xfe : 0xff;
    return static_cast<uint8_t>(std::max(exponent + 127, 0));
  }
  NarrowFormat f = format_of(type);
  int sign_bit = 1 << (f.exponent_bits + f.mantissa_bits);
  uint8_t nan_code = f.unsigned_zero ? sign_bit : sign_bit - 1;
  if (type == DType::kF4E2M1) nan_code = 0x8;  // has no NaN: minus zero stands for it, as ml_dtypes does
  bool negative = std::signbit(value);
  uint8_t sign = negative ? sign_bit : 0;
  if (std::isnan(value)) return f.unsigned_zero || type == DType::kF4E2M1 ? nan_code : sign | nan_code;
  double magnitude = std::fabs(static_cast<double>(value));
  int largest_code = 0;
  for (int code = sign_bit - 1; code > 0; --code)
    if (narrow_to_float(type, code) == f.largest) { largest_code = code; break; }
  int smallest_exponent = 1 - f.bias;
  int code;
  if (std::isinf(value)) {
    code = sign_bit;  // out of range
  } else {
    int exponent = magnitude == 0 ? smallest_exponent : std::max(std::ilogb(magnitude), smallest_exponent);
    auto steps = static_cast<int64_t>(std::nearbyint(std::ldexp(magnitude, f.mantissa_bits - exponent)));
    code = static_cast<int>(std::min<int64_t>(
        ((int64_t{exponent} - smallest_exponent) << f.mantissa_bits) + steps, sign_bit));
  }
  if (code > largest_code) {
    if (saturate || type == DType::kF4E2M1) return sign | largest_code;
    if (f.has_infinity) return sign | (((1 << f.exponent_bits) - 1) << f.mantissa_bits);
    return f.unsigned_zero ? nan_code : sign | nan_code;
  }
  if (code == 0 && f.unsigned_zero) return 0;
  return sign | code;
}

}  // namespace lathe
