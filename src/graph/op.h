// What a Node can do: an Op knows its name, its arity, its attributes with their defaults, its rule for
// output types and shapes, and its multiply–accumulate count. Ops are declared in graph/ops/, one file a
// family; how they are executed is told by kernels/. lathe holds every network in one version of the
// operator sets (kOnnxOpset); the importer upgrades older forms (formats/onnx_upgrade.cpp).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace lathe {

constexpr int kOnnxOpset = 23;               // what lathe holds and exports, where it can
constexpr std::string_view kLatheDomain = "ai.lathe";  // operators that fusion makes

struct AttributeSpec {
  std::string name;
  // Also tells the type, for required attributes too.
  Attribute default_value;
  bool required = false;
};

// Given to an Op's shape rule. Inputs are known as far as `graph` knows them.
class InferContext {
 public:
  InferContext(Graph& graph, NodeId node) : graph_(graph), id_(node) {}
  const Node& node() const { return graph_[id_]; }
  Graph& graph() { return graph_; }
  size_t input_count() const { return node().inputs.size(); }
  size_t output_count() const { return node().outputs.size(); }
  bool has_input(size_t i) const { return i < input_count() && node().inputs[i]; }
  bool has_output(size_t i) const { return i < output_count() && node().outputs[i]; }
  const Value& input(size_t i) const { return graph_[node().inputs[i]]; }
  DType dtype(size_t i = 0) const { return input(i).dtype; }
  const std::optional<Shape>& shape(size_t i = 0) const { return input(i).shape; }
  // The rank; throws kModel when it is not `rank`. Unknown shapes pass.
  void expect_rank(size_t i, size_t minimum, size_t maximum) const;
  // The input's elements when it is a constant and still has them, else nullptr.
  const Tensor* constant(size_t i) const;
  void set_output(size_t i, DType type, std::optional<Shape> shape = std::nullopt);

 private:
  Graph& graph_;
  NodeId id_;
};

struct Op {
  std::string name;
  std::string domain = {};    // "" for ai.onnx
  int minimum_inputs = 1, maximum_inputs = 1;    // maximum −1: any number
  int minimum_outputs = 1, maximum_outputs = 1;
  std::vector<AttributeSpec> attributes = {};
  // Sets type and, as far as known, shape of every output. Throws kModel for impossible inputs.
  std::function<void(InferContext&)> infer = {};
  // Multiply–accumulates for the given static shapes; null: none.
  std::function<int64_t(const Graph&, const Node&)> macs = {};
  bool supported = true;      // false: an operator that lathe does not know, kept for inspection
  bool in_files = false;      // of ai.lathe: a file may hold it, since its shape rule checks all that kernels rely on
  bool deterministic = true;  // false: random operators, never folded or merged

  const AttributeSpec* find(std::string_view attribute) const;
};

// All known operators. Throws kUnsupported naming the operator when unknown.
const Op& find_op(std::string_view name, std::string_view domain = "");
const Op* find_op_or_null(std::string_view name, std::string_view domain = "");
std::vector<const Op*> all_ops();
// A stand-in for an operator that is not known: any arity and attributes, outputs unknown. Its nodes own it
// (Node::own_op), so that a process which reads many files keeps the names of none.
std::shared_ptr<const Op> make_unknown_op(std::string_view name, std::string_view domain);

// For graph/ops: `add` throws when a name is declared twice.
class OpRegistry {
 public:
  void add(Op op);
};

// Shape rules shared by many operators.
namespace infer {
void same_as_first(InferContext&);     // output 0 has type and shape of input 0
void broadcast_all(InferContext&);     // numpy broadcasting of all inputs; type of input 0
void broadcast_to_bool(InferContext&);
}  // namespace infer

// Runs every node's shape rule in order. Input types and shapes must be set; the rest is overwritten.
// Subgraphs are inferred by the control-flow operators' own rules.
void infer_shapes(Graph& graph);

}  // namespace lathe
