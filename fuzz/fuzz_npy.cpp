// Bytes → array (.npy), and bytes → archive of arrays (.npz). Only lathe::Error may come out.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/file.h"
#include "formats/npy.h"

using namespace lathe;

namespace {

// Archives are read from files only.
struct Scratch {
  std::string path =
      (std::filesystem::temp_directory_path() / ("fuzz_npy_" + std::to_string(::getpid()) + ".npz")).string();
  ~Scratch() { std::filesystem::remove(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch;
  try {
    parse_npy({data, size}, "fuzz");
  } catch (const Error&) {
  }
  if (size < 2 || data[0] != 'P' || data[1] != 'K') return 0;
  try {
    std::FILE* file = std::fopen(scratch.path.c_str(), "wb");
    if (!file) std::abort();
    std::fwrite(data, 1, size, file);
    std::fclose(file);
    read_npz(scratch.path);
  } catch (const Error&) {
  }
  return 0;
}
