// What goes into a network and comes out of it: TensorView says where the elements lie, of which type and
// shape. A view owns nothing; elements are row-major and lie one after the other.
//
//   std::vector<float> pixels(3 * 224 * 224);
//   lathe::TensorView x = lathe::TensorView::of(pixels.data(), {1, 3, 224, 224});
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lathe/export.h"

namespace lathe {

// The numbers are those of ONNX (onnx.proto, TensorProto.DataType). In memory every element takes at least
// one byte: 2- and 4-bit types are unpacked, one element a byte.
enum class DType : uint8_t {
  kUndefined = 0,
  kF32 = 1,
  kU8 = 2,
  kI8 = 3,
  kU16 = 4,
  kI16 = 5,
  kI32 = 6,
  kI64 = 7,
  kString = 8,
  kBool = 9,
  kF16 = 10,
  kF64 = 11,
  kU32 = 12,
  kU64 = 13,
  kC64 = 14,
  kC128 = 15,
  kBF16 = 16,
  kF8E4M3FN = 17,
  kF8E4M3FNUZ = 18,
  kF8E5M2 = 19,
  kF8E5M2FNUZ = 20,
  kU4 = 21,
  kI4 = 22,
  kF4E2M1 = 23,
  kF8E8M0 = 24,
  kU2 = 25,
  kI2 = 26,
};

// Bytes of one element in memory; 0 for types that lathe does not hold (strings, complex).
LATHE_API size_t size_of(DType type);
LATHE_API std::string_view name_of(DType type);  // "f32", "i8", …

// The type that holds a C++ type's elements.
template <class T>
struct DTypeOf;
template <> struct DTypeOf<float> { static constexpr DType kType = DType::kF32; };
template <> struct DTypeOf<double> { static constexpr DType kType = DType::kF64; };
template <> struct DTypeOf<bool> { static constexpr DType kType = DType::kBool; };
template <> struct DTypeOf<int8_t> { static constexpr DType kType = DType::kI8; };
template <> struct DTypeOf<uint8_t> { static constexpr DType kType = DType::kU8; };
template <> struct DTypeOf<int16_t> { static constexpr DType kType = DType::kI16; };
template <> struct DTypeOf<uint16_t> { static constexpr DType kType = DType::kU16; };
template <> struct DTypeOf<int32_t> { static constexpr DType kType = DType::kI32; };
template <> struct DTypeOf<uint32_t> { static constexpr DType kType = DType::kU32; };
template <> struct DTypeOf<int64_t> { static constexpr DType kType = DType::kI64; };
template <> struct DTypeOf<uint64_t> { static constexpr DType kType = DType::kU64; };

struct TensorView {
  DType dtype = DType::kUndefined;
  std::vector<int64_t> shape;
  void* data = nullptr;

  template <class T>
  static TensorView of(T* data, std::vector<int64_t> shape) {
    return {DTypeOf<T>::kType, std::move(shape), data};
  }
  // For inputs: lathe never writes to them.
  template <class T>
  static TensorView of(const T* data, std::vector<int64_t> shape) {
    return of(const_cast<T*>(data), std::move(shape));
  }
  int64_t size() const {  // elements
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    return count;
  }
  // Null when the elements are of another type.
  template <class T>
  T* as() const {
    return dtype == DTypeOf<T>::kType ? static_cast<T*>(data) : nullptr;
  }
};

// An input or output as the network declares it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kUndefined;
  bool ranked = false;           // false: not even the number of axes is known
  std::vector<int64_t> shape;    // −1: open
  std::vector<std::string> symbols;  // by axis: the name of an open size, or ""
};

}  // namespace lathe
