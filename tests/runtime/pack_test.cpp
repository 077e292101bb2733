// `lathe pack` and what the other commands make of its files, through the real binary.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../folder_test.h"
#include "formats/onnx.h"
#include "graph/op.h"
#include "kernels/isa.h"
#include "runtime/load.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int64_t>;

struct Result {
  int code = -1;
  std::string text;  // stdout and stderr
};

Result call(const std::string& arguments) {
  Result result;
  std::FILE* pipe = ::popen((std::string(LATHE_BINARY) + " " + arguments + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) result.text.append(buffer.data(), count);
  int status = ::pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

class Pack : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{kUnknownDim, 3, 16, 16});
    auto constant = [&](Shape shape, uint64_t seed) { return g.add_constant(random_tensor(DType::kF32, shape, seed)); };
    ValueId y = g.add("Relu", {g.add("Conv", {x, constant({8, 3, 3, 3}, 1), constant({8}, 2)}, {{"pads", Ints(4, 1)}})});
    y = g.add("Flatten", {g.add("GlobalAveragePool", {y})});
    g.outputs = {g.add("MatMul", {y, constant({8, 10}, 3)}, {}, "y")};
    export_onnx(g, folder_ / "net.onnx");
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  std::string outputs(const std::string& model, const std::string& more = "") {
    Result r = call("run " + at(model) + " --random 5 --output " + at("out") + " " + more);
    EXPECT_EQ(r.code, 0) << r.text;
    std::ifstream file(at("out") + "/y.npy", std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), {});
    EXPECT_FALSE(bytes.empty()) << r.text;
    return bytes;
  }
};

TEST_F(Pack, RunsAsTheModelDoes) {
  Result packed = call("pack " + at("net.onnx") + " -o " + at("net.lathe"));
  ASSERT_EQ(packed.code, 0) << packed.text;
  EXPECT_EQ(outputs("net.lathe"), outputs("net.onnx"));
  Result plan = call("plan " + at("net.lathe"));
  EXPECT_EQ(plan.code, 0) << plan.text;
  EXPECT_EQ(plan.text, call("plan " + at("net.onnx")).text);
  Result inspect = call("inspect " + at("net.lathe") + " --check");
  EXPECT_EQ(inspect.code, 0) << inspect.text;
  EXPECT_NE(inspect.text.find("checksums good"), std::string::npos) << inspect.text;
  auto json = nlohmann::json::parse(call("bench " + at("net.lathe") + " --json --runs 1 --seconds 0").text);
  EXPECT_GT(json.at("start_cpu_ms").get<double>(), 0);
  EXPECT_EQ(json.at("batch"), 1);
}

TEST_F(Pack, PlansAnewForWhatWasNotPacked) {
  ASSERT_EQ(call("pack " + at("net.onnx") + " --precision bf16 -o " + at("net.lathe")).code, 0);
  Result bench = call("bench " + at("net.lathe") + " --json --runs 1 --seconds 0");
  EXPECT_EQ(nlohmann::json::parse(bench.text).at("precision"), "bf16");
  Result larger = call("bench " + at("net.lathe") + " --batch 3 --runs 1 --seconds 0");
  EXPECT_EQ(larger.code, 0);
  EXPECT_NE(larger.text.find("note:"), std::string::npos) << larger.text;
  EXPECT_NE(larger.text.find("batch 3"), std::string::npos) << larger.text;
}

TEST_F(Pack, WithoutSourceSaysWhatIsMissing) {
  ASSERT_EQ(call("pack " + at("net.onnx") + " --batch 2 --no-source -o " + at("net.lathe")).code, 0);
  auto json = nlohmann::json::parse(call("bench " + at("net.lathe") + " --json --runs 1 --seconds 0").text);
  EXPECT_EQ(json.at("batch"), 2);
  EXPECT_EQ(call("inspect " + at("net.lathe")).code, 0);
  Result other = call("bench " + at("net.lathe") + " --batch 3");
  EXPECT_EQ(other.code, 1);
  EXPECT_NE(other.text.find("pack the model again"), std::string::npos) << other.text;
}

TEST_F(Pack, AnotherVersionIsPlannedFromTheModelInside) {
  ASSERT_EQ(call("pack " + at("net.onnx") + " -o " + at("net.lathe")).code, 0);
  std::string expected = outputs("net.onnx");
  if (available_isas().size() < 2) GTEST_SKIP() << "this machine has one instruction set only";
  Result r = call("run " + at("net.lathe") + " --random 5");
  EXPECT_EQ(r.text.find("note:"), std::string::npos) << r.text;
  r = call("run " + at("net.lathe") + " --random 5 --isa " + available_isas().back());  // to the file that is another machine
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_NE(r.text.find("another machine"), std::string::npos) << r.text;
}

TEST_F(Pack, BrokenFilesAreOneErrorAndNoOutput) {
  ASSERT_EQ(call("pack " + at("net.onnx") + " -o " + at("net.lathe")).code, 0);
  fs::resize_file(at("net.lathe"), fs::file_size(at("net.lathe")) - 1);
  for (const char* command : {"run", "bench", "plan", "inspect"}) {
    Result r = call(std::string(command) + " " + at("net.lathe"));
    EXPECT_EQ(r.code, 1) << command;
    EXPECT_NE(r.text.find("lathe: error: "), std::string::npos) << r.text;
  }
  EXPECT_EQ(call("pack " + at("missing.onnx") + " -o " + at("other.lathe")).code, 1);
  EXPECT_FALSE(fs::exists(at("other.lathe")));
  EXPECT_EQ(call("pack " + at("net.lathe") + " -o " + at("other.lathe")).code, 2);
}

}  // namespace
}  // namespace lathe
