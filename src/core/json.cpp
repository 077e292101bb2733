#include "core/json.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lathe {

nlohmann::json parse_json(std::span<const uint8_t> bytes, const std::string& where) {
  using nlohmann::json;
  try {
    return json::parse(bytes.begin(), bytes.end(), [&](int depth, json::parse_event_t event, json&) {
      bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
      if (opens && depth >= kMaxJsonDepth) fail(ErrorKind::kInput, "{}: JSON nested more than {} deep is refused", where, kMaxJsonDepth);
      return true;
    });
  } catch (const json::exception& e) {
    fail(ErrorKind::kInput, "{}: is not valid JSON: {:.200}", where, e.what());  // it may quote a text of any length
  }
}

}  // namespace lathe
