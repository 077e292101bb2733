#include "runtime/inspect.h"

#include <limits>

#include "kernels/reference/reference.h"
#include "runtime/load.h"

namespace lathe {
namespace {

// Weights are floats, or 8-bit and narrower integers of a quantized network; indices and shapes are not.
bool is_weight(DType type) { return is_float(type) || (is_integer(type) && bits_of(type) <= 8); }

int64_t count_parameters(const Graph& graph) {
  int64_t count = 0;
  std::vector<bool> seen(graph.value_count(), false);
  for (NodeId id : graph.order())
    for (ValueId v : graph[id].inputs) {
      if (!v || seen[v.index] || !graph[v].is_constant() || !is_weight(graph[v].dtype)) continue;
      seen[v.index] = true;
      count += graph[v].constant.size();
    }
  return count;
}

// A model that is only read may claim any size.
int64_t add_bytes(int64_t sum, const Shape& shape, DType type) {
  int64_t bytes;
  if (__builtin_mul_overflow(element_count(shape), static_cast<int64_t>(size_of(type)), &bytes) ||
      __builtin_add_overflow(sum, bytes, &sum))
    return std::numeric_limits<int64_t>::max();
  return sum;
}

std::string full_name(const Op& op) { return op.domain.empty() ? op.name : op.domain + "::" + op.name; }

// Subgraphs of If, Loop and Scan included.
void find_problems(const Graph& graph, std::vector<std::string>& problems) {
  for (NodeId id : graph.order()) {
    const Node& n = graph[id];
    if (!n.op->supported)
      problems.push_back(fmt::format("node '{}': operator {} is not supported", n.name, full_name(*n.op)));
    else if (!reference::find(n.op->name, n.op->domain))
      problems.push_back(fmt::format("node '{}': operator {} has no kernel", n.name, full_name(*n.op)));
    for (const auto& [name, attribute] : n.attributes)
      if (const auto* inner = std::get_if<std::shared_ptr<Graph>>(&attribute); inner && *inner)
        find_problems(**inner, problems);
  }
}

}  // namespace

Inspection inspect(const Model& model) {
  Inspection result{.summary = {}, .sized = model.graph};
  NetworkSummary& s = result.summary;
  s.producer = model.producer;
  s.opsets = model.opsets;
  for (NodeId id : model.graph.order()) {
    ++s.operators[full_name(*model.graph[id].op)];
    ++s.nodes;
  }
  s.parameters = count_parameters(model.graph);
  s.problems = model.problems;
  find_problems(model.graph, s.problems);
  Graph& g = result.sized;
  if (s.problems.empty()) {
    try {
      auto shapes = default_input_shapes(g);
      for (ValueId v : g.inputs)
        if (auto found = shapes.find(g[v].name); found != shapes.end()) g[v].shape = found->second;
      infer_shapes(g);
    } catch (const Error&) {
      g = model.graph;  // sizes of 1 are no problem of the model's: others may well be possible
    }
  }
  s.macs = count_macs(g);
  for (NodeId id : g.order())
    for (ValueId v : g[id].outputs)
      if (v && g[v].shape && is_static(*g[v].shape))
        s.activation_bytes = add_bytes(s.activation_bytes, *g[v].shape, g[v].dtype);
  return result;
}

TensorInfo describe(const Value& value) {
  TensorInfo info{.name = value.name, .dtype = value.dtype, .ranked = value.shape.has_value(), .shape = value.shape.value_or(Shape{}), .symbols = {}};
  info.symbols.resize(info.shape.size());
  for (size_t i = 0; i < info.shape.size() && i < value.dim_names.size(); ++i)
    if (info.shape[i] < 0) info.symbols[i] = value.dim_names[i];
  return info;
}

std::string shape_text(const Value& value) {
  if (!value.shape) return "[…]";
  TensorInfo info = describe(value);
  std::string text = "[";
  for (size_t i = 0; i < info.shape.size(); ++i) {
    std::string open = info.symbols[i].empty() ? "?" : info.symbols[i];
    text += fmt::format("{}{}", i ? ", " : "", info.shape[i] < 0 ? open : std::to_string(info.shape[i]));
  }
  return text + "]";
}

}  // namespace lathe
