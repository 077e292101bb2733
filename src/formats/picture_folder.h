// Pictures by folder: one subfolder a class is the form that most collections have.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lathe {

// By the end of its name: .jpg, .jpeg, .png, .webp in either case.
bool is_picture(const std::filesystem::path& path);
// The regular files of the folder itself that are wanted, by name.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder, bool (*wanted)(const std::filesystem::path&));

struct ClassFolder {
  std::filesystem::path path;
  std::string name;
  int64_t label;
};
// The subfolders by name. Those named by numbers say their class; others are numbered in the order of their names.
std::vector<ClassFolder> class_folders(const std::filesystem::path& folder);

// Digits and nothing else, as a number that fits.
std::optional<int64_t> whole_number(std::string_view text);

}  // namespace lathe
