#include "runtime/verify.h"

#include <algorithm>
#include <cmath>

#include "formats/onnx.h"
#include "graph/op.h"
#include "kernels/reference/reference.h"

namespace lathe {
namespace fs = std::filesystem;

namespace {

bool is_data_set(const fs::path& folder) {
  return fs::is_directory(folder) && folder.filename().string().starts_with("test_data_set");
}

// input_0.pb, input_1.pb, … until one is missing.
std::vector<Tensor> read_series(const fs::path& folder, const std::string& stem) {
  std::vector<Tensor> tensors;
  for (int i = 0;; ++i) {
    fs::path path = folder / fmt::format("{}_{}.pb", stem, i);
    if (!fs::exists(path)) return tensors;
    tensors.push_back(read_tensor_proto(path));
  }
}

// The name of an operator whose results differ from generator to generator, or "".
std::string random_operator(const Graph& graph) {
  for (NodeId id : graph.order())
    if (!graph[id].op->deterministic) return graph[id].op->name;
  return "";
}

double relative_tolerance(DType type, double rtol) {
  if (type == DType::kBF16) return std::max(rtol, 1.0 / 64);
  if (type == DType::kF16) return std::max(rtol, 1.0 / 512);
  return rtol;
}

}  // namespace

std::vector<fs::path> find_onnx_tests(const fs::path& root) {
  if (!fs::exists(root)) fail(ErrorKind::kInput, "no such folder: '{}'", root.string());
  std::vector<fs::path> found;
  auto consider = [&](const fs::path& folder) {
    if (!fs::exists(folder / "model.onnx")) return;
    for (const auto& entry : fs::directory_iterator(folder))
      if (is_data_set(entry.path())) return found.push_back(folder);
  };
  if (!fs::is_directory(root)) fail(ErrorKind::kInput, "'{}' is not a folder", root.string());
  consider(root);
  for (const auto& entry : fs::recursive_directory_iterator(root, fs::directory_options::skip_permission_denied))
    if (entry.is_directory()) consider(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

std::string compare(const Tensor& actual, const Tensor& expected, double* largest, double rtol, double atol) {
  if (actual.dtype() != expected.dtype())
    return fmt::format("type {} instead of {}", name_of(actual.dtype()), name_of(expected.dtype()));
  if (actual.shape() != expected.shape())
    return fmt::format("shape {} instead of {}", to_string(actual.shape()), to_string(expected.shape()));
  int64_t wrong = 0, first = -1;
  bool real = is_float(expected.dtype());
  rtol = relative_tolerance(expected.dtype(), rtol);
  if (real) {  // sums of large terms that cancel keep the rounding of the largest (eps of f32)
    double largest_value = 0;
    for (int64_t i = 0; i < expected.size(); ++i)
      if (std::isfinite(expected.get(i))) largest_value = std::max(largest_value, std::fabs(expected.get(i)));
    atol = std::max(atol, 1.2e-7 * largest_value);
  }
  for (int64_t i = 0; i < expected.size(); ++i) {
    bool same;
    if (real) {
      double a = actual.get(i), e = expected.get(i), difference = std::fabs(a - e);
      same = a == e || (std::isnan(a) && std::isnan(e)) || difference <= atol + rtol * std::fabs(e);
      if (!std::isnan(difference)) *largest = std::max(*largest, difference);
    } else {
      int64_t a = actual.get_int(i), e = expected.get_int(i);
      same = a == e;
      *largest = std::max(*largest, std::fabs(static_cast<double>(a) - static_cast<double>(e)));
    }
    if (!same && wrong++ == 0) first = i;
  }
  if (wrong == 0) return "";
  return fmt::format("{} of {} elements differ, the first at {}: {} instead of {}", wrong, expected.size(), first,
                     actual.get(first), expected.get(first));
}

VerifyResult verify_onnx_test(const fs::path& folder) {
  VerifyResult result{.folder = folder, .status = VerifyResult::kPassed, .message = {}, .largest_difference = 0};
  try {
    Model model = import_onnx(folder / "model.onnx");
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (!is_data_set(entry.path())) continue;
      std::vector<Tensor> inputs = read_series(entry.path(), "input");
      std::vector<Tensor> expected = read_series(entry.path(), "output");
      if (inputs.size() != model.graph.inputs.size())
        fail(ErrorKind::kModel, "the data set has {} inputs, the model {}", inputs.size(), model.graph.inputs.size());
      std::vector<Tensor> outputs = reference::run_graph(model.graph, inputs);
      if (outputs.size() != expected.size())
        fail(ErrorKind::kModel, "the model has {} outputs, the data set {}", outputs.size(), expected.size());
      for (size_t i = 0; i < outputs.size(); ++i) {
        std::string difference = compare(outputs[i], expected[i], &result.largest_difference);
        if (difference.empty()) continue;
        if (std::string random = random_operator(model.graph); !random.empty())
          fail(ErrorKind::kUnsupported, "{} is random: the outputs of two generators cannot be compared", random);
        result.status = VerifyResult::kFailed;
        result.message = fmt::format("output {} of {}: {}", i, entry.path().filename().string(), difference);
        return result;
      }
    }
  } catch (const Error& e) {
    result.status = e.kind() == ErrorKind::kUnsupported ? VerifyResult::kSkipped : VerifyResult::kFailed;
    result.message = e.what();
  }
  return result;
}

}  // namespace lathe
