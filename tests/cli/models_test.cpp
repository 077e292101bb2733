// lathe models: the list, one network with a family's own options, and what is refused without a file left behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string in_scratch(const std::string& name) { return (scratch_folder() / name).string(); }

TEST(ModelsCommand, BuildsTheSmallFormWhichRuns) {
  const std::string file = in_scratch("small.onnx");
  const ShellResult r = lathe_command(
      "models poolformer_s12 --depths 1,1,3,1 --widths 16,32,64,128 --set stem=small --input 1x28x28 --classes 10 -o " + file + " --json");
  ASSERT_EQ(r.code, 0) << r.err;
  const json j = json::parse(r.out);
  EXPECT_EQ(j["parameters"], 343'002);
  EXPECT_EQ(j["macs"], 3'870'528);
  EXPECT_EQ(lathe_command("run " + file + " --random 1").code, 0);
  std::filesystem::remove(file);
}

TEST(ModelsCommand, ListsAFamily) {
  const ShellResult r = lathe_command("models --list metaformer-baselines --check");
  EXPECT_EQ(r.code, 0) << r.err;
  for (const char* text : {"randformer_m48", "941192 frozen", "caformer_b36", "98753614", "all as published"})
    EXPECT_THAT(r.out, HasSubstr(text));
  EXPECT_EQ(r.out.find("resnet18"), std::string::npos);
}

TEST(ModelsCommand, RefusesInOneLineAndLeavesNoFile) {
  const std::string file = in_scratch("refused.onnx");
  for (const auto& [arguments, text] : {std::pair<std::string, std::string>{"poolformer_s12 --set pool=4", "pool=4 is even"},
                                        {"caformer_s18 --widths 64,128,320,500", "multiple of 32"},
                                        {"poolformer_s12 --set mixers=PP", "does not name 4 stages"},
                                        {"spartan --set ratios=4,4,2,1", "2 is the least"},
                                        {"poolformer_s12 --input 3x2x2", "smaller than 3"}}) {
    const ShellResult r = lathe_command("models " + arguments + " -o " + file);
    EXPECT_EQ(r.code, 2) << arguments;
    EXPECT_THAT(r.err, HasSubstr(text)) << arguments;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_FALSE(std::filesystem::exists(file)) << arguments;
  }
}

}  // namespace
}  // namespace lathe
