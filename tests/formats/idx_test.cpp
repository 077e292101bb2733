#include "formats/idx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/deflate.h"

namespace lathe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Bytes = std::vector<uint8_t>;

Bytes idx(uint8_t type, const std::vector<uint32_t>& sizes, const Bytes& elements) {
  Bytes bytes{0, 0, type, static_cast<uint8_t>(sizes.size())};
  for (uint32_t size : sizes)
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(size >> shift));
  bytes.insert(bytes.end(), elements.begin(), elements.end());
  return bytes;
}

Bytes gzip(const Bytes& plain) {
  Bytes bytes{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}, packed = deflate_raw(plain);
  bytes.insert(bytes.end(), packed.begin(), packed.end());
  uint32_t crc = 0xffffffff;
  for (uint8_t b : plain) {
    crc ^= b;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  for (uint32_t value : {~crc, static_cast<uint32_t>(plain.size())})
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
  return bytes;
}

std::string fault_of(const Bytes& bytes) {
  try {
    parse_idx(bytes, "test.idx");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    EXPECT_THAT(e.what(), HasSubstr("test.idx"));
    return e.what();
  }
  return "";
}

TEST(Idx, ReadsTypesPlainAndPacked) {
  for (bool packed : {false, true}) {
    auto parse = [&](const Bytes& bytes) { return parse_idx(packed ? gzip(bytes) : bytes, "test.idx"); };
    Tensor pictures = parse(idx(0x08, {2, 1, 3}, {1, 2, 3, 4, 5, 255}));
    EXPECT_EQ(pictures.shape(), (Shape{2, 1, 3}));
    EXPECT_EQ(pictures.dtype(), DType::kU8);
    EXPECT_EQ(pictures.get_int(5), 255);
    EXPECT_THAT(parse(idx(0x0b, {2}, {0x01, 0x02, 0xff, 0xfe})).to_i64(), ElementsAre(258, -2));
    EXPECT_THAT(parse(idx(0x0c, {1}, {0, 1, 0, 0})).to_i64(), ElementsAre(65536));
    EXPECT_THAT(parse(idx(0x0d, {1}, {0x3f, 0x80, 0, 0})).to_f32(), ElementsAre(1.0f));
    EXPECT_EQ(parse(idx(0x0e, {1}, {0x40, 0, 0, 0, 0, 0, 0, 0})).get(0), 2.0);
    EXPECT_EQ(parse(idx(0x08, {0, 28, 28}, {})).size(), 0);
    EXPECT_EQ(parse(idx(0x08, {}, {7})).get_int(0), 7);
  }
}

TEST(Idx, RefusesWhatIsBroken) {
  const Bytes good = idx(0x08, {2, 3}, {1, 2, 3, 4, 5, 6});
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(fault_of(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))), "") << size;
  Bytes more = good;
  more.push_back(0);
  EXPECT_THAT(fault_of(more), HasSubstr("does not fit"));
  EXPECT_THAT(fault_of(idx(0x07, {1}, {1})), HasSubstr("unknown type"));
  // A product that would overflow 64 bits, to 0.
  EXPECT_THAT(fault_of(idx(0x08, {0x80000000, 0x80000000, 4, 1}, {})), HasSubstr("does not fit"));
  EXPECT_THAT(fault_of(idx(0x0e, {0xffffffff, 0xffffffff, 0xffffffff}, {})), HasSubstr("does not fit"));
  Bytes packed = gzip(good);
  for (size_t size = 2; size < packed.size(); ++size)
    EXPECT_NE(fault_of(Bytes(packed.begin(), packed.begin() + static_cast<std::ptrdiff_t>(size))), "") << size;
  Bytes damaged = packed;
  damaged[damaged.size() - 6] ^= 1;  // the checksum
  EXPECT_THAT(fault_of(damaged), HasSubstr("broken or cut short"));
  EXPECT_THAT(fault_of(gzip(packed)), HasSubstr("another gzip file"));
}

TEST(Idx, GzipClaimsAreBounded) {
  Bytes packed = gzip(Bytes(100, 7));
  EXPECT_EQ(gunzip(packed, 100, "x"), Bytes(100, 7));
  EXPECT_THROW(gunzip(packed, 99, "x"), Error);
  packed[packed.size() - 1] = 0x70;  // 1.8 GB out of 30 bytes
  EXPECT_THROW(gunzip(packed, size_t{1} << 31, "x"), Error);
}

TEST(Cifar, ReadsRows) {
  for (int64_t classes : {10, 100}) {
    Bytes bytes;
    for (uint8_t row = 0; row < 3; ++row) {
      if (classes == 100) bytes.push_back(row);
      bytes.push_back(static_cast<uint8_t>(classes - 1 - row));
      for (int i = 0; i < 3072; ++i) bytes.push_back(static_cast<uint8_t>(row + i));
    }
    CifarRows rows = parse_cifar(bytes, classes, "x");
    EXPECT_EQ(rows.pictures.shape(), (Shape{3, 3, 32, 32}));
    EXPECT_THAT(rows.labels, ElementsAre(classes - 1, classes - 2, classes - 3));
    EXPECT_EQ(rows.pictures.get_int(2 * 3072 + 5), 7);
    bytes.pop_back();
    EXPECT_THROW(parse_cifar(bytes, classes, "x"), Error);
    EXPECT_THROW(parse_cifar({}, classes, "x"), Error);
  }
  Bytes bytes(3073);
  bytes[0] = 10;
  EXPECT_THROW(parse_cifar(bytes, 10, "x"), Error);
}

}  // namespace
}  // namespace lathe
