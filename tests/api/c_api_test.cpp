// Hands a model to the caller in C, and checks what the borders of the C API refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lathe/lathe.h"
#include "onnx_model.h"

extern "C" const char* c_api_round(const void* bytes, size_t size);

namespace {

using testing::HasSubstr;

TEST(CApi, WorksFromC99) {
  std::string bytes = onnx_model();
  EXPECT_STREQ(c_api_round(bytes.data(), bytes.size()), "");
}

TEST(CApi, RefusesNullsAndNonsense) {
  std::string bytes = onnx_model();
  lathe_network* network = nullptr;
  lathe_runner* runner = nullptr;
  EXPECT_EQ(lathe_network_open(nullptr, &network), LATHE_USAGE);
  EXPECT_EQ(lathe_network_open("/none.onnx", nullptr), LATHE_USAGE);
  EXPECT_EQ(lathe_network_open("/none.onnx", &network), LATHE_INPUT);
  EXPECT_THAT(lathe_last_error(), HasSubstr("/none.onnx"));
  EXPECT_EQ(network, nullptr);
  EXPECT_EQ(lathe_network_from_onnx("junk", 4, &network), LATHE_INPUT);
  ASSERT_EQ(lathe_network_from_onnx(bytes.data(), bytes.size(), &network), LATHE_OK);
  lathe_tensor_info info;
  EXPECT_EQ(lathe_network_input(network, 1, &info), LATHE_USAGE);
  EXPECT_EQ(lathe_network_problem(network, 0), nullptr);
  lathe_options options = {};
  EXPECT_EQ(lathe_network_compile(network, &options, &runner), LATHE_USAGE);
  EXPECT_THAT(lathe_last_error(), HasSubstr("lathe_options_init"));
  lathe_options_init(&options);
  options.threads = -1;
  EXPECT_EQ(lathe_network_compile(network, &options, &runner), LATHE_USAGE);
  lathe_options_init(&options);
  options.precision = static_cast<lathe_precision>(7);
  EXPECT_EQ(lathe_network_compile(network, &options, &runner), LATHE_USAGE);
  ASSERT_EQ(lathe_network_compile(network, nullptr, &runner), LATHE_OK);
  EXPECT_EQ(lathe_runner_run(runner), LATHE_USAGE);
  float x[3] = {1, 1, 1};
  int64_t shape[2] = {1, 3};
  lathe_tensor tensor = {LATHE_F32, 2, shape, x};
  EXPECT_EQ(lathe_runner_set_input(runner, "q", &tensor), LATHE_USAGE);
  EXPECT_EQ(lathe_runner_set_input(runner, "x", nullptr), LATHE_USAGE);
  tensor.rank = 1u << 30;
  EXPECT_EQ(lathe_runner_set_input(runner, "x", &tensor), LATHE_USAGE);
  tensor = {static_cast<lathe_dtype>(99), 2, shape, x};
  EXPECT_EQ(lathe_runner_set_input(runner, "x", &tensor), LATHE_USAGE);
  tensor = {LATHE_F32, 2, nullptr, x};
  EXPECT_EQ(lathe_runner_set_input(runner, "x", &tensor), LATHE_USAGE);
  EXPECT_EQ(lathe_runner_run(nullptr), LATHE_USAGE);
  lathe_runner_free(runner);
  lathe_network_free(network);
  lathe_runner_free(nullptr);
  lathe_network_free(nullptr);
  EXPECT_EQ(lathe_network_input_count(nullptr), 0u);
  EXPECT_EQ(lathe_dtype_size(LATHE_F64), 8u);
  EXPECT_EQ(lathe_dtype_size(static_cast<lathe_dtype>(-5)), 0u);
}

}  // namespace
