#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lathe {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

nlohmann::json parse(const std::string& text) { return parse_json({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, "X.json"); }

std::string nested(int depth, const std::string& open, const std::string& close, const std::string& inside) {
  std::string text;
  for (int i = 0; i < depth; ++i) text += open;
  text += inside;
  for (int i = 0; i < depth; ++i) text += close;
  return text;
}

std::string message_of(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput);
    return e.what();
  }
  return "no error";
}

TEST(Json, ReadsWhatIsValid) {
  EXPECT_EQ(parse(R"({"a": [1, 2.5, "x", null]})")["a"][2], "x");
  EXPECT_NO_THROW(parse(nested(kMaxJsonDepth, "[", "]", "1")));
  EXPECT_NO_THROW(parse(nested(kMaxJsonDepth, "{\"a\":", "}", "1")));
}

TEST(Json, DeepNestingIsRefusedBeforeAnythingRecurses) {
  for (int depth : {kMaxJsonDepth + 1, 1000, 300'000}) {
    EXPECT_THAT(message_of(nested(depth, "[", "]", "1")), AllOf(StartsWith("X.json: "), HasSubstr("nested")));
    EXPECT_THAT(message_of(nested(depth, "{\"a\":", "}", "1")), HasSubstr("nested"));
  }
}

TEST(Json, WhatIsNoneIsRefused) {
  for (const std::string text : {"", "{", "[1,]", "{\"a\" 1}", "\"\xff\"", "1e999", "nul", "[1] 2"})
    EXPECT_THAT(message_of(text), HasSubstr("not valid JSON")) << text;
  EXPECT_LT(message_of("{\"a\": \"" + std::string(100'000, 'x')).size(), 400u);
}

}  // namespace
}  // namespace lathe
