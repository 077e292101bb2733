#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/file.h"
#include "formats/onnx.h"
#include "formats/onnx_proto.h"

namespace lathe::onnx_io {
namespace {

namespace fs = std::filesystem;

// Elements of 2 or 4 bits lie dense in files, low bits first; in memory each takes a byte.
Tensor unpack(DType type, const Shape& shape, const uint8_t* bytes, size_t available) {
  int bits = bits_of(type), per_byte = 8 / bits, mask = (1 << bits) - 1;
  int64_t count = element_count(shape);
  check_model(available >= static_cast<size_t>(count / per_byte + (count % per_byte != 0)),
              "a tensor of type {} and shape {} has only {} bytes of data", name_of(type), to_string(shape), available);
  Tensor tensor(type, shape);
  for (int64_t i = 0; i < tensor.size(); ++i) {
    int code = (bytes[i / per_byte] >> (i % per_byte * bits)) & mask;
    if (is_float(type)) {
      tensor.data<uint8_t>()[i] = static_cast<uint8_t>(code);
    } else {
      tensor.set_int(i, code);
    }
  }
  return tensor;
}

std::shared_ptr<const void> map_file(const fs::path& path, size_t* size) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorKind::kInput, "cannot open external data '{}'", path.string());
  struct stat status{};
  bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
  *size = regular ? static_cast<size_t>(status.st_size) : 0;
  void* memory = regular ? ::mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  ::close(fd);
  if (memory == MAP_FAILED) fail(ErrorKind::kInput, "cannot map external data '{}'", path.string());
  return {memory, [length = *size](const void* p) { ::munmap(const_cast<void*>(p), length); }};
}

Tensor external(onnx::TensorProto& proto, DType type, const Shape& shape, const fs::path& folder) {
  std::string location;
  uint64_t offset = 0, length = 0;
  bool has_length = false;
  for (const auto& entry : proto.external_data()) {
    auto number = [&]() -> uint64_t {
      const std::string& text = entry.value();
      bool digits = !text.empty() && text.size() < 19 && std::all_of(text.begin(), text.end(), ::isdigit);
      check_model(digits, "tensor '{}': external data has {} '{}'", proto.name(), entry.key(), text);
      return std::stoull(text);
    };
    if (entry.key() == "location") location = entry.value();
    if (entry.key() == "offset") offset = number();
    if (entry.key() == "length") { length = number(); has_length = true; }
  }
  fs::path relative(location);
  bool escapes = location.empty() || relative.is_absolute() || folder.empty() ||
                 std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (!escapes) {  // a symbolic link may lead outside too
    auto root = fs::weakly_canonical(folder), target = fs::weakly_canonical(folder / relative);
    auto [r, t] = std::mismatch(root.begin(), root.end(), target.begin(), target.end());
    escapes = r != root.end();
  }
  if (escapes)
    fail(ErrorKind::kInput, "tensor '{}': external data at '{}' lies outside the model's folder, which is refused",
         proto.name(), location);
  size_t size = 0;
  auto owner = map_file(folder / relative, &size);
  uint64_t needed = (static_cast<uint64_t>(element_count(shape)) * bits_of(type) + 7) / 8;
  if (!has_length) length = needed;
  check_model(offset <= size && length <= size - offset && length >= needed,
              "tensor '{}': external data '{}' has {} bytes, needed are {} from {}", proto.name(), location,
              size, needed, offset);
  auto* bytes = static_cast<const uint8_t*>(owner.get()) + offset;
  if (bits_of(type) < 8) return unpack(type, shape, bytes, length);
  return Tensor(type, shape, const_cast<uint8_t*>(bytes), owner);
}

template <class Field, class Set>
void fill(const Field& field, Tensor& tensor, const std::string& name, Set set) {
  check_model(field.size() == tensor.size(), "tensor '{}' of shape {} holds {} values", name,
              to_string(tensor.shape()), field.size());
  for (int64_t i = 0; i < tensor.size(); ++i) set(i, field.Get(static_cast<int>(i)));
}

// Values in the typed fields. 16-bit floats and narrow types lie as bit patterns in int32_data.
Tensor from_fields(const onnx::TensorProto& proto, DType type, const Shape& shape) {
  if (bits_of(type) < 8) {
    std::string bytes;
    for (int32_t value : proto.int32_data()) bytes.push_back(static_cast<char>(value));
    return unpack(type, shape, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
  int64_t held = std::max({proto.float_data_size(), proto.int32_data_size(), proto.int64_data_size(),
                           proto.double_data_size(), proto.uint64_data_size()});
  check_model(held == element_count(shape), "tensor '{}' of shape {} holds {} values", proto.name(),
              to_string(shape), held);
  Tensor t(type, shape);
  switch (type) {
    case DType::kF32: fill(proto.float_data(), t, proto.name(), [&](int64_t i, float v) { t.data<float>()[i] = v; }); break;
    case DType::kF64: fill(proto.double_data(), t, proto.name(), [&](int64_t i, double v) { t.data<double>()[i] = v; }); break;
    case DType::kI64: fill(proto.int64_data(), t, proto.name(), [&](int64_t i, int64_t v) { t.data<int64_t>()[i] = v; }); break;
    case DType::kU64:
    case DType::kU32: fill(proto.uint64_data(), t, proto.name(), [&](int64_t i, uint64_t v) { t.set_int(i, static_cast<int64_t>(v)); }); break;
    default:
      fill(proto.int32_data(), t, proto.name(), [&](int64_t i, int32_t v) {
        if (is_float(type) && size_of(type) == 2) t.data<uint16_t>()[i] = static_cast<uint16_t>(v);
        else if (is_float(type)) t.data<uint8_t>()[i] = static_cast<uint8_t>(v);
        else t.set_int(i, v);
      });
  }
  return t;
}

}  // namespace

namespace {

std::pair<DType, Shape> type_and_shape(const onnx::TensorProto& proto) {
  auto type = static_cast<DType>(proto.data_type());
  if (proto.data_type() < 0 || proto.data_type() > 26 || size_of(type) == 0)
    fail(ErrorKind::kUnsupported, "tensor '{}' has element type {}, which is not supported", proto.name(),
         proto.data_type() >= 0 && proto.data_type() <= 26 ? name_of(type) : std::to_string(proto.data_type()));
  Shape shape(proto.dims().begin(), proto.dims().end());
  check_model(element_count(shape) <= kMaxTensorBytes, "tensor '{}' of shape {} is too large", proto.name(), to_string(shape));
  return {type, shape};
}

void check_raw_size(const onnx::TensorProto& proto, DType type, const Shape& shape, size_t size) {
  size_t expected = static_cast<size_t>(element_count(shape)) * size_of(type);
  check_model(size == expected, "tensor '{}' of type {} and shape {} has {} bytes of data, expected {}", proto.name(),
              name_of(type), to_string(shape), size, expected);
}

}  // namespace

Tensor to_tensor(onnx::TensorProto& proto, const fs::path& folder) {
  auto [type, shape] = type_and_shape(proto);
  if (proto.data_location() == onnx::TensorProto::EXTERNAL) return external(proto, type, shape, folder);
  if (!proto.has_raw_data()) return from_fields(proto, type, shape);
  auto bytes = std::shared_ptr<std::string>(proto.release_raw_data());
  auto* data = reinterpret_cast<uint8_t*>(bytes->data());
  if (bits_of(type) < 8) return unpack(type, shape, data, bytes->size());
  check_raw_size(proto, type, shape, bytes->size());
  if (bytes->size() < 64) return Tensor(type, shape, data, bytes).clone();  // short strings are unaligned
  return Tensor(type, shape, data, bytes);
}

Tensor to_tensor(const onnx::TensorProto& proto, std::span<const uint8_t> raw, const std::shared_ptr<const MappedFile>& map) {
  auto [type, shape] = type_and_shape(proto);
  if (bits_of(type) < 8) return unpack(type, shape, raw.data(), raw.size());
  check_raw_size(proto, type, shape, raw.size());
  // The map is read-only; so are constants. Its pages are let go with the last view of them.
  auto* data = const_cast<uint8_t*>(raw.data());
  return Tensor(type, shape, data, std::shared_ptr<const void>(data, [map, size = raw.size()](const void* p) { map->forget(p, size); }));
}

void from_tensor(const Tensor& tensor, onnx::TensorProto* proto) {
  proto->set_data_type(static_cast<int>(tensor.dtype()));
  for (int64_t size : tensor.shape()) proto->add_dims(size);
  int bits = bits_of(tensor.dtype());
  if (bits >= 8) {
    proto->set_raw_data(tensor.raw(), tensor.bytes());
    return;
  }
  int per_byte = 8 / bits, mask = (1 << bits) - 1;
  std::string packed((tensor.size() + per_byte - 1) / per_byte, '\0');
  for (int64_t i = 0; i < tensor.size(); ++i)
    packed[i / per_byte] |= static_cast<char>((tensor.data<uint8_t>()[i] & mask) << (i % per_byte * bits));
  proto->set_raw_data(packed);
}

}  // namespace lathe::onnx_io

namespace lathe {

Tensor read_tensor_proto(const std::filesystem::path& path, std::string* name) {
  std::ifstream file(path, std::ios::binary);
  onnx::TensorProto proto;
  if (!file || !proto.ParseFromIstream(&file))
    fail(ErrorKind::kInput, "'{}' is not a readable ONNX tensor", path.string());
  if (name) *name = proto.name();
  return onnx_io::to_tensor(proto, path.parent_path());
}

void write_tensor_proto(const Tensor& tensor, const std::string& name, const std::filesystem::path& path) {
  onnx::TensorProto proto;
  proto.set_name(name);
  onnx_io::from_tensor(tensor, &proto);
  write_file(path, proto.SerializeAsString());
}

}  // namespace lathe
