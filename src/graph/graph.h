// The network: Values joined by Nodes. A Node applies an Op (graph/op.h) with attributes to input Values
// and makes output Values; ONNX semantics throughout. Values and Nodes are named by index handles, which
// stay valid while a transform adds others; removed Nodes stay in place, marked dead, until compact().
//
//   Graph g;
//   ValueId x = g.add_input("x", DType::kF32, {1, 3, 224, 224});
//   ValueId y = g.add("Relu", {x});
//   g.outputs = {y};
//   verify(g);
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/tensor.h"

namespace lathe {

class Graph;
struct Op;

struct ValueId {
  int32_t index = -1;  // -1: an omitted optional input or output
  explicit operator bool() const { return index >= 0; }
  auto operator<=>(const ValueId&) const = default;
};
struct NodeId {
  int32_t index = -1;
  explicit operator bool() const { return index >= 0; }
  auto operator<=>(const NodeId&) const = default;
};

// Attributes keep the types of the ONNX standard. An Op declares the names and types it knows, with
// defaults (graph/op.h); reading one that the Op does not declare is a defect and throws kInternal.
using Attribute = std::variant<int64_t, float, std::string, Tensor, std::vector<int64_t>,
                               std::vector<float>, std::vector<std::string>, std::shared_ptr<Graph>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

struct Value {
  std::string name;
  DType dtype = DType::kUndefined;
  std::optional<Shape> shape;  // nullopt: not even the rank is known
  std::vector<std::string> dim_names;  // graph inputs and outputs: symbol of each unknown size, or ""
  Tensor constant;             // defined for constants
  NodeId producer;             // none for inputs and constants
  bool is_constant() const { return constant.defined(); }
};
// Of all its elements. The shape must be known.
inline int64_t bytes_of(const Value& v) { return element_count(*v.shape) * static_cast<int64_t>(size_of(v.dtype)); }

struct Node {
  const Op* op = nullptr;
  std::shared_ptr<const Op> own_op;  // what `op` points at where lathe does not know the operator
  std::string name;
  std::string scope;  // where the node stands in the model: "blocks.3.attn"
  std::vector<ValueId> inputs, outputs;
  // Values of the enclosing graph that the subgraph attributes read, subgraph after subgraph in the
  // order of attribute names (see Graph::captured).
  std::vector<ValueId> captures;
  Attributes attributes;
  bool dead = false;

  // Typed access; falls back to the Op's default. `has` is true only for attributes that were given.
  bool has(std::string_view attribute) const;
  int64_t get_int(std::string_view attribute) const;
  float get_float(std::string_view attribute) const;
  const std::string& get_string(std::string_view attribute) const;
  const std::vector<int64_t>& get_ints(std::string_view attribute) const;  // empty when not given
  const std::vector<float>& get_floats(std::string_view attribute) const;
  const std::vector<std::string>& get_string_list(std::string_view attribute) const;
  const Tensor& get_tensor(std::string_view attribute) const;
  const std::shared_ptr<Graph>& get_graph(std::string_view attribute) const;
};

class Graph {
 public:
  std::string name;
  std::vector<ValueId> inputs, outputs;
  std::vector<ValueId> captured;  // subgraphs only: inner Values that stand for outer ones

  ValueId add_value(Value value);
  ValueId add_input(std::string name, DType type, std::optional<Shape> shape);
  ValueId add_constant(Tensor tensor, std::string name = "");
  // Adds a node; outputs are made by the caller's choice of count (1 by default) and named after it.
  NodeId add_node(Node node);
  ValueId add(std::string_view op, std::vector<ValueId> inputs, Attributes attributes = {},
              std::string name = "");

  Value& operator[](ValueId id) { return values_[id.index]; }
  const Value& operator[](ValueId id) const { return values_[id.index]; }
  Node& operator[](NodeId id) { return nodes_[id.index]; }
  const Node& operator[](NodeId id) const { return nodes_[id.index]; }
  size_t value_count() const { return values_.size(); }
  size_t node_count() const { return nodes_.size(); }  // dead ones included

  // Live nodes in an order in which every value is made before it is used. Throws kModel on a cycle.
  std::vector<NodeId> order() const;
  // For each value, the live nodes that read it (captures included), each once.
  std::vector<std::vector<NodeId>> consumers() const;
  // Every use of `from`, graph outputs included, becomes a use of `to`.
  void replace_uses(ValueId from, ValueId to);
  void remove(NodeId id);  // marks it dead; its outputs lose their producer
  void compact();          // drops dead nodes and values that nothing mentions; handles change
  std::string fresh_name(std::string_view stem);

 private:
  std::vector<Value> values_;
  std::vector<Node> nodes_;
  int64_t next_name_ = 0;
};

// Checks every invariant: handles in range, one producer a value, arity and attributes as the Op declares,
// no cycle, outputs made. Throws kModel with the node's name.
void verify(const Graph& graph);
// One line a node, for tests and debugging: %y: f32[1, 8] = Relu(%x)
std::string print(const Graph& graph);

}  // namespace lathe
