#include <algorithm>
#include <span>

#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

// What a shape rule knows about a value.
struct Known {
  DType dtype = DType::kUndefined;
  std::optional<Shape> shape;
  bool operator==(const Known&) const = default;
};

Known known(const Value& value) { return {value.dtype, value.shape}; }

// What holds for both: sizes that differ become unknown.
Known merge(const Known& a, const Known& b) {
  Known result = a;
  if (a.dtype == DType::kUndefined) result.dtype = b.dtype;
  check_model(b.dtype == DType::kUndefined || result.dtype == b.dtype,
              "one value has type {} in one branch or iteration and {} in another", name_of(a.dtype), name_of(b.dtype));
  if (!a.shape || !b.shape || a.shape->size() != b.shape->size()) {
    result.shape.reset();
    return result;
  }
  for (size_t i = 0; i < a.shape->size(); ++i)
    if ((*a.shape)[i] != (*b.shape)[i]) (*result.shape)[i] = kUnknownDim;
  return result;
}

// A subgraph attribute seen from its node: inference on it with what is known outside.
class Body {
 public:
  Body(InferContext& c, const char* attribute) : graph_(c.node().get_graph(attribute)) {
    check_model(bool(graph_), "attribute '{}' holds no graph", attribute);
    const Node& node = c.node();
    size_t skip = 0, total = 0;  // captures follow the order of attribute names
    for (const auto& [name, value] : node.attributes) {
      const auto* other = std::get_if<std::shared_ptr<Graph>>(&value);
      if (!other || !*other) continue;
      if (name == attribute) skip = total;
      total += (*other)->captured.size();
    }
    check_model(node.captures.size() == total, "the subgraphs capture {} values, the node lists {}", total,
                node.captures.size());
    for (size_t i = 0; i < graph_->captured.size(); ++i) {
      const Value& outer = c.graph()[node.captures[skip + i]];
      Value& inner = (*graph_)[graph_->captured[i]];
      inner.dtype = outer.dtype;
      inner.shape = outer.shape;
      constants_.push_back(outer.constant);
    }
  }

  void expect(size_t inputs, size_t minimum_outputs) const {
    check_model(graph_->inputs.size() == inputs && graph_->outputs.size() >= minimum_outputs,
                "the body has {} inputs and {} outputs, expected {} and at least {}", graph_->inputs.size(),
                graph_->outputs.size(), inputs, minimum_outputs);
  }

  // The subgraph's outputs for these inputs. Captured constants are visible while the rules run only: the
  // graph may be run with others.
  std::vector<Known> infer(std::span<const Known> inputs) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      Value& value = (*graph_)[graph_->inputs[i]];
      value.dtype = inputs[i].dtype;
      value.shape = inputs[i].shape;
    }
    set_constants(true);
    try {
      infer_shapes(*graph_);
    } catch (...) {
      set_constants(false);
      throw;
    }
    set_constants(false);
    std::vector<Known> outputs;
    for (ValueId id : graph_->outputs) outputs.push_back(known((*graph_)[id]));
    return outputs;
  }

  // Like infer, for a body that runs again on its own outputs: the first `count` outputs from
  // `first_output` on feed the inputs from `first_input` on. Widens those inputs until they hold for every
  // iteration.
  std::vector<Known> infer_loop(std::vector<Known>& inputs, size_t first_input, size_t first_output, size_t count) {
    // Each pass makes at least one size unknown, or the rank; more than a few means shapes that keep growing.
    for (int pass = 0;; ++pass) {
      std::vector<Known> outputs = infer(inputs);
      bool stable = true;
      for (size_t i = 0; i < count; ++i) {
        Known wider = merge(inputs[first_input + i], outputs[first_output + i]);
        if (wider == inputs[first_input + i]) continue;
        stable = false;
        inputs[first_input + i] = wider;
        if (pass >= 8) inputs[first_input + i].shape.reset();
      }
      if (stable) return outputs;
    }
  }

 private:
  void set_constants(bool visible) {
    for (size_t i = 0; i < constants_.size(); ++i)
      (*graph_)[graph_->captured[i]].constant = visible ? constants_[i] : Tensor();
  }
  std::shared_ptr<Graph> graph_;
  std::vector<Tensor> constants_;
};

void infer_if(InferContext& c) {
  const Tensor* condition = c.constant(0);
  check_model(!condition || condition->size() == 1, "the condition must be one value");
  std::optional<std::vector<Known>> result;
  std::optional<Error> failure;
  for (const char* name : {"then_branch", "else_branch"}) {
    bool is_then = std::string_view(name) == "then_branch";
    if (condition && (condition->get_int(0) != 0) != is_then) continue;
    Body body(c, name);
    body.expect(0, c.output_count());
    std::vector<Known> outputs;
    try {
      outputs = body.infer({});
    } catch (const Error& e) {
      // A branch may be impossible for these very shapes and never taken (models guard Squeeze this way).
      if (failure || condition || e.kind() != ErrorKind::kModel) throw;
      failure = e;
      outputs.resize(c.output_count());
    }
    if (!result) {
      result = outputs;
    } else {
      for (size_t i = 0; i < c.output_count(); ++i) (*result)[i] = merge((*result)[i], outputs[i]);
    }
  }
  for (size_t i = 0; i < c.output_count(); ++i) c.set_output(i, (*result)[i].dtype, (*result)[i].shape);
}

void with_new_axis(std::optional<Shape>& shape, int64_t axis, int64_t size) {
  if (shape) shape->insert(shape->begin() + normalize_axis(axis, static_cast<int64_t>(shape->size()) + 1), size);
}

// Inputs: trip count, condition, carried values. Outputs: carried values, then stacked ones.
void infer_loop(InferContext& c) {
  check_model(c.input_count() >= 2, "Loop needs a trip count and a condition, even if empty");
  size_t carried = c.input_count() - 2;
  Body body(c, "body");
  body.expect(2 + carried, 1 + carried);
  check_model(c.node().get_graph("body")->outputs.size() == 1 + c.output_count(),
              "Loop has {} outputs, its body makes {}", c.output_count(), c.node().get_graph("body")->outputs.size() - 1);
  std::vector<Known> inputs = {{DType::kI64, Shape{}}, {DType::kBool, Shape{}}};
  for (size_t i = 0; i < carried; ++i) {
    check_model(c.has_input(2 + i), "Loop: carried value {} is missing", i);
    inputs.push_back(known(c.input(2 + i)));
  }
  std::vector<Known> outputs = body.infer_loop(inputs, 2, 1, carried);
  for (size_t i = 0; i < c.output_count(); ++i) {
    Known result = i < carried ? inputs[2 + i] : outputs[1 + i];
    if (i >= carried) with_new_axis(result.shape, 0, kUnknownDim);
    c.set_output(i, result.dtype, result.shape);
  }
}

int64_t entry(const Ints& list, size_t i) { return list.empty() ? 0 : list[i]; }

// Inputs: state values, then sequences. Outputs: state values, then stacked ones.
void infer_scan(InferContext& c) {
  int64_t sequences = c.node().get_int("num_scan_inputs");
  check_model(sequences >= 1 && sequences <= static_cast<int64_t>(c.input_count()), "num_scan_inputs is {} of {} inputs",
              sequences, c.input_count());
  size_t states = c.input_count() - sequences;
  check_model(c.output_count() >= states, "Scan has {} states and only {} outputs", states, c.output_count());
  size_t stacked = c.output_count() - states;
  Body body(c, "body");
  body.expect(c.input_count(), c.output_count());
  const Ints &in_axes = c.node().get_ints("scan_input_axes"), &out_axes = c.node().get_ints("scan_output_axes");
  const Ints &in_directions = c.node().get_ints("scan_input_directions"),
             &out_directions = c.node().get_ints("scan_output_directions");
  for (const auto& [list, count, name] :
       {std::tuple{&in_axes, static_cast<size_t>(sequences), "scan_input_axes"}, std::tuple{&out_axes, stacked, "scan_output_axes"},
        std::tuple{&in_directions, static_cast<size_t>(sequences), "scan_input_directions"},
        std::tuple{&out_directions, stacked, "scan_output_directions"}})
    check_model(list->empty() || list->size() == count, "{} has {} entries, expected {}", name, list->size(), count);
  std::vector<Known> inputs;
  int64_t length = kUnknownDim;
  for (size_t i = 0; i < c.input_count(); ++i) {
    check_model(c.has_input(i), "Scan: input {} is missing", i);
    inputs.push_back(known(c.input(i)));
    auto& shape = inputs.back().shape;
    if (i < states || !shape) continue;
    int64_t axis = normalize_axis(entry(in_axes, i - states), static_cast<int64_t>(shape->size()));
    int64_t size = (*shape)[axis];
    check_model(size < 0 || length < 0 || size == length, "Scan over sequences of different lengths, {} and {}", length, size);
    length = std::max(length, size);
    shape->erase(shape->begin() + axis);
  }
  std::vector<Known> outputs = body.infer_loop(inputs, 0, 0, states);
  for (size_t i = 0; i < c.output_count(); ++i) {
    Known result = i < states ? inputs[i] : outputs[i];
    if (i >= states) with_new_axis(result.shape, entry(out_axes, i - states), length);
    c.set_output(i, result.dtype, result.shape);
  }
}

}  // namespace

void declare_control(OpRegistry& r) {
  std::shared_ptr<Graph> none;
  r.add({.name = "If", .maximum_outputs = -1, .attributes = {{"then_branch", none, true}, {"else_branch", none, true}},
         .infer = infer_if});
  // Trip count and condition may both be empty, so none counts as required here; the rule asks for two.
  r.add({.name = "Loop", .minimum_inputs = 0, .maximum_inputs = -1, .maximum_outputs = -1,
         .attributes = {{"body", none, true}}, .infer = infer_loop});
  r.add({.name = "Scan", .maximum_inputs = -1, .maximum_outputs = -1,
         .attributes = {{"body", none, true}, {"num_scan_inputs", int64_t{1}, true}, {"scan_input_axes", Ints()},
                        {"scan_input_directions", Ints()}, {"scan_output_axes", Ints()},
                        {"scan_output_directions", Ints()}},
         .infer = infer_scan});
}

}  // namespace lathe::ops
