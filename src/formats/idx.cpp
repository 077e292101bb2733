#include "formats/idx.h"

#include <algorithm>
#include <cstring>

#include "core/file.h"
#include "formats/deflate.h"

namespace lathe {
namespace {

constexpr size_t kMaxIdxBytes = size_t{1} << 31;  // the largest published one (EMNIST) has 547 MB

DType type_of(uint8_t code, const std::string& name) {
  switch (code) {
    case 0x08: return DType::kU8;
    case 0x09: return DType::kI8;
    case 0x0b: return DType::kI16;
    case 0x0c: return DType::kI32;
    case 0x0d: return DType::kF32;
    case 0x0e: return DType::kF64;
    default: fail(ErrorKind::kInput, "{}: is not an IDX file (unknown type 0x{:02x})", name, code);
  }
}

}  // namespace

Tensor parse_idx(std::span<const uint8_t> bytes, const std::string& name) {
  if (is_gzip(bytes)) {
    std::vector<uint8_t> plain = gunzip(bytes, kMaxIdxBytes, name);
    if (is_gzip(plain)) fail(ErrorKind::kInput, "{}: holds another gzip file, expected IDX", name);
    return parse_idx(plain, name);
  }
  if (bytes.size() < 4 || bytes[0] != 0 || bytes[1] != 0)
    fail(ErrorKind::kInput, "{}: is not an IDX file (it does not begin with two zero bytes)", name);
  const DType type = type_of(bytes[2], name);
  const size_t rank = bytes[3], start = 4 + 4 * rank;
  if (bytes.size() < start) fail(ErrorKind::kInput, "{}: the IDX header of {} axes is cut short", name, rank);
  Shape shape;
  const uint64_t present = bytes.size() - start;
  uint64_t wanted = size_of(type);
  for (size_t axis = 0; axis < rank; ++axis) {
    uint32_t size = 0;
    for (size_t i = 0; i < 4; ++i) size = size << 8 | bytes[4 + 4 * axis + i];
    shape.push_back(size);
  }
  // Without elements all sizes fit; otherwise more than the file holds stays more, so that the product cannot overflow.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) wanted = 0;
  for (int64_t size : shape)
    if (wanted <= present) wanted *= static_cast<uint64_t>(size);
  if (wanted != present)
    fail(ErrorKind::kInput, "{}: the IDX header of {} axes does not fit the {} bytes that follow it", name, rank, present);
  Tensor tensor(type, shape);
  if (present) std::memcpy(tensor.raw(), bytes.data() + start, present);
  if (size_t width = size_of(type); width > 1) {
    auto* at = static_cast<uint8_t*>(tensor.raw());
    for (int64_t i = 0; i < tensor.size(); ++i, at += width) std::reverse(at, at + width);
  }
  return tensor;
}

Tensor read_idx(const std::string& path) { return parse_idx(read_file(path, kMaxIdxBytes), path); }

CifarRows parse_cifar(std::span<const uint8_t> bytes, int64_t classes, const std::string& name) {
  constexpr size_t kPixels = 3 * 32 * 32;
  require(classes == 10 || classes == 100, "CIFAR has 10 or 100 classes, not {}", classes);
  const size_t labels = classes == 10 ? 1 : 2, row = labels + kPixels, rows = bytes.size() / row;
  if (rows == 0 || bytes.size() % row != 0)
    fail(ErrorKind::kInput, "{}: has {} bytes, expected rows of {} (CIFAR-{}, binary version)", name, bytes.size(), row, classes);
  CifarRows result{Tensor(DType::kU8, {static_cast<int64_t>(rows), 3, 32, 32}), {}};
  for (size_t i = 0; i < rows; ++i) {
    const uint8_t* at = bytes.data() + i * row;
    if (at[labels - 1] >= classes)
      fail(ErrorKind::kInput, "{}: row {} has label {}, expected 0 to {}", name, i, at[labels - 1], classes - 1);
    result.labels.push_back(at[labels - 1]);
    std::memcpy(result.pictures.data<uint8_t>() + i * kPixels, at + labels, kPixels);
  }
  return result;
}

CifarRows read_cifar(const std::string& path, int64_t classes) { return parse_cifar(read_file(path, kMaxIdxBytes), classes, path); }

}  // namespace lathe
