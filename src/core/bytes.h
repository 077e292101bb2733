// Little-endian records in memory. The reader checks every bound: what it reads is untrusted.
//
//   ByteWriter out;  out.number<uint32_t>(7);  out.text("name");
//   ByteReader in(out.bytes(), "net.lathe");  in.number<uint32_t>();  in.text();  in.finish();
#pragma once

#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace lathe {

static_assert(std::endian::native == std::endian::little, "files are read in place, which needs a little-endian machine");

class ByteWriter {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    raw(&value, sizeof value);
  }
  void count(size_t value) { number(static_cast<uint32_t>(value)); }
  void text(std::string_view value) {
    count(value.size());
    raw(value.data(), value.size());
  }
  template <class T>
  void numbers(const std::vector<T>& values) {
    count(values.size());
    for (T value : values) number(value);
  }
  void raw(const void* data, size_t size) { bytes_.append(static_cast<const char*>(data), size); }
  std::string_view bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class ByteReader {
 public:
  // `what` begins the messages of errors.
  ByteReader(std::string_view bytes, std::string what) : rest_(bytes), what_(std::move(what)) {}

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  // A count of things that take at least `each` bytes: more than the rest can hold is refused before memory is.
  size_t count(size_t each = 1) {
    auto value = number<uint32_t>();
    if (value > rest_.size() / each) broken("a count of {} where {} bytes are left", value, rest_.size());
    return value;
  }
  std::string text() {
    size_t size = count();
    return std::string(take(size), size);
  }
  template <class T>
  std::vector<T> numbers() {
    std::vector<T> values(count(sizeof(T)));
    for (T& value : values) value = number<T>();
    return values;
  }
  void finish() const {
    if (!rest_.empty()) broken("{} bytes after the end", rest_.size());
  }
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> text, Args&&... args) const {
    fail(ErrorKind::kInput, "{}: is corrupt: {}", what_, fmt::format(text, std::forward<Args>(args)...));
  }

 private:
  const char* take(size_t size) {
    if (size > rest_.size()) broken("it ends where {} bytes should follow", size);
    const char* at = rest_.data();
    rest_.remove_prefix(size);
    return at;
  }
  std::string_view rest_;
  std::string what_;
};

}  // namespace lathe
