#include "formats/raw.h"

#include <algorithm>

#include "core/file.h"

namespace lathe {

Tensor read_raw(const std::string& path, DType type, const Shape& shape) {
  if (size_of(type) == 0) fail(ErrorKind::kUnsupported, "{}: elements of type {} cannot be read", path, name_of(type));
  auto map = MappedFile::open(path);
  auto bytes = static_cast<int64_t>(map->size()), width = static_cast<int64_t>(size_of(type));
  Shape full = shape;
  auto open = std::find_if(full.begin(), full.end(), [](int64_t size) { return size < 0; });
  if (open != full.end()) {
    if (std::any_of(open + 1, full.end(), [](int64_t size) { return size < 0; }))
      fail(ErrorKind::kUsage, "{}: more than one size of {} is open: give the shape (--shape)", path, to_string(shape));
    *open = 1;
    int64_t each = element_count(full);
    if (each == 0 || bytes % width != 0 || bytes / width % each != 0)
      fail(ErrorKind::kInput, "{}: {} bytes are no whole number of {} elements in the shape {}", path, bytes, name_of(type), to_string(shape));
    *open = bytes / width / each;
  }
  int64_t count = element_count(full);
  if (count > kMaxTensorBytes / width || count * width != bytes)
    fail(ErrorKind::kInput, "{}: holds {} bytes, {} {} takes {} elements of {}", path, bytes, name_of(type), to_string(full), count, width);
  return {type, full, const_cast<uint8_t*>(map->data()), map};
}

}  // namespace lathe
