// Bytes → model → inspection, and → clean graph → plan → one run. Only lathe::Error may come out, and memory stays small.
#include <algorithm>
#include <string_view>

#include "formats/onnx.h"
#include "planner/plan.h"
#include "runtime/inspect.h"
#include "runtime/load.h"
#include "runtime/session.h"
#include "transform/passes.h"

using namespace lathe;

namespace {

constexpr int64_t kLargest = int64_t{1} << 20;  // elements of a tensor, and multiply–accumulates; more only costs time here

bool is_small(const Graph& graph) {
  for (size_t i = 0; i < graph.value_count(); ++i) {
    const Value& v = graph[ValueId{static_cast<int32_t>(i)}];
    if (v.shape && is_static(*v.shape) && element_count(*v.shape) > kLargest) return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    inspect(import_onnx_bytes({reinterpret_cast<const char*>(data), size}, {}, {.allow_unknown = true}));
  } catch (const Error&) {
  }
  try {
    Model model = import_onnx_bytes({reinterpret_cast<const char*>(data), size});
    if (!is_small(model.graph)) return 0;
    clean_up(model.graph);
    PlanOptions options;
    options.input_shapes = default_input_shapes(model.graph, 2, 2);
    specialize(model.graph, options.input_shapes);
    if (!is_small(model.graph)) return 0;
    Plan plan = make_plan(std::move(model.graph), options);
    if (plan.arena_bytes > kLargest * 8 || count_macs(plan.graph) > kLargest) return 0;
    // Steps whose sizes depend on data may loop or grow as long as they like.
    if (std::any_of(plan.steps.begin(), plan.steps.end(), [](const Step& s) { return s.dynamic; })) return 0;
    std::vector<Tensor> inputs = random_inputs(plan.graph, 1);
    Session(std::move(plan)).run(inputs);
  } catch (const Error&) {
  }
  return 0;
}
