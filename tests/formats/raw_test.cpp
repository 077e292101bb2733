#include "formats/raw.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/file.h"

namespace lathe {
namespace {

std::string file_of(size_t bytes) {
  std::string path = testing::TempDir() + "lathe_raw_" + std::to_string(getpid()) + ".raw", contents(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) contents[i] = static_cast<char>(i);
  write_file(path, contents);
  return path;
}

TEST(Raw, ReadsElementsInTheShapeGiven) {
  Tensor t = read_raw(file_of(12), DType::kI16, {2, 3});
  EXPECT_EQ(t.shape(), (Shape{2, 3}));
  EXPECT_EQ(t.get_int(5), 10 + 11 * 256);
  EXPECT_EQ(read_raw(file_of(12), DType::kI16, {kUnknownDim, 3}).shape(), (Shape{2, 3}));
  EXPECT_EQ(read_raw(file_of(4), DType::kF32, {}).size(), 1);
  EXPECT_EQ(read_raw(file_of(0), DType::kF32, {kUnknownDim, 3}).size(), 0);
}

TEST(Raw, RefusesWhatDoesNotFit) {
  std::string path = file_of(12);
  for (const Shape& shape : {Shape{2, 2}, Shape{7}, Shape{}, Shape{kUnknownDim, 4}, Shape{kUnknownDim, kUnknownDim}, Shape{kUnknownDim, 0},
                             Shape{int64_t{1} << 40}, Shape{int64_t{1} << 40, int64_t{1} << 40}})
    EXPECT_THROW(read_raw(path, DType::kI16, shape), Error) << to_string(shape);
  EXPECT_THROW(read_raw(path, DType::kString, {12}), Error);
  EXPECT_THROW(read_raw(path + ".none", DType::kU8, {12}), Error);
  EXPECT_THROW(read_raw(testing::TempDir(), DType::kU8, {12}), Error);
}

}  // namespace
}  // namespace lathe
