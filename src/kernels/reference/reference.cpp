#include "kernels/reference/reference.h"

#include <map>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using Key = std::pair<std::string, std::string>;

std::map<Key, Kernel>& table() {
  static std::map<Key, Kernel> kernels;
  return kernels;
}

}  // namespace

void Registry::add(std::string_view op, Kernel kernel, std::string_view domain) {
  bool added = table().emplace(Key{domain, op}, kernel).second;
  require(added, "reference kernel {} is registered twice", op);
}

Kernel find(std::string_view op, std::string_view domain) {
  static const bool once = [] {
    Registry r;
    for (auto add : {register_elementwise, register_conv, register_matmul, register_normalize,
                     register_reduce, register_shape, register_index, register_create,
                     register_control, register_recurrent, register_attention, register_image,
                     register_quantize, register_signal, register_loss, register_text, register_ml,
                     register_tree, register_fused, register_integer, register_integer_tokens, register_coded})
      add(r);
    return true;
  }();
  (void)once;
  auto it = table().find(Key{std::string(domain), std::string(op)});
  return it == table().end() ? nullptr : it->second;
}

Context::Context(const Node& node, std::vector<Tensor> inputs, std::vector<Tensor> captures)
    : node_(node), inputs_(std::move(inputs)), captures_(std::move(captures)),
      outputs_(node.outputs.size()) {}

// Runs the Op's shape rule on a graph of this one node whose inputs are constants.
void Context::infer_outputs() {
  Graph graph;
  Node copy = node_;
  for (size_t i = 0; i < copy.inputs.size(); ++i)
    copy.inputs[i] = has_input(i) ? graph.add_constant(inputs_[i], "input") : ValueId{};
  for (size_t i = 0; i < copy.captures.size(); ++i)
    copy.captures[i] = graph.add_constant(captures_[i], "capture");
  for (ValueId& output : copy.outputs)
    if (output) output = graph.add_value({});
  std::vector<ValueId> outputs = copy.outputs;
  InferContext context(graph, graph.add_node(std::move(copy)));
  node_.op->infer(context);
  for (ValueId v : outputs) {
    if (!v) {
      inferred_.emplace_back();
      continue;
    }
    const auto& shape = graph[v].shape;
    inferred_.emplace_back(shape && is_static(*shape) ? graph[v].dtype : DType::kUndefined,
                           shape.value_or(Shape{}));
  }
  inferred_done_ = true;
}

Tensor& Context::output(size_t i) {
  if (outputs_[i].defined()) return outputs_[i];
  if (!inferred_done_) infer_outputs();
  auto& [type, shape] = inferred_[i];
  require(type != DType::kUndefined, "the shape of output {} is not known before running", i);
  return allocate(i, type, shape);
}

Tensor& Context::allocate(size_t i, DType type, Shape shape) {
  return outputs_[i] = Tensor(type, std::move(shape));
}

void Context::set_output(size_t i, Tensor tensor) {
  if (has_output(i)) outputs_[i] = std::move(tensor);
}

std::vector<Tensor> run_node(const Node& node, std::vector<Tensor> inputs, std::vector<Tensor> captures) {
  try {
    Kernel kernel = find(node.op->name, node.op->domain);
    if (!kernel) fail(ErrorKind::kUnsupported, "there is no kernel for this operator");
    Context context(node, std::move(inputs), std::move(captures));
    // What makes an input may leave it out: an output that its operator makes only sometimes.
    for (int i = 0; i < node.op->minimum_inputs; ++i) check_model(context.has_input(static_cast<size_t>(i)), "input {} has no value", i);
    kernel(context);
    return context.take_outputs();
  } catch (const Error& e) {
    if (std::string_view(e.what()).starts_with("node '")) throw;
    fail(e.kind(), "node '{}' ({}): {}", node.name, node.op->name, e.what());
  }
}

std::vector<Tensor> run_graph(const Graph& graph, std::vector<Tensor> inputs,
                              std::vector<Tensor> captures) {
  require(inputs.size() == graph.inputs.size() && captures.size() == graph.captured.size(),
          "run_graph: {} inputs for {}", inputs.size(), graph.inputs.size());
  std::vector<Tensor> values(graph.value_count());
  std::vector<int> uses(graph.value_count(), 0);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = graph[ValueId{static_cast<int32_t>(i)}].constant;
  for (size_t i = 0; i < inputs.size(); ++i) values[graph.inputs[i].index] = std::move(inputs[i]);
  for (size_t i = 0; i < captures.size(); ++i) values[graph.captured[i].index] = std::move(captures[i]);
  std::vector<NodeId> order = graph.order();
  for (NodeId id : order)
    for (const auto* list : {&graph[id].inputs, &graph[id].captures})
      for (ValueId v : *list)
        if (v) ++uses[v.index];
  for (ValueId v : graph.outputs) ++uses[v.index];
  auto gather = [&](const std::vector<ValueId>& ids) {
    std::vector<Tensor> tensors(ids.size());
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i]) tensors[i] = values[ids[i].index];
    return tensors;
  };
  for (NodeId id : order) {
    const Node& node = graph[id];
    std::vector<Tensor> outputs = run_node(node, gather(node.inputs), gather(node.captures));
    for (size_t i = 0; i < outputs.size(); ++i)
      if (node.outputs[i] && uses[node.outputs[i].index]) values[node.outputs[i].index] = std::move(outputs[i]);
    for (const auto* list : {&node.inputs, &node.captures})
      for (ValueId v : *list)
        if (v && --uses[v.index] == 0) values[v.index] = {};
  }
  return gather(graph.outputs);
}

}  // namespace lathe::reference
