// lathe factorize as a user calls it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string scratch(const char* name) { return (scratch_folder() / name).string(); }

TEST(FactorizeCommand, WritesANetworkThatRuns) {
  const std::string net = scratch("factorize_net.onnx"), small = scratch("factorize_small.onnx");
  ASSERT_EQ(lathe_command("models mobilenet_v1 --width 0.25 --input 3x32x32 --classes 4 -o " + net).code, 0);
  const ShellResult r = lathe_command("factorize " + net + " --rank 0.4 --json -o " + small);
  ASSERT_EQ(r.code, 0) << r.err;
  const nlohmann::json j = nlohmann::json::parse(r.out);
  EXPECT_LT(j["weights"].get<int64_t>(), j["weights_before"].get<int64_t>());
  for (const nlohmann::json& layer : j["layers"]) EXPECT_EQ(layer["rank"].is_null(), !layer["why"].get<std::string>().empty()) << layer;
  EXPECT_EQ(lathe_command("run " + small + " --random 1").code, 0);
  const ShellResult table = lathe_command("factorize " + net + " --energy 0.5 --only '*pointwise*' -o " + small);
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("left out"));
  EXPECT_THAT(table.out, HasSubstr("not named"));
}

TEST(FactorizeCommand, RefusalsAreOneLineAndLeaveNothing) {
  const std::string net = classifier(), out = scratch("factorize_none.onnx");
  const auto refuses = [&](const std::string& arguments, int code, const std::string& text) {
    const ShellResult r = lathe_command("factorize " + arguments + " -o " + out);
    EXPECT_EQ(r.code, code) << arguments;
    EXPECT_THAT(r.err, HasSubstr(text)) << arguments;
    EXPECT_FALSE(fs::exists(out)) << arguments;
  };
  refuses(net + " --rank 2", 2, "--rank");
  refuses(net + " --rank 0.5 --energy 0.5", 2, "--energy");
  refuses(net + " --only nothing", 2, "nothing");
  refuses(scratch("absent.onnx"), 1, "absent.onnx");
}

}  // namespace
}  // namespace lathe
