#include "formats/npy.h"

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "core/file.h"
#include "formats/deflate.h"

namespace lathe {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeader = 1 << 16;  // a header of 32 sizes is under 1 KiB
constexpr size_t kMaxRank = 64;

uint64_t little_endian(const uint8_t* bytes, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

// Reads the Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  void parse() {
    expect('{');
    while (!accept('}')) {
      std::string key = quoted();
      expect(':');
      if (key == "descr" && !descr) {
        descr = quoted();
      } else if (key == "fortran_order" && !fortran) {
        fortran = boolean();
      } else if (key == "shape" && !shape) {
        shape = sizes();
      } else {
        broken("unexpected or repeated key '" + key + "'");
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) broken("text after the dictionary");
    if (!descr || !fortran || !shape) broken("'descr', 'fortran_order' or 'shape' is missing");
  }

  std::optional<std::string> descr;
  std::optional<bool> fortran;
  std::optional<Shape> shape;

 private:
  [[noreturn]] void broken(const std::string& what) {
    fail(ErrorKind::kInput, "{}: broken .npy header at character {}: {}", name_, at_, what);
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos)
      ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) broken(std::string("expected '") + c + "'");
  }
  std::string quoted() {
    skip_space();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"'))
      broken("expected a string (structured types are not supported)");
    size_t end = text_.find(text_[at_], at_ + 1);
    if (end == std::string_view::npos) broken("string without end");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (std::string_view word : {"True", "False"}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return word == "True";
      }
    }
    broken("expected True or False");
  }
  Shape sizes() {
    Shape result;
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t size = 0;
      auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0) broken("expected a size of 0 or more");
      at_ = end - text_.data();
      accept('L');  // files of Python 2
      result.push_back(size);
      if (result.size() > kMaxRank) broken("more than 64 dimensions");
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return result;
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
};

struct Header {
  DType type;
  bool swap;  // big-endian
  bool fortran;
  Shape shape;
  size_t end;  // where the elements begin
};

DType type_of(const std::string& descr, const std::string& name) {
  static const std::map<std::string, DType> kTypes = {
      {"f2", DType::kF16}, {"f4", DType::kF32}, {"f8", DType::kF64}, {"i1", DType::kI8},
      {"i2", DType::kI16}, {"i4", DType::kI32}, {"i8", DType::kI64}, {"u1", DType::kU8},
      {"u2", DType::kU16}, {"u4", DType::kU32}, {"u8", DType::kU64}, {"b1", DType::kBool}};
  bool has_order = !descr.empty() && std::string_view("<>|=").find(descr[0]) != std::string_view::npos;
  auto found = kTypes.find(has_order ? descr.substr(1) : descr);
  if (found == kTypes.end())
    fail(ErrorKind::kUnsupported, "{}: NumPy type '{}' is not supported; convert it to float32 first",
         name, descr);
  return found->second;
}

Header parse_header(std::span<const uint8_t> bytes, const std::string& name) {
  if (bytes.size() < 10 || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    fail(ErrorKind::kInput, "{}: is not a .npy file (it does not begin with \\x93NUMPY)", name);
  int version = bytes[6];
  if (version < 1 || version > 3)
    fail(ErrorKind::kUnsupported, "{}: .npy version {} is not known; versions 1 to 3 are", name, version);
  size_t width = version == 1 ? 2 : 4;
  if (bytes.size() < 8 + width) fail(ErrorKind::kInput, "{}: the .npy header is cut short", name);
  size_t length = little_endian(bytes.data() + 8, width);
  if (length > kMaxHeader || length > bytes.size() - 8 - width)
    fail(ErrorKind::kInput, "{}: the .npy header claims {} bytes, but {} follow (at most {} are allowed)",
         name, length, bytes.size() - 8 - width, kMaxHeader);
  HeaderParser parser({reinterpret_cast<const char*>(bytes.data()) + 8 + width, length}, name);
  parser.parse();
  return {type_of(*parser.descr, name), (*parser.descr)[0] == '>', *parser.fortran,
          std::move(*parser.shape), 8 + width + length};
}

// Product of sizes times the element's width, or nothing when over the limit.
std::optional<int64_t> bytes_of(const Shape& shape, DType type) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t bytes = size_of(type);
  for (int64_t size : shape) {
    if (size > kMaxTensorBytes / bytes) return std::nullopt;
    bytes *= size;
  }
  return bytes;
}

DType file_type(DType type) {
  switch (type) {
    case DType::kI4:
    case DType::kI2: return DType::kI8;
    case DType::kU4:
    case DType::kU2: return DType::kU8;
    case DType::kBF16: return DType::kF32;
    default: return is_float(type) && size_of(type) == 1 ? DType::kF32 : type;
  }
}

std::string descr_of(DType type) {
  char kind = type == DType::kBool ? 'b' : is_float(type) ? 'f' : is_signed(type) ? 'i' : 'u';
  return fmt::format("{}{}{}", size_of(type) == 1 ? '|' : '<', kind, size_of(type));
}

// --- zip -------------------------------------------------------------------------------------------

constexpr uint32_t kLocalSignature = 0x04034b50, kCentralSignature = 0x02014b50,
                   kEndSignature = 0x06054b50;
constexpr size_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22;
constexpr size_t kMaxMembers = 65535;

struct Member {
  std::string name;
  uint16_t flags, method;
  uint32_t crc, packed, size, offset;
};

std::vector<Member> zip_members(std::span<const uint8_t> zip, const std::string& path) {
  auto u16 = [&](size_t at) { return static_cast<uint16_t>(little_endian(&zip[at], 2)); };
  auto u32 = [&](size_t at) { return static_cast<uint32_t>(little_endian(&zip[at], 4)); };
  if (zip.size() < kEndSize) fail(ErrorKind::kInput, "{}: is too short for a zip file", path);
  // The end record stands last but for a comment of at most 65535 bytes.
  size_t first = zip.size() - std::min<size_t>(zip.size(), kEndSize + 65535), end = zip.size() - kEndSize;
  auto ends_here = [&](size_t at) {
    return u32(at) == kEndSignature && u16(at + 20) == zip.size() - at - kEndSize;
  };
  while (end > first && !ends_here(end)) --end;
  if (!ends_here(end))
    fail(ErrorKind::kInput, "{}: is not a zip file, or is cut short (no end record)", path);
  size_t count = u16(end + 10), size = u32(end + 12), at = u32(end + 16);
  if (count == 0xffff || size == 0xffffffff || at == 0xffffffff)
    fail(ErrorKind::kUnsupported, "{}: is a zip64 file; lathe reads .npz files of less than 4 GiB", path);
  if (u16(end + 4) != 0 || u16(end + 6) != 0 || u16(end + 8) != count)
    fail(ErrorKind::kUnsupported, "{}: is one part of a zip file over several disks", path);
  if (at > end || size > end - at)
    fail(ErrorKind::kInput, "{}: the zip directory lies outside the file", path);
  size_t stop = at + size;
  std::vector<Member> members;
  for (size_t i = 0; i < count; ++i) {
    if (stop - at < kCentralSize || u32(at) != kCentralSignature)
      fail(ErrorKind::kInput, "{}: entry {} of the zip directory is broken", path, i);
    size_t name_size = u16(at + 28), length = kCentralSize + name_size + u16(at + 30) + u16(at + 32);
    if (length > stop - at)
      fail(ErrorKind::kInput, "{}: entry {} of the zip directory is cut short", path, i);
    members.push_back({std::string(reinterpret_cast<const char*>(&zip[at]) + kCentralSize, name_size),
                       u16(at + 8), u16(at + 10), u32(at + 16), u32(at + 20), u32(at + 24),
                       u32(at + 42)});
    at += length;
  }
  return members;
}

std::vector<uint8_t> read_member(std::span<const uint8_t> zip, const Member& m, const std::string& name) {
  if (m.flags & 1) fail(ErrorKind::kUnsupported, "{}: is encrypted", name);
  if (m.size == 0xffffffff || m.packed == 0xffffffff || m.offset == 0xffffffff)
    fail(ErrorKind::kUnsupported, "{}: needs zip64; lathe reads .npz files of less than 4 GiB", name);
  if (zip.size() < kLocalSize || m.offset > zip.size() - kLocalSize ||
      little_endian(&zip[m.offset], 4) != kLocalSignature)
    fail(ErrorKind::kInput, "{}: its local zip header is broken or outside the file", name);
  size_t start = m.offset + kLocalSize + little_endian(&zip[m.offset + 26], 2) +
                 little_endian(&zip[m.offset + 28], 2);
  if (start > zip.size() || m.packed > zip.size() - start)
    fail(ErrorKind::kInput, "{}: its {} bytes lie outside the file", name, m.packed);
  auto packed = zip.subspan(start, m.packed);
  std::vector<uint8_t> plain;
  if (m.method == 0) {
    if (m.size != m.packed)
      fail(ErrorKind::kInput, "{}: is stored, but its two sizes differ ({} and {})", name, m.packed, m.size);
    plain.assign(packed.begin(), packed.end());
  } else if (m.method == 8) {
    plain = inflate_raw(packed, m.size, name);
  } else {
    fail(ErrorKind::kUnsupported, "{}: zip method {} is not supported; stored and deflated are", name,
         m.method);
  }
  if (crc32_z(0, plain.data(), plain.size()) != m.crc && !(plain.empty() && m.crc == 0))
    fail(ErrorKind::kInput, "{}: its checksum does not match; the file is damaged", name);
  return plain;
}

void append(std::vector<uint8_t>& bytes, uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace

Tensor parse_npy(std::span<const uint8_t> bytes, const std::string& name) {
  Header header = parse_header(bytes, name);
  auto claimed = bytes_of(header.shape, header.type);
  size_t present = bytes.size() - header.end;
  if (!claimed)
    fail(ErrorKind::kInput, "{}: shape {} of type {} is over the limit of {} GiB", name,
         to_string(header.shape), name_of(header.type), kMaxTensorBytes >> 30);
  if (static_cast<uint64_t>(*claimed) != present)
    fail(ErrorKind::kInput, "{}: shape {} of type {} takes {} bytes, but the file holds {}", name,
         to_string(header.shape), name_of(header.type), *claimed, present);
  // Without elements, sizes whose product overflows remain possible: the Tensor refuses them.
  Shape shape = header.shape;
  if (header.fortran) std::reverse(shape.begin(), shape.end());
  Tensor tensor(header.type, shape);
  if (present) std::memcpy(tensor.raw(), bytes.data() + header.end, present);
  size_t width = size_of(header.type);
  if (header.swap && width > 1) {
    auto* at = static_cast<uint8_t*>(tensor.raw());
    for (int64_t i = 0; i < tensor.size(); ++i, at += width) std::reverse(at, at + width);
  }
  if (header.type == DType::kBool) {
    for (int64_t i = 0; i < tensor.size(); ++i)
      tensor.data<uint8_t>()[i] = tensor.data<uint8_t>()[i] != 0;
  }
  if (!header.fortran || shape.size() < 2) return tensor;
  std::vector<int64_t> reversed(shape.size());
  for (size_t i = 0; i < reversed.size(); ++i) reversed[i] = reversed.size() - 1 - i;
  return transpose(tensor, reversed);
}

Tensor read_npy(const std::string& path) { return parse_npy(MappedFile::open(path)->bytes(), path); }

std::vector<uint8_t> format_npy(const Tensor& tensor) {
  DType type = file_type(tensor.dtype());
  if (size_of(type) == 0)
    fail(ErrorKind::kUnsupported, "a tensor of type {} cannot be written as .npy", name_of(type));
  bool same_bytes = type == tensor.dtype() || size_of(tensor.dtype()) == size_of(type);
  Tensor written = same_bytes ? tensor : cast(tensor, type);
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': (", descr_of(type));
  for (int64_t size : tensor.shape()) header += fmt::format("{}, ", size);
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');  // elements begin at a multiple of 64
  header += '\n';
  std::vector<uint8_t> bytes(kMagic.begin(), kMagic.end());
  append(bytes, 0x0001, 2);  // version 1.0
  append(bytes, header.size(), 2);
  bytes.insert(bytes.end(), header.begin(), header.end());
  auto* raw = static_cast<const uint8_t*>(written.raw());
  bytes.insert(bytes.end(), raw, raw + written.bytes());
  return bytes;
}

void write_npy(const std::string& path, const Tensor& tensor) {
  std::vector<uint8_t> bytes = format_npy(tensor);
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

std::map<std::string, Tensor> read_npz(const std::string& path) {
  auto map = MappedFile::open(path);
  std::map<std::string, Tensor> tensors;
  uint64_t total = 0;
  for (const Member& member : zip_members(map->bytes(), path)) {
    if (!member.name.ends_with(".npy")) continue;
    std::string name = fmt::format("{}({})", path, member.name);
    // Many small bombs that share one compressed stream are one large bomb.
    total += member.size;
    if (total > static_cast<uint64_t>(kMaxTensorBytes))
      fail(ErrorKind::kInput, "{}: its arrays are larger together than {} GiB", path, kMaxTensorBytes >> 30);
    std::string key = member.name.substr(0, member.name.size() - 4);
    if (!tensors.emplace(key, parse_npy(read_member(map->bytes(), member, name), name)).second)
      fail(ErrorKind::kInput, "{}: holds two arrays of the name '{}'", path, key);
  }
  return tensors;
}

void write_npz(const std::string& path, const std::map<std::string, Tensor>& tensors, bool compress) {
  if (tensors.size() >= kMaxMembers)
    fail(ErrorKind::kUnsupported, "{}: {} arrays are too many for a .npz file", path, tensors.size());
  AtomicFile file(path);
  std::vector<uint8_t> directory;
  uint64_t offset = 0;
  for (const auto& [key, tensor] : tensors) {
    std::string name = key + ".npy";
    if (name.size() > 0xffff)
      fail(ErrorKind::kUnsupported, "{}: an array's name is longer than 65535 bytes", path);
    std::vector<uint8_t> plain = format_npy(tensor);
    if (plain.size() >= 0xffffff00)
      fail(ErrorKind::kUnsupported, "{}: array '{}' is larger than 4 GiB; write .npy files", path, key);
    uint64_t crc = crc32_z(0, plain.data(), plain.size());
    std::vector<uint8_t> packed = compress ? deflate_raw(plain) : std::vector<uint8_t>();
    const std::vector<uint8_t>& body = compress ? packed : plain;
    std::vector<uint8_t> common;
    append(common, 20, 2);                // version needed
    append(common, 0x0800, 2);            // names are UTF-8
    append(common, compress ? 8 : 0, 2);  // method
    append(common, 0x00210000, 4);        // 1980-01-01: the same arrays make the same file
    append(common, crc, 4);
    append(common, body.size(), 4);
    append(common, plain.size(), 4);
    append(common, name.size(), 2);
    append(common, 0, 2);  // extra field
    std::vector<uint8_t> local;
    append(local, kLocalSignature, 4);
    local.insert(local.end(), common.begin(), common.end());
    local.insert(local.end(), name.begin(), name.end());
    append(directory, kCentralSignature, 4);
    append(directory, 20, 2);  // version made by
    directory.insert(directory.end(), common.begin(), common.end());
    append(directory, 0, 2);  // comment
    append(directory, 0, 2);  // disk
    append(directory, 0, 2);  // internal attributes
    append(directory, 0, 4);  // external attributes
    append(directory, offset, 4);
    directory.insert(directory.end(), name.begin(), name.end());
    file.write(local.data(), local.size());
    file.write(body.data(), body.size());
    offset += local.size() + body.size();
    if (offset >= 0xffffffff)
      fail(ErrorKind::kUnsupported, "{}: more than 4 GiB of arrays; write .npy files", path);
  }
  size_t directory_size = directory.size();
  append(directory, kEndSignature, 4);
  append(directory, 0, 4);  // disks
  append(directory, tensors.size(), 2);
  append(directory, tensors.size(), 2);
  append(directory, directory_size, 4);
  append(directory, offset, 4);
  append(directory, 0, 2);  // comment
  file.write(directory.data(), directory.size());
  file.commit();
}

}  // namespace lathe
