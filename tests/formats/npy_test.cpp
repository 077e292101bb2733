#include "formats/npy.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>

#include "core/file.h"

namespace lathe {
namespace {

std::string scratch(const std::string& name) {
  std::string folder = testing::TempDir() + "lathe_npy_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

std::string npy(const std::string& header, const std::string& body, char version = 1) {
  std::string text = "\x93NUMPY";
  text += version;
  text += '\0';
  size_t size = header.size();
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) text += static_cast<char>(size >> (8 * i));
  return text + header + body;
}

Tensor parse(const std::string& bytes) {
  return parse_npy({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "test.npy");
}

std::string le(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return bytes;
}

TEST(Npy, RoundTripsEveryType) {
  for (DType type : {DType::kF32, DType::kF64, DType::kF16, DType::kI8, DType::kI16, DType::kI32, DType::kI64,
                     DType::kU8, DType::kU16, DType::kU32, DType::kU64, DType::kBool, DType::kBF16,
                     DType::kF8E4M3FN, DType::kI4, DType::kU2}) {
    Tensor t(type, {2, 1, 3});
    for (int i = 0; i < 6; ++i) t.set_int(i, i & 1);
    std::string path = scratch("a.npy");
    write_npy(path, t);
    Tensor back = read_npy(path);
    ASSERT_EQ(back.shape(), t.shape());
    for (int i = 0; i < 6; ++i) EXPECT_EQ(back.get(i), t.get(i)) << name_of(type);
  }
}

TEST(Npy, RoundTripsScalarsAndEmptyArrays) {
  for (Shape shape : {Shape{}, Shape{0}, Shape{3, 0, 2}, Shape{1}}) {
    Tensor t(DType::kF32, shape);
    for (int64_t i = 0; i < t.size(); ++i) t.set(i, 2.5);
    write_npy(scratch("b.npy"), t);
    EXPECT_EQ(read_npy(scratch("b.npy")).shape(), shape);
  }
}

TEST(Npy, ReadsFortranOrderAndBigEndian) {
  std::string body;
  for (int value : {1, 4, 2, 5, 3, 6}) body += std::string("\0", 1) + static_cast<char>(value);
  Tensor t = parse(npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n", body));
  EXPECT_EQ(t.shape(), (Shape{2, 3}));
  EXPECT_EQ(t.to_i64(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, ReadsVersions2And3) {
  for (char version : {2, 3})
    EXPECT_EQ(parse(npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", "ab", version)).size(), 2);
}

TEST(Npy, RefusesBrokenFiles) {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  std::vector<std::string> bad = {
      "",
      "\x93NUMP",
      "PK\3\4 and some more text",
      npy(good, ""),
      npy(good, "1234567"),
      npy(good, "123456789"),
      npy(good, "12345678", 4),
      npy(good, "12345678").substr(0, 20),
      npy("", ""),
      npy("{", ""),
      npy("{}", ""),
      npy("[1, 2]", ""),
      npy("{'descr': '<f4', 'fortran_order': False}", ""),
      npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,", "12345678"),
      npy("{'descr': '<f4, 'fortran_order': False, 'shape': (2,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", "12345678"),
      npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "12345678"),
      npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "12345678"),
      npy("{'descr': '', 'fortran_order': False, 'shape': (1,)}", "12345678"),
      npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "12345678"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 8)}", "1"),
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}", "12345678"),
      npy("{'descr': '<f4', 'other': 1, 'shape': (2,)}", "12345678"),
  };
  for (const std::string& bytes : bad) EXPECT_THROW(parse(bytes), Error) << bytes;
  EXPECT_THROW(read_npy(scratch("none.npy")), Error);
  EXPECT_THROW(read_npy("/"), Error);
}

class Npz : public testing::TestWithParam<bool> {};

TEST_P(Npz, RoundTrips) {
  Tensor a = Tensor::of_f32({2, 2}, {1, 2, 3, 4}), b = Tensor::of_i64({5, 6, 7});
  std::string path = scratch("c.npz");
  write_npz(path, {{"a", a}, {"b", b}}, GetParam());
  auto back = read_npz(path);
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back["a"].to_f32(), a.to_f32());
  EXPECT_EQ(back["b"].to_i64(), b.to_i64());
}

TEST_P(Npz, RefusesEveryTruncation) {
  write_npz(scratch("d.npz"), {{"x", Tensor::of_f32({3}, {1, 2, 3})}}, GetParam());
  std::vector<uint8_t> bytes = read_file(scratch("d.npz"), 1 << 20);
  for (size_t size = 0; size < bytes.size(); ++size) {
    write_file(scratch("e.npz"), {reinterpret_cast<char*>(bytes.data()), size});
    EXPECT_THROW(read_npz(scratch("e.npz")), Error) << size;
  }
}

TEST_P(Npz, NeverCrashesOnAChangedByte) {
  write_npz(scratch("f.npz"), {{"x", Tensor::of_f32({3}, {1, 2, 3})}}, GetParam());
  std::vector<uint8_t> bytes = read_file(scratch("f.npz"), 1 << 20);
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (uint8_t change : {0x01, 0x80, 0xff}) {
      std::vector<uint8_t> changed = bytes;
      changed[at] ^= change;
      write_file(scratch("g.npz"), {reinterpret_cast<char*>(changed.data()), changed.size()});
      try {
        read_npz(scratch("g.npz"));  // fields that say nothing of the content may change freely
      } catch (const Error&) {
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Methods, Npz, testing::Bool());

// A zip of one member with the fields given.
std::string zip(uint16_t method, uint32_t packed, uint32_t size, uint32_t crc, const std::string& body,
                uint32_t offset = 0, uint16_t flags = 0, uint16_t count = 1) {
  std::string name = "x.npy";
  std::string common = le(20, 2) + le(flags, 2) + le(method, 2) + le(0, 4) + le(crc, 4) + le(packed, 4) +
                       le(size, 4) + le(name.size(), 2) + le(0, 2);
  std::string local = le(0x04034b50, 4) + common + name + body;
  std::string central = le(0x02014b50, 4) + le(20, 2) + common + le(0, 10) + le(offset, 4) + name;
  return local + central + le(0x06054b50, 4) + le(0, 4) + le(count, 2) + le(count, 2) +
         le(central.size(), 4) + le(local.size(), 4) + le(0, 2);
}

TEST(NpzBad, RefusesBombsAndZip64) {
  std::string array = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", "ab");
  uint32_t crc = crc32(0, reinterpret_cast<const Bytef*>(array.data()), array.size());
  uint32_t size = array.size();
  write_file(scratch("h.npz"), zip(0, size, size, crc, array));
  EXPECT_EQ(read_npz(scratch("h.npz")).at("x").size(), 2);  // the maker itself is right
  std::vector<std::string> bad = {
      zip(0, size, size, crc + 1, array),
      zip(0, size, size + 1, crc, array),
      zip(0, size + 1000, size + 1000, crc, array),
      zip(0, 0xffffffff, 0xffffffff, crc, array),
      zip(0, size, size, crc, array, 0xffffffff),
      zip(0, size, size, crc, array, 7),
      zip(0, size, size, crc, array, 0x7fffffff),
      zip(0, size, size, crc, array, 0, 1),
      zip(0, size, size, crc, array, 0, 0, 2),
      zip(0, size, size, crc, array, 0, 0, 0xffff),
      zip(8, size, size, crc, array),
      zip(8, size, 4000000000u, crc, array),
      zip(8, 0, 10, crc, ""),
      zip(12, size, size, crc, array),
      zip(99, size, size, crc, array),
      "PK",
      std::string(100, '\0'),
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    write_file(scratch("i.npz"), bad[i]);
    EXPECT_THROW(read_npz(scratch("i.npz")), Error) << i;
  }
}

}  // namespace
}  // namespace lathe
