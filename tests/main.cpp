// All tests of a process: what they write lies in a folder of its own, gone with the process.
#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  std::string folder = (std::filesystem::temp_directory_path() / "lathe_test_XXXXXX").string();
  if (!::mkdtemp(folder.data())) return 1;
  ::setenv("TMPDIR", folder.c_str(), 1);                // std::filesystem::temp_directory_path()
  ::setenv("TEST_TMPDIR", (folder + "/").c_str(), 1);  // testing::TempDir()
  const int code = RUN_ALL_TESTS();
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return code;
}
