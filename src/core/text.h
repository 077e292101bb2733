// Text in parts.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace lathe {

// What stands between separators; nothing for two side by side.
inline std::vector<std::string> words_of(std::string_view text, char separator) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0) words.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

}  // namespace lathe
