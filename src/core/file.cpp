#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace lathe {
namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail(ErrorKind::kInput, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

// Temporary files that a signal handler should remove. The command writes one or two at a time; a file that finds
// no room is still written, only not removed on a signal.
std::array<std::atomic<const char*>, 16> uncommitted;

void remember(const std::string& path) {
  for (auto& slot : uncommitted) {
    const char* empty = nullptr;
    if (slot.compare_exchange_strong(empty, path.c_str())) return;
  }
}

void forget_path(const std::string& path) {
  for (auto& slot : uncommitted) {
    const char* held = path.c_str();
    if (slot.compare_exchange_strong(held, nullptr)) return;
  }
}

int64_t regular_size(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0)
    fail(ErrorKind::kInput, "{}: cannot be examined: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::kInput, "{}: is not a regular file", path);
  return status.st_size;
}

}  // namespace

std::vector<uint8_t> read_file(const std::string& path, int64_t limit) {
  Descriptor fd(path);
  int64_t size = regular_size(fd, path);
  if (size > limit)
    fail(ErrorKind::kInput, "{}: has {} bytes, more than the limit of {}", path, size, limit);
  std::vector<uint8_t> bytes(size);
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t count = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kInput, "{}: cannot be read: {}", path, std::strerror(errno));
    if (count == 0) fail(ErrorKind::kInput, "{}: became shorter while it was read", path);
    done += count;
  }
  return bytes;
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  Descriptor fd(path);
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->size_ = regular_size(fd, path);
  if (file->size_ == 0) return file;  // nothing to map
  void* memory = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (memory == MAP_FAILED)
    fail(ErrorKind::kInput, "{}: cannot be mapped: {}", path, std::strerror(errno));
  file->data_ = static_cast<const uint8_t*>(memory);
  return file;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::forget(const void* data, size_t size) const {
  auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t lead = (page - reinterpret_cast<uintptr_t>(data) % page) % page;  // of a page that others share
  if (lead >= size) return;
  auto* begin = static_cast<uint8_t*>(const_cast<void*>(data)) + lead;
  ::madvise(begin, (size - lead) / page * page, MADV_DONTNEED);  // only advice: failing costs nothing
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  struct stat status;
  bool exists = ::stat(path_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) fail(ErrorKind::kInput, "{}: is a folder, expected the name of a file to write", path_);
  if (exists && !S_ISREG(status.st_mode)) {
    file_ = std::fopen(path_.c_str(), "wbe");
    if (!file_) fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(errno));
    return;
  }
  temporary_ = path_ + ".XXXXXX";
  int fd = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd < 0) fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(errno));
  remember(temporary_);
  // mkostemp makes a private file; give it the mode that an ordinary new file would have.
  mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(fd, 0666 & ~mask);
  file_ = ::fdopen(fd, "wb");
  if (!file_) {
    int reason = errno;
    ::close(fd);
    ::unlink(temporary_.c_str());
    forget_path(temporary_);
    fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(reason));
  }
}

TemporaryFolder::TemporaryFolder(const std::string& path) : path_(path + ".XXXXXX") {
  if (!::mkdtemp(path_.data())) fail(ErrorKind::kInput, "{}: no folder can be made beside it: {}", path, std::strerror(errno));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

TemporaryFolder TemporaryFolder::of_system(const std::string& name) { return TemporaryFolder((std::filesystem::temp_directory_path() / name).string()); }

AtomicFile::~AtomicFile() {
  if (file_) std::fclose(file_);
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  forget_path(temporary_);
}

void AtomicFile::write(const void* data, size_t size) {
  require(file_ != nullptr, "{}: written after commit", path_);
  if (size && std::fwrite(data, 1, size, file_) != size)
    fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(errno));
}

void AtomicFile::commit() {
  require(file_ != nullptr, "{}: committed twice", path_);
  bool good = std::fflush(file_) == 0 && (temporary_.empty() || ::fsync(::fileno(file_)) == 0);
  int reason = errno;
  if (std::fclose(file_) != 0 && good) {
    reason = errno;
    good = false;
  }
  file_ = nullptr;
  if (!good) fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(reason));
  if (temporary_.empty()) return;
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail(ErrorKind::kInput, "{}: cannot be written: {}", path_, std::strerror(errno));
  forget_path(temporary_);
  temporary_.clear();
}

std::string user_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache && cache[0] == '/') return std::string(cache) + "/lathe";
  if (home && home[0] == '/') return std::string(home) + "/.cache/lathe";
  return "";
}

void write_file(const std::string& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void remove_uncommitted_files() noexcept {
  for (auto& slot : uncommitted)
    if (const char* path = slot.exchange(nullptr)) ::unlink(path);
}

}  // namespace lathe
