#include "core/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"

namespace lathe {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

Device full_device() {
  ComputeUnit cpu{"Some CPU", 4, 8, 2400.5, {"avx2", "fma"}, {76.8, 150.0, 300.25}, {290.1, std::nullopt, 1100.0}};
  MemoryLevel l1{"L1", 32768, 2, {100.5, 90.25}, {}, std::nullopt};
  MemoryLevel main{"memory", int64_t{64} << 30, 8, {12.5, 11.0}, {40.0, 38.0}, 160.5};
  Device device{"full", "a test", {cpu}, {l1, main}, {}, {}};
  device.limits = {int64_t{32} << 30, 1 << 20};
  device.picojoule_per_operation = {2.3, std::nullopt, 0.15};
  return device;
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput);
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::string message_of(const json& object) {
  return message_of([&] { device_from_json(object, "X.json"); });
}

TEST(Device, RoundTripsThroughJson) {
  Device device = full_device();
  EXPECT_EQ(device_from_json(to_json(device), "X.json"), device);
  EXPECT_EQ(device_from_json(json::parse(to_json(device).dump()), "X.json"), device);
  Device small{"small", "a test", {{"core", 1, 1, {}, {}, {}, {}}}, {}, {}, {}};
  EXPECT_EQ(device_from_json(to_json(small), "X.json"), small);
}

TEST(Device, RoundTripsThroughAFile) {
  std::string path = testing::TempDir() + "lathe_device_" + std::to_string(getpid()) + ".json";
  write_device(path, full_device());
  EXPECT_EQ(read_device(path), full_device());
  write_file(path, "{\"name\": ");
  EXPECT_THAT(message_of([&] { read_device(path); }), AllOf(HasSubstr(path), HasSubstr("not valid JSON")));
  write_file(path, "{\"name\": \"\xff\"}");
  EXPECT_THAT(message_of([&] { read_device(path); }), HasSubstr("not valid JSON"));
  write_file(path, "{\"name\": 1e999}");
  EXPECT_THAT(message_of([&] { read_device(path); }), HasSubstr("not valid JSON"));
  std::filesystem::remove(path);
  EXPECT_THAT(message_of([&] { read_device(path); }), HasSubstr(path));
}

TEST(Device, LeavesOutWhatIsUnknown) {
  Device device = full_device();
  device.limits = {};
  device.picojoule_per_operation = {};
  json object = to_json(device);
  EXPECT_FALSE(object.contains("limits"));
  EXPECT_FALSE(object.contains("picojoule_per_operation"));
  EXPECT_FALSE(object["memory"][0].contains("gb_per_s_all_cores"));
  EXPECT_FALSE(object["compute"][0]["gops_all_cores"].contains("bf16"));
}

TEST(Device, RefusesFieldsThatAreMissing) {
  for (const char* key : {"name", "source", "compute", "memory"}) {
    json object = to_json(full_device());
    object.erase(key);
    EXPECT_THAT(message_of(object), AllOf(HasSubstr("X.json"), HasSubstr(key), HasSubstr("missing")));
  }
  json object = to_json(full_device());
  object["memory"][1].erase("bytes");
  EXPECT_THAT(message_of(object), AllOf(HasSubstr("memory[1]"), HasSubstr("'bytes' is missing")));
}

TEST(Device, RefusesFieldsThatAreUnknown) {
  json object = to_json(full_device());
  object["nmae"] = "x";
  EXPECT_THAT(message_of(object), HasSubstr("unknown field 'nmae'"));
  object = to_json(full_device());
  object["compute"][0]["gops_per_core"]["fp32"] = 1;
  EXPECT_THAT(message_of(object), AllOf(HasSubstr("compute[0]"), HasSubstr("gops_per_core"), HasSubstr("'fp32'")));
}

TEST(Device, RefusesTypesAndValuesThatMakeNoSense) {
  auto with = [](const char* pointer, json value) {
    json object = to_json(full_device());
    object[json::json_pointer(pointer)] = std::move(value);
    return object;
  };
  for (const json& value : {json(0), json(-1), json(1.5), json("1"), json(nullptr), json(UINT64_MAX), json::array()}) {
    EXPECT_THAT(message_of(with("/compute/0/cores", value)), HasSubstr("positive integer")) << value;
    EXPECT_THAT(message_of(with("/memory/0/bytes", value)), HasSubstr("positive integer")) << value;
    EXPECT_THAT(message_of(with("/limits/flash_bytes", value)), HasSubstr("positive integer")) << value;
  }
  for (const json& value : {json(0), json(-1.5), json("1"), json(true), json(nullptr), json(INFINITY), json(NAN)}) {
    EXPECT_THAT(message_of(with("/compute/0/clock_mhz", value)), HasSubstr("positive number")) << value;
    EXPECT_THAT(message_of(with("/memory/1/gb_per_s_per_core/read", value)), HasSubstr("positive number")) << value;
    EXPECT_THAT(message_of(with("/picojoule_per_operation/f32", value)), HasSubstr("positive number")) << value;
  }
  EXPECT_THAT(message_of(with("/name", "")), HasSubstr("not empty"));
  EXPECT_THAT(message_of(with("/compute/0/instruction_sets/0", 5)), HasSubstr("instruction_sets[0]"));
  EXPECT_THAT(message_of(with("/compute", json::array())), HasSubstr("at least one compute unit"));
  EXPECT_THAT(message_of(with("/compute", json::object())), HasSubstr("expected a list"));
  EXPECT_THAT(message_of(with("/memory/0", 7)), HasSubstr("expected an object"));
  EXPECT_THAT(message_of(with("/limits", "none")), HasSubstr("expected an object"));
  EXPECT_THAT(message_of(with("/compute/0/threads", 3)), HasSubstr("at least as many threads as cores"));
  for (const json& value : {json(nullptr), json(1), json("x"), json::array()})
    EXPECT_THAT(message_of(value), HasSubstr("expected an object"));
}

}  // namespace
}  // namespace lathe
