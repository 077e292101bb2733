#include "core/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace lathe {
namespace {

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "lathe_file_" + std::to_string(getpid()) + "_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  int64_t files() const {
    std::filesystem::directory_iterator all(folder_);
    return std::distance(begin(all), end(all));
  }
  std::string folder_;
};

TEST_F(Files, WritesReadsAndMaps) {
  std::string path = folder_ + "/a";
  write_file(path, "hello");
  std::vector<uint8_t> bytes = read_file(path, 5);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "hello");
  auto map = MappedFile::open(path);
  ASSERT_EQ(map->size(), 5u);
  EXPECT_EQ(std::memcmp(map->data(), "hello", 5), 0);
  EXPECT_EQ(files(), 1);
}

TEST_F(Files, MapsEmptyFiles) {
  write_file(folder_ + "/a", "");
  EXPECT_EQ(MappedFile::open(folder_ + "/a")->size(), 0u);
}

TEST_F(Files, KeepsTheOldFileWithoutCommit) {
  std::string path = folder_ + "/a";
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("new contents");
  }
  EXPECT_EQ(read_file(path, 100).size(), 3u);
  EXPECT_EQ(files(), 1);
}

TEST_F(Files, RefusesWhatIsMissingLargeOrNoFile) {
  write_file(folder_ + "/a", "hello");
  EXPECT_THROW(read_file(folder_ + "/a", 4), Error);
  EXPECT_THROW(read_file(folder_ + "/b", 4), Error);
  EXPECT_THROW(read_file(folder_, 1 << 20), Error);
  EXPECT_THROW(MappedFile::open(folder_), Error);
  EXPECT_THROW(MappedFile::open(folder_ + "/b"), Error);
  EXPECT_THROW(AtomicFile(folder_ + "/none/a"), Error);
}

}  // namespace
}  // namespace lathe
