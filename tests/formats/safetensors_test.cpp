#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/file.h"

namespace lathe {
namespace {

using testing::HasSubstr;

std::string scratch(const std::string& name) {
  std::string folder = testing::TempDir() + "lathe_safetensors_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

std::string file_of(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

// The tensors keep their bytes.
Safetensors parse(const std::string& bytes) {
  auto kept = std::make_shared<const std::string>(bytes);
  return parse_safetensors({reinterpret_cast<const uint8_t*>(kept->data()), kept->size()}, "test.safetensors", kept);
}

std::string fault_of(const std::string& bytes, ErrorKind kind = ErrorKind::kInput) {
  try {
    parse(bytes);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  return "";
}

TEST(Safetensors, RoundTripsEveryType) {
  Safetensors out;
  for (DType type : {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8, DType::kI16, DType::kI32, DType::kI64, DType::kU8, DType::kU16,
                     DType::kU32, DType::kU64, DType::kBool, DType::kF8E4M3FN, DType::kF8E5M2, DType::kF8E8M0}) {
    Tensor t(type, {3, 1, 5});
    auto* raw = static_cast<uint8_t*>(t.raw());
    for (size_t i = 0; i < t.bytes(); ++i) raw[i] = type == DType::kBool ? i & 1 : static_cast<uint8_t>(37 * i + 11);
    out.tensors["weights." + std::string(name_of(type))] = t;
  }
  out.tensors["scalar"] = Tensor::scalar(0.1f);
  out.tensors["none"] = Tensor(DType::kF32, {4, 0});
  out.tensors["name \"with\" \\ and ü"] = Tensor::of_i64({INT64_MIN, INT64_MAX});
  out.metadata = {{"epoch", "7"}, {"text", "line\nline"}};
  const std::string path = scratch("all.safetensors");
  write_safetensors(path, out);
  Safetensors in = read_safetensors(path);
  EXPECT_EQ(in.metadata, out.metadata);
  ASSERT_EQ(in.tensors.size(), out.tensors.size());
  for (const auto& [name, t] : out.tensors) {
    const Tensor& back = in.tensors.at(name);
    EXPECT_EQ(back.shape(), t.shape()) << name;
    EXPECT_EQ(back.dtype(), t.dtype()) << name;
    // In place, without a copy.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(back.unaligned()) % size_of(t.dtype()), 0u) << name;
    EXPECT_TRUE(t.bytes() == 0 || std::memcmp(back.raw(), t.raw(), t.bytes()) == 0) << name;
  }
  // The same contents make the same bytes, and what was read outlives the file's name.
  write_safetensors(scratch("again.safetensors"), in);
  EXPECT_EQ(read_file(path, 1 << 20), read_file(scratch("again.safetensors"), 1 << 20));
  std::filesystem::remove(path);
  EXPECT_EQ(in.tensors.at("scalar").get(0), 0.1f);
}

TEST(Safetensors, ReadsTheFormatAsPublished) {
  // Tensors in any order, unpadded, with an empty one between.
  Safetensors s = parse(file_of(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                R"("e":{"dtype":"I64","shape":[0,9],"data_offsets":[4,4]},"__metadata__":{"k":"v"}})",
                                std::string("\0\0\x80\x3f\x01\x02\x03", 7)));
  EXPECT_EQ(s.tensors.at("a").get(0), 1.0);
  EXPECT_EQ(s.tensors.at("b").get_int(2), 3);
  EXPECT_EQ(s.tensors.at("e").size(), 0);
  EXPECT_EQ(s.metadata.at("k"), "v");
  EXPECT_TRUE(parse(file_of("{}", "")).tensors.empty());
}

TEST(Safetensors, RefusesWhatIsBroken) {
  const std::string entry = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string good = file_of("{" + entry + "}", "abcd");
  ASSERT_EQ(fault_of(good), "");
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(fault_of(good.substr(0, size)), "") << size;
  EXPECT_THAT(fault_of(good + "x"), HasSubstr("follow the last"));
  EXPECT_THAT(fault_of(file_of("[]", "")), HasSubstr("no JSON object"));
  EXPECT_THAT(fault_of(file_of("{" + entry + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "abcd")), HasSubstr("expected it to begin"));  // overlap
  EXPECT_THAT(fault_of(file_of("{" + entry + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}})", "abcdef")), HasSubstr("expected it to begin"));  // hole
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", "abcd")), HasSubstr("begin"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615]}})", "abcd")), HasSubstr("end within"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}})", "abcd")), HasSubstr("does not fit"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,5]}})", "abcde")), HasSubstr("does not fit"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", "abcd")), HasSubstr("size of -4"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}})", "abcd")), HasSubstr("size of 4.0"));
  EXPECT_NE(fault_of(file_of(R"({"a":{"dtype":"U8","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,4]}})", "abcd")), "");
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}})", "abcd")), HasSubstr("truth value"));
  EXPECT_THAT(fault_of(file_of(R"({"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})", "abcd"), ErrorKind::kUnsupported), HasSubstr("'F4'"));
  EXPECT_NE(fault_of(file_of(R"({"a":{"shape":[4]}})", "abcd")), "");
  EXPECT_NE(fault_of(file_of(R"({"__metadata__":{"k":1}})", "")), "");
  EXPECT_NE(fault_of(file_of(R"({"a":7})", "")), "");
}

TEST(Safetensors, WritesAllOrNothing) {
  const std::string path = scratch("kept.safetensors");
  write_safetensors(path, {{{"a", Tensor::scalar(1)}}, {}});
  const auto before = read_file(path, 1 << 20);
  EXPECT_THROW(write_safetensors(path, {{{"a", Tensor(DType::kI4, {2})}}, {}}), Error);
  EXPECT_THROW(write_safetensors(path, {{{"__metadata__", Tensor::scalar(1)}}, {}}), Error);
  EXPECT_THROW(write_safetensors(path, {{{"\xff", Tensor::scalar(1)}}, {}}), Error);
  EXPECT_THROW(write_safetensors("/dev/full", {{{"a", Tensor(DType::kF32, {1 << 20})}}, {}}), Error);
  EXPECT_EQ(read_file(path, 1 << 20), before);
}

}  // namespace
}  // namespace lathe
