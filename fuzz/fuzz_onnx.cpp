// Bytes → model → clean graph → plan. Only lathe::Error may come out, and memory stays small.
#include <string_view>

#include "formats/onnx.h"
#include "planner/plan.h"
#include "runtime/inspect.h"
#include "transform/passes.h"

using namespace lathe;

namespace {

constexpr int64_t kLargest = int64_t{1} << 24;  // bytes of one tensor; larger ones only cost time here

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
    for (ValueId v : model.graph.inputs) {
      if (!model.graph[v].shape) continue;
      Shape shape = *model.graph[v].shape;
      for (int64_t& n : shape)
        if (n < 0) n = 2;
      options.input_shapes[model.graph[v].name] = shape;
    }
    specialize(model.graph, options.input_shapes);
    if (!is_small(model.graph)) return 0;
    make_plan(std::move(model.graph), options);
  } catch (const Error&) {
  }
  return 0;
}
