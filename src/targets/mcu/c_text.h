// Pieces of C as text.
#pragma once

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <string>
#include <vector>

namespace lathe::mcu {

// A float as C99 reads it back to the bit.
inline std::string exact(float value) {
  if (value == 0) return std::signbit(value) ? "-0.0f" : "0.0f";
  return fmt::format("{:a}f", value);
}

inline std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

// Safe inside a comment of C.
inline std::string comment(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 32 || c == '\\') c = ' ';
  for (size_t at; (at = text.find("*/")) != text.npos;) text[at] = '+';
  for (size_t at; (at = text.find("/*")) != text.npos;) text[at] = '+';
  return text.substr(0, 100);
}

// The values between braces, some on a line.
template <class T, class Format>
std::string array_of(const std::vector<T>& values, size_t a_line, Format format) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % a_line == 0) text += "\n  ";
    fmt::format_to(std::back_inserter(text), "{}{}", format(values[i]),
                   i + 1 < values.size() ? (i % a_line + 1 == a_line ? "," : ", ") : "");
  }
  return text;
}

}  // namespace lathe::mcu
