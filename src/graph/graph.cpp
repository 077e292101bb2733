#include "graph/graph.h"

#include <algorithm>
#include <set>

#include "graph/op.h"

namespace lathe {
namespace {

template <class T>
const T& attribute(const Node& node, std::string_view name) {
  const Attribute* found = nullptr;
  if (auto it = node.attributes.find(name); it != node.attributes.end()) {
    found = &it->second;
  } else if (const AttributeSpec* spec = node.op->find(name)) {
    found = &spec->default_value;
  }
  require(found, "operator {} declares no attribute '{}'", node.op->name, name);
  const T* value = std::get_if<T>(found);
  require(value, "attribute '{}' of {} was read as the wrong type", name, node.op->name);
  return *value;
}

void check_attributes(const Node& node) {
  if (!node.op->supported) return;
  for (const auto& [name, value] : node.attributes) {
    const AttributeSpec* spec = node.op->find(name);
    check_model(spec, "node '{}': operator {} has no attribute '{}'", node.name, node.op->name, name);
    check_model(spec->default_value.index() == value.index(),
                "node '{}': attribute '{}' of {} has the wrong type", node.name, name, node.op->name);
  }
  for (const AttributeSpec& spec : node.op->attributes)
    check_model(!spec.required || node.attributes.contains(spec.name),
                "node '{}': operator {} needs attribute '{}'", node.name, node.op->name, spec.name);
}

void check_arity(const Node& node) {
  auto within = [&](size_t count, int minimum, int maximum, const char* what) {
    check_model(static_cast<int>(count) >= minimum && (maximum < 0 || static_cast<int>(count) <= maximum),
                "node '{}': operator {} takes {} to {} {}, found {}", node.name, node.op->name, minimum,
                maximum, what, count);
  };
  within(node.inputs.size(), node.op->minimum_inputs, node.op->maximum_inputs, "inputs");
  within(node.outputs.size(), node.op->minimum_outputs, node.op->maximum_outputs, "outputs");
  for (int i = 0; i < node.op->minimum_inputs && node.op->maximum_inputs >= 0; ++i)
    check_model(bool(node.inputs[i]), "node '{}': operator {} needs its input {}", node.name,
                node.op->name, i);
}

std::string describe(const Graph& graph, ValueId id) {
  if (!id) return "_";
  const Value& v = graph[id];
  return fmt::format("%{}: {}{}", v.name, name_of(v.dtype), v.shape ? to_string(*v.shape) : "[…]");
}

}  // namespace

bool Node::has(std::string_view name) const { return attributes.find(name) != attributes.end(); }
int64_t Node::get_int(std::string_view name) const { return attribute<int64_t>(*this, name); }
float Node::get_float(std::string_view name) const { return attribute<float>(*this, name); }
const std::string& Node::get_string(std::string_view name) const {
  return attribute<std::string>(*this, name);
}
const std::vector<int64_t>& Node::get_ints(std::string_view name) const {
  return attribute<std::vector<int64_t>>(*this, name);
}
const std::vector<float>& Node::get_floats(std::string_view name) const {
  return attribute<std::vector<float>>(*this, name);
}
const std::vector<std::string>& Node::get_string_list(std::string_view name) const {
  return attribute<std::vector<std::string>>(*this, name);
}
const Tensor& Node::get_tensor(std::string_view name) const { return attribute<Tensor>(*this, name); }
const std::shared_ptr<Graph>& Node::get_graph(std::string_view name) const {
  return attribute<std::shared_ptr<Graph>>(*this, name);
}

ValueId Graph::add_value(Value value) {
  values_.push_back(std::move(value));
  return {static_cast<int32_t>(values_.size()) - 1};
}

ValueId Graph::add_input(std::string input_name, DType type, std::optional<Shape> shape) {
  Value value;
  value.name = std::move(input_name);
  value.dtype = type;
  value.shape = std::move(shape);
  ValueId id = add_value(std::move(value));
  inputs.push_back(id);
  return id;
}

ValueId Graph::add_constant(Tensor tensor, std::string constant_name) {
  Value value;
  value.name = constant_name.empty() ? fresh_name("constant") : std::move(constant_name);
  value.dtype = tensor.dtype();
  value.shape = tensor.shape();
  value.constant = std::move(tensor);
  return add_value(std::move(value));
}

NodeId Graph::add_node(Node node) {
  NodeId id{static_cast<int32_t>(nodes_.size())};
  for (ValueId output : node.outputs)
    if (output) values_[output.index].producer = id;
  nodes_.push_back(std::move(node));
  return id;
}

ValueId Graph::add(std::string_view op, std::vector<ValueId> node_inputs, Attributes attributes,
                   std::string node_name) {
  Node node;
  size_t colon = op.rfind("::");
  node.op = colon == op.npos ? &find_op(op) : &find_op(op.substr(colon + 2), op.substr(0, colon));
  node.name = node_name.empty() ? fresh_name(node.op->name) : std::move(node_name);
  node.inputs = std::move(node_inputs);
  node.attributes = std::move(attributes);
  Value output;
  output.name = node.name;
  ValueId id = add_value(std::move(output));
  node.outputs = {id};
  NodeId added = add_node(std::move(node));
  InferContext context(*this, added);
  nodes_[added.index].op->infer(context);
  return id;
}

std::vector<NodeId> Graph::order() const {
  std::vector<int> waiting(nodes_.size(), 0);
  std::vector<std::vector<int32_t>> readers(nodes_.size());
  std::vector<NodeId> result;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].dead) continue;
    auto depend = [&](ValueId v) {
      if (!v) return;
      NodeId producer = values_[v.index].producer;
      if (!producer) return;
      ++waiting[i];
      readers[producer.index].push_back(static_cast<int32_t>(i));
    };
    for (ValueId v : nodes_[i].inputs) depend(v);
    for (ValueId v : nodes_[i].captures) depend(v);
  }
  // A min-heap by index keeps the order of the file where dependencies leave a choice.
  std::vector<int32_t> ready;
  size_t live = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].dead) continue;
    ++live;
    if (waiting[i] == 0) ready.push_back(static_cast<int32_t>(i));
  }
  std::make_heap(ready.begin(), ready.end(), std::greater<>());
  while (!ready.empty()) {
    std::pop_heap(ready.begin(), ready.end(), std::greater<>());
    int32_t i = ready.back();
    ready.pop_back();
    result.push_back({i});
    for (int32_t reader : readers[i]) {
      if (--waiting[reader] == 0) {
        ready.push_back(reader);
        std::push_heap(ready.begin(), ready.end(), std::greater<>());
      }
    }
  }
  if (result.size() != live) {
    for (size_t i = 0; i < nodes_.size(); ++i)
      if (!nodes_[i].dead && waiting[i] > 0)
        fail(ErrorKind::kModel, "the graph has a cycle through node '{}'", nodes_[i].name);
  }
  return result;
}

std::vector<std::vector<NodeId>> Graph::consumers() const {
  std::vector<std::vector<NodeId>> result(values_.size());
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].dead) continue;
    auto use = [&](ValueId v) {
      if (v && (result[v.index].empty() || result[v.index].back().index != static_cast<int32_t>(i)))
        result[v.index].push_back({static_cast<int32_t>(i)});
    };
    for (ValueId v : nodes_[i].inputs) use(v);
    for (ValueId v : nodes_[i].captures) use(v);
  }
  return result;
}

void Graph::replace_uses(ValueId from, ValueId to) {
  for (Node& node : nodes_) {
    if (node.dead) continue;
    std::replace(node.inputs.begin(), node.inputs.end(), from, to);
    std::replace(node.captures.begin(), node.captures.end(), from, to);
  }
  std::replace(outputs.begin(), outputs.end(), from, to);
}

void Graph::remove(NodeId id) {
  Node& node = nodes_[id.index];
  node.dead = true;
  for (ValueId output : node.outputs)
    if (output && values_[output.index].producer == id) values_[output.index].producer = {};
}

void Graph::compact() {
  std::vector<int32_t> value_map(values_.size(), -1), node_map(nodes_.size(), -1);
  std::vector<Node> nodes;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].dead) continue;
    node_map[i] = static_cast<int32_t>(nodes.size());
    nodes.push_back(std::move(nodes_[i]));
  }
  auto keep = [&](ValueId v) { if (v) value_map[v.index] = 0; };
  for (const auto* list : {&inputs, &outputs, &captured})
    for (ValueId v : *list) keep(v);
  for (const Node& node : nodes)
    for (const auto* list : {&node.inputs, &node.outputs, &node.captures})
      for (ValueId v : *list) keep(v);
  std::vector<Value> values;
  for (size_t i = 0; i < values_.size(); ++i) {
    if (value_map[i] < 0) continue;
    value_map[i] = static_cast<int32_t>(values.size());
    values.push_back(std::move(values_[i]));
    NodeId& producer = values.back().producer;
    if (producer) producer.index = node_map[producer.index];
  }
  auto rename = [&](std::vector<ValueId>& list) {
    for (ValueId& v : list) if (v) v.index = value_map[v.index];
  };
  for (Node& node : nodes) { rename(node.inputs); rename(node.outputs); rename(node.captures); }
  rename(inputs); rename(outputs); rename(captured);
  values_ = std::move(values);
  nodes_ = std::move(nodes);
}

std::string Graph::fresh_name(std::string_view stem) {
  return fmt::format("{}_{}", stem, next_name_++ + static_cast<int64_t>(values_.size()));
}

void verify(const Graph& graph) {
  auto check_id = [&](ValueId v, std::string_view where) {
    check_model(v.index < static_cast<int32_t>(graph.value_count()), "{}: value handle {} is out of range",
                where, v.index);
  };
  std::vector<bool> made(graph.value_count(), false);
  for (const auto* list : {&graph.inputs, &graph.captured})
    for (ValueId v : *list) { check_id(v, "graph inputs"); made[v.index] = true; }
  for (size_t i = 0; i < graph.value_count(); ++i) {
    ValueId v{static_cast<int32_t>(i)};
    if (!graph[v].is_constant()) continue;
    made[i] = true;
    check_model(graph[v].dtype == graph[v].constant.dtype() && graph[v].shape == graph[v].constant.shape(),
                "constant '{}' disagrees with its tensor's type or shape", graph[v].name);
  }
  for (NodeId id : graph.order()) {
    const Node& node = graph[id];
    require(node.op, "node '{}' has no operator", node.name);
    check_arity(node);
    check_attributes(node);
    for (const auto* list : {&node.inputs, &node.captures})
      for (ValueId v : *list) {
        if (!v) continue;
        check_id(v, node.name);
        check_model(made[v.index], "node '{}' ({}) reads value '{}', which nothing makes", node.name,
                    node.op->name, graph[v].name);
      }
    for (ValueId v : node.outputs) {
      if (!v) continue;
      check_id(v, node.name);
      check_model(!made[v.index] && graph[v].producer == id, "value '{}' has two producers", graph[v].name);
      made[v.index] = true;
    }
  }
  for (ValueId v : graph.outputs) {
    check_model(bool(v), "a graph output is missing");
    check_id(v, "graph outputs");
    check_model(made[v.index], "graph output '{}' is made by nothing", graph[v].name);
  }
}

std::string print(const Graph& graph) {
  std::string text;
  for (ValueId v : graph.inputs) text += "input " + describe(graph, v) + "\n";
  for (NodeId id : graph.order()) {
    const Node& node = graph[id];
    for (size_t i = 0; i < node.outputs.size(); ++i)
      text += (i ? ", " : "") + describe(graph, node.outputs[i]);
    text += " = " + node.op->name + "(";
    for (size_t i = 0; i < node.inputs.size(); ++i)
      text += (i ? ", %" : "%") + (node.inputs[i] ? graph[node.inputs[i]].name : std::string("_"));
    text += ")\n";
  }
  for (ValueId v : graph.outputs) text += "output %" + graph[v].name + "\n";
  return text;
}

}  // namespace lathe
