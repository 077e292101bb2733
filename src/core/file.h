// Files: reading with a limit, read-only memory maps, and writing that never leaves a half-written file.
//
//   std::vector<uint8_t> bytes = read_file(path, 1 << 20);
//   auto map = MappedFile::open(path);            // keep the pointer as a Tensor's owner
//   AtomicFile out(path);
//   out.write(data, size);
//   out.commit();                                 // without it the destructor removes the temporary file
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace lathe {

// The whole of a regular file. Throws kInput when it cannot be read or is larger than `limit` bytes.
std::vector<uint8_t> read_file(const std::string& path, int64_t limit);

// A file mapped read-only. The pages go away with the last pointer to it. A file that another process
// cuts short while it is mapped raises SIGBUS on access: map only what nobody is writing.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // The pages that lie wholly in this part are not needed for now and no longer count as resident. They may be
  // read again.
  void forget(const void* data, size_t size) const;

 private:
  MappedFile() = default;
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Writes to a temporary file in the folder of `path`; commit() flushes it to the disk and renames it, so
// that a crash leaves either the old file or the new one. Where `path` is a device or a pipe it is written to
// directly: renaming would put a file in its place.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
};

// A new folder beside `path`, with letters behind its name; gone with all that is in it when this is. Throws kInput where none can be made.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& path);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  // In the system's place for temporary files.
  static TemporaryFolder of_system(const std::string& name);

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Where lathe keeps what it can make again: ${XDG_CACHE_HOME:-$HOME/.cache}/lathe, made when first needed.
// Empty when the environment names no place; relative paths count for nothing (XDG base directories).
std::string user_cache_folder();

// AtomicFile for contents that are at hand.
void write_file(const std::string& path, std::string_view contents);

// Removes the temporary files of all AtomicFiles that are not committed. For handlers of signals that end the
// process, which run no destructors: does only what a signal handler may.
void remove_uncommitted_files() noexcept;

}  // namespace lathe
