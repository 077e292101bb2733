// Runs models in the ONNX test layout: model.onnx beside test_data_set_*/input_*.pb and output_*.pb.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

struct VerifyResult {
  std::filesystem::path folder;
  enum Status { kPassed, kFailed, kSkipped } status = kPassed;
  std::string message;            // why it failed or was skipped
  double largest_difference = 0;  // over all outputs, absolute
};

// All folders at or below `root` that hold a model.onnx and at least one data set, sorted.
std::vector<std::filesystem::path> find_onnx_tests(const std::filesystem::path& root);
VerifyResult verify_onnx_test(const std::filesystem::path& folder);

// |actual − expected| ≤ atol + rtol·|expected| for floats (NaN equals NaN), integers exact. Returns "" or
// what differs. 16-bit and narrower floats are allowed their own precision instead of rtol.
std::string compare(const Tensor& actual, const Tensor& expected, double* largest_difference,
                    double rtol = 1e-3, double atol = 1e-7);

}  // namespace lathe
