// Quantizing and optimizing through the shared library, with nothing but its public headers.
#include "lathe/optimize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "lathe/network.h"
#include "onnx_model.h"

namespace {

namespace fs = std::filesystem;
using lathe::ErrorKind;

class OptimizeApi : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("lathe_optimize_api_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    std::ofstream(path("net.onnx"), std::ios::binary) << onnx_model("Sigmoid");
    // Forty samples of three numbers, as a .npy file.
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (40, 3), }";
    while ((10 + header.size() + 1) % 64) header += ' ';
    header += '\n';
    std::ofstream file(path("x.npy"), std::ios::binary);
    file << std::string("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() & 255) << static_cast<char>(header.size() >> 8) << header;
    for (int i = 0; i < 120; ++i) {
      const float x = std::sin(static_cast<float>(i));
      file.write(reinterpret_cast<const char*>(&x), sizeof x);
    }
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<float> answer(const std::string& model) const {
    const std::vector<float> x{0.5f, -0.25f, 0.75f};
    lathe::Runner runner = lathe::Network::open(model).compile();
    auto y = runner.run({{"x", lathe::TensorView::of(x.data(), {1, 3})}});
    const float* scores = y.at("scores").as<float>();
    return {scores[0], scores[1]};
  }

  fs::path folder_;
};

TEST_F(OptimizeApi, QuantizesAFile) {
  std::string last;
  const lathe::QuantizeReport r = lathe::quantize_model(path("net.onnx"), path("int8.onnx"), {.data = path("x.npy"), .progress = [&](const std::string& stage, double) { last = stage; }});
  ASSERT_EQ(r.layers.size(), 1u);
  EXPECT_EQ(r.layers[0].name, "product");
  EXPECT_EQ(r.layers[0].weights, "int8");
  EXPECT_TRUE(r.layers[0].on_codes);
  EXPECT_EQ(r.scheme, "w:int8,gptq a:uint8,mse bias");
  EXPECT_FALSE(last.empty());
  const auto exact = answer(path("net.onnx")), near = answer(path("int8.onnx"));
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(near[i], exact[i], 0.02);
  // Without samples, by weights alone.
  EXPECT_EQ(lathe::quantize_model(path("net.onnx"), path("w.onnx"), {.scheme = "w:int4 ends:same"}).layers[0].weights, "int4");
}

TEST_F(OptimizeApi, OptimizesIntoAFolder) {
  const lathe::OptimizeReport r = lathe::optimize_model(path("net.onnx"), path("out"), {.data = path("x.npy"), .budget = "error<=20%", .techniques = {"int8", "clean"}, .trials = 4, .seconds = 20});
  EXPECT_TRUE(r.met) << r.reason;
  EXPECT_FALSE(r.reason.empty());
  EXPECT_GT(r.speedup, 0);
  EXPECT_GT(r.latency_ms, 0);
  EXPECT_THAT(r.json, testing::HasSubstr("\"trials\""));
  for (const char* file : {"model.onnx", "report.html", "report.json"}) EXPECT_TRUE(fs::exists(path("out") + "/" + file)) << file;
  const auto exact = answer(path("net.onnx")), best = answer(path("out") + "/model.onnx");
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(best[i], exact[i], 0.2);
}

TEST_F(OptimizeApi, ErrorsCrossTheLibrary) {
  auto kind_of = [](auto&& body) {
    try {
      body();
    } catch (const lathe::Error& e) {
      return e.kind();
    }
    return ErrorKind::kInternal;
  };
  EXPECT_EQ(kind_of([&] { lathe::quantize_model(path("net.onnx"), path("o.onnx"), {.scheme = "w:int3000"}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { lathe::quantize_model(path("net.onnx"), path("o.onnx")); }), ErrorKind::kUsage) << "the default scheme needs samples";
  EXPECT_EQ(kind_of([&] { lathe::quantize_model(path("none.onnx"), path("o.onnx"), {.scheme = "w:int8"}); }), ErrorKind::kInput);
  EXPECT_EQ(kind_of([&] { lathe::optimize_model(path("net.onnx"), path("out2"), {.data = path("x.npy"), .budget = "latency<=5 parsec"}); }), ErrorKind::kUsage);
  EXPECT_FALSE(fs::exists(path("o.onnx")));
  EXPECT_FALSE(fs::exists(path("out2")));
}

}  // namespace
