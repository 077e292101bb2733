// A folder with one file in it that is written anew for every input, for parsers that read files: in memory where the
// system has such a place, gone with the process.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <span>
#include <string>

class Scratch {
 public:
  // `others`: files beside it, by name.
  explicit Scratch(const std::string& name, const std::map<std::string, std::string>& others = {}) {
    bool in_memory = ::access("/dev/shm", W_OK | X_OK) == 0;
    folder_ = (in_memory ? std::string("/dev/shm") : std::filesystem::temp_directory_path().string()) + "/lathe_fuzz_XXXXXX";
    if (!::mkdtemp(folder_.data())) std::abort();
    path_ = folder_ + "/" + name;
    for (const auto& [other, contents] : others) write_to(folder_ + "/" + other, contents.data(), contents.size());
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& folder() const { return folder_; }
  const std::string& path() const { return path_; }

  void write(std::span<const uint8_t> bytes) const { write_to(path_, bytes.data(), bytes.size()); }

 private:
  static void write_to(const std::string& path, const void* data, size_t size) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (!file || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0) std::abort();
  }

  std::string folder_, path_;
};
