// JSON from files that others wrote: bounded in nesting, with errors of lathe's own.
//
//   nlohmann::json j = parse_json(read_file(path, 1 << 20), path);
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

namespace lathe {

// No file of lathe's is nested more than six deep; a library that walks a value by recursion (printing, comparing) runs
// out of stack at some ten thousand.
constexpr int kMaxJsonDepth = 64;

// Throws kInput beginning with `where`, for instance a file name, when the bytes are no JSON or nested too deep.
nlohmann::json parse_json(std::span<const uint8_t> bytes, const std::string& where);

}  // namespace lathe
