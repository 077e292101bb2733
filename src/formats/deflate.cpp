#include "formats/deflate.h"

#include <zlib.h>

#include "core/error.h"

namespace lathe {
namespace {

// A deflate stream cannot expand more than 1032:1 (zlib's documentation).
constexpr uint64_t kMaxExpansion = 1032;
constexpr int kGzip = 16;  // added to the window's bits: a header and a checksum around the stream

std::vector<uint8_t> inflate_all(std::span<const uint8_t> packed, size_t size, int window, const std::string& name) {
  if (size > packed.size() * kMaxExpansion + 64)
    fail(ErrorKind::kInput, "{}: {} compressed bytes cannot hold the {} bytes claimed", name, packed.size(), size);
  std::vector<uint8_t> plain(size);
  z_stream stream{};
  if (inflateInit2(&stream, window) != Z_OK) fail(ErrorKind::kInternal, "zlib does not start");
  uint8_t spare = 0;  // zlib refuses a null pointer even for no bytes
  stream.next_in = const_cast<uint8_t*>(packed.empty() ? &spare : packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = size ? plain.data() : &spare;
  stream.avail_out = static_cast<uInt>(size);
  int result = inflate(&stream, Z_FINISH);
  bool good = result == Z_STREAM_END && stream.avail_out == 0 && stream.avail_in == 0;
  inflateEnd(&stream);
  if (!good) fail(ErrorKind::kInput, "{}: the compressed data is broken or cut short", name);
  return plain;
}

}  // namespace

std::vector<uint8_t> inflate_raw(std::span<const uint8_t> packed, size_t size, const std::string& name) {
  return inflate_all(packed, size, -MAX_WBITS, name);
}

std::vector<uint8_t> deflate_raw(const std::vector<uint8_t>& plain) {
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    fail(ErrorKind::kInternal, "zlib does not start");
  std::vector<uint8_t> packed(deflateBound(&stream, plain.size()));
  stream.next_in = const_cast<uint8_t*>(plain.data());
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = packed.data();
  stream.avail_out = static_cast<uInt>(packed.size());
  int result = deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  require(result == Z_STREAM_END, "deflate did not finish");
  return packed;
}

bool is_gzip(std::span<const uint8_t> bytes) { return bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b; }

std::vector<uint8_t> gunzip(std::span<const uint8_t> packed, size_t limit, const std::string& name) {
  constexpr size_t kLeast = 18;  // header and trailer
  if (!is_gzip(packed) || packed.size() < kLeast) fail(ErrorKind::kInput, "{}: is not a gzip file, or is cut short", name);
  size_t size = 0;  // the last four bytes, little-endian
  for (size_t i = 0; i < 4; ++i) size |= size_t{packed[packed.size() - 4 + i]} << (8 * i);
  if (size > limit) fail(ErrorKind::kInput, "{}: holds {} bytes, more than the limit of {}", name, size, limit);
  if (packed.size() > UINT32_MAX) fail(ErrorKind::kUnsupported, "{}: lathe reads gzip files of less than 4 GiB", name);
  return inflate_all(packed, size, MAX_WBITS + kGzip, name);
}

}  // namespace lathe
