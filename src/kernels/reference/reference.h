// Reference kernels: plain loops for every operator, in double precision where it helps. They are the
// oracle that every fast kernel is tested against, fold constants, and run what has no fast kernel.
// One file a family, named like the family in graph/ops/.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "graph/op.h"

namespace lathe::reference {

// What one execution of a node sees.
class Context {
 public:
  Context(const Node& node, std::vector<Tensor> inputs, std::vector<Tensor> captures);
  const Node& node() const { return node_; }
  size_t input_count() const { return inputs_.size(); }
  bool has_input(size_t i) const { return i < inputs_.size() && inputs_[i].defined(); }
  const Tensor& input(size_t i = 0) const { return inputs_[i]; }
  const std::vector<Tensor>& captures() const { return captures_; }
  size_t output_count() const { return node_.outputs.size(); }
  bool has_output(size_t i) const { return i < output_count() && node_.outputs[i]; }
  // Output i, allocated from the Op's shape rule when that gives a full shape (inputs' values included);
  // operators whose output shapes depend on data call allocate() themselves.
  Tensor& output(size_t i = 0);
  Tensor& allocate(size_t i, DType type, Shape shape);
  void set_output(size_t i, Tensor tensor);  // shares the elements (Identity, Reshape)
  std::vector<Tensor> take_outputs() { return std::move(outputs_); }

 private:
  void infer_outputs();
  const Node& node_;
  std::vector<Tensor> inputs_, captures_, outputs_;
  std::vector<std::pair<DType, Shape>> inferred_;
  bool inferred_done_ = false;
};

using Kernel = void (*)(Context&);

// The kernel of an operator, or nullptr.
Kernel find(std::string_view op, std::string_view domain = "");

class Registry {
 public:
  void add(std::string_view op, Kernel kernel, std::string_view domain = "");
};

// Runs one node. Errors name the node and operator.
std::vector<Tensor> run_node(const Node& node, std::vector<Tensor> inputs,
                             std::vector<Tensor> captures = {});
// Runs a whole graph, node by node. `inputs` in the order of graph.inputs, `captures` of graph.captured.
std::vector<Tensor> run_graph(const Graph& graph, std::vector<Tensor> inputs,
                              std::vector<Tensor> captures = {});

}  // namespace lathe::reference
