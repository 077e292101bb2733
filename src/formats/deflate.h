// zlib's streams in memory, without trust: as large as they claim and not a byte more.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lathe {

// Raw deflate, as in zip files, of `size` plain bytes. Throws kInput beginning with `name` when it is broken or of another size.
std::vector<uint8_t> inflate_raw(std::span<const uint8_t> packed, size_t size, const std::string& name);
std::vector<uint8_t> deflate_raw(const std::vector<uint8_t>& plain);

bool is_gzip(std::span<const uint8_t> bytes);
// One gzip member (RFC 1952) of less than 4 GiB. Throws kInput beginning with `name` when it is broken or claims more than `limit` bytes.
std::vector<uint8_t> gunzip(std::span<const uint8_t> packed, size_t limit, const std::string& name);

}  // namespace lathe
