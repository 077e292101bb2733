// What changed between operator sets 1 and 23, operator by operator (onnx/docs/Changelog.md).
#include "formats/onnx_upgrade.h"

#include <limits>
#include <optional>
#include <set>

#include "graph/op.h"

namespace lathe::onnx_io {
namespace {

using Ints = std::vector<int64_t>;

struct Upgrade {
  Graph& graph;
  RawNode& node;
  int64_t version;
  std::vector<RawNode> before, after;

  bool has(const char* name) const { return node.attributes.contains(name); }
  template <class T>
  T take(const char* name, T fallback) {
    auto it = node.attributes.find(name);
    if (it == node.attributes.end()) return fallback;
    T* value = std::get_if<T>(&it->second);
    check_model(value, "attribute '{}' has the wrong type", name);
    T result = *value;
    node.attributes.erase(it);
    return result;
  }
  void drop(std::initializer_list<const char*> names) {
    for (const char* name : names) node.attributes.erase(name);
  }
  void set_input(size_t index, ValueId value) {
    if (node.inputs.size() <= index) node.inputs.resize(index + 1);
    node.inputs[index] = value;
  }
  // Attribute `name`, when given, becomes input `index`.
  void ints_to_input(const char* name, size_t index) {
    if (has(name)) set_input(index, graph.add_constant(Tensor::of_i64(take<Ints>(name, {}))));
  }
  // A copy: what the graph holds moves when values are added.
  std::optional<Shape> shape(size_t input) const {
    return input < node.inputs.size() && node.inputs[input] ? graph[node.inputs[input]].shape : std::nullopt;
  }
  ValueId emit(std::vector<RawNode>& where, const char* op, std::vector<ValueId> inputs,
               Attributes attributes = {}) {
    Value value;
    value.name = graph.fresh_name(node.name.empty() ? op : node.name);
    ValueId output = graph.add_value(std::move(value));
    where.push_back({op, "", graph[output].name, node.scope, std::move(inputs), {output}, {}, std::move(attributes)});
    return output;
  }
  // The rules rewrite nodes before their arity is checked.
  void expect_inputs(size_t count) const {
    check_model(node.inputs.size() >= count, "needs {} inputs, found {}", count, node.inputs.size());
    for (size_t i = 0; i < count; ++i) check_model(bool(node.inputs[i]), "input {} is missing", i);
  }
  ValueId scalar(int64_t value) {
    Tensor t(DType::kI64, {});
    t.set_int(0, value);
    return graph.add_constant(std::move(t));
  }
  // A constant of the first input's type.
  ValueId constant_like_input(double value) {
    expect_inputs(1);
    DType type = graph[node.inputs[0]].dtype;
    Tensor t(type == DType::kUndefined ? DType::kF32 : type, {});
    t.set(0, value);
    return graph.add_constant(std::move(t));
  }
};

// Before opset 7, operands were broadcast only on demand, from a given axis on.
void align_broadcast(Upgrade& u) {
  if (u.node.op == "PRelu") {  // the slope lay along axis 1
    std::optional<Shape> x = u.shape(0), slope = u.shape(1);
    if (x && slope && slope->size() == 1 && x->size() > 2) {
      Ints axes;
      for (size_t i = 1; i + 1 < x->size(); ++i) axes.push_back(static_cast<int64_t>(i));
      u.node.inputs[1] = u.emit(u.before, "Unsqueeze", {u.node.inputs[1], u.graph.add_constant(Tensor::of_i64(axes))});
    }
    return;
  }
  bool asked = u.take<int64_t>("broadcast", 0) != 0;
  int64_t axis = u.take<int64_t>("axis", std::numeric_limits<int64_t>::min());
  if (!asked || axis == std::numeric_limits<int64_t>::min() || u.node.inputs.size() != 2) return;
  std::optional<Shape> a = u.shape(0), b = u.shape(1);
  check_model(a && b, "broadcasting from axis {} needs operands of known rank", axis);
  auto rank = static_cast<int64_t>(a->size());
  axis = normalize_axis(axis, rank);
  Ints axes;
  for (int64_t i = axis + static_cast<int64_t>(b->size()); i < rank; ++i) axes.push_back(i - axis);
  if (axes.empty()) return;
  ValueId list = u.graph.add_constant(Tensor::of_i64(axes));
  u.node.inputs[1] = u.emit(u.before, "Unsqueeze", {u.node.inputs[1], list});
}

// Before opset 13, Softmax and its like worked on the input flattened to two dimensions at `axis`.
void flatten_softmax(Upgrade& u) {
  u.expect_inputs(1);
  check_model(!u.node.outputs.empty() && bool(u.node.outputs[0]), "makes no output");
  int64_t axis = u.take<int64_t>("axis", 1);
  std::optional<Shape> shape = u.shape(0);
  u.node.attributes["axis"] = int64_t{-1};
  if (shape && normalize_axis(axis, static_cast<int64_t>(shape->size())) == static_cast<int64_t>(shape->size()) - 1)
    return;
  ValueId x = u.node.inputs[0], result = u.node.outputs[0];
  ValueId sizes = u.emit(u.before, "Shape", {x});
  u.node.inputs[0] = u.emit(u.before, "Flatten", {x}, {{"axis", axis}});
  Value flat;
  flat.name = u.graph.fresh_name(u.node.name);
  u.node.outputs[0] = u.graph.add_value(std::move(flat));
  u.after.push_back({"Reshape", "", u.node.name + "_shape", u.node.scope, {u.node.outputs[0], sizes}, {result}, {}, {}});
}

void upgrade_resize(Upgrade& u) {
  auto& node = u.node;
  if (node.op == "Upsample") {
    if (u.version < 9) {
      auto scales = u.take<std::vector<float>>("scales", {});
      if (scales.empty()) {
        float height = u.take<float>("height_scale", 1), width = u.take<float>("width_scale", 1);
        scales = {1, 1, height, width};
      }
      u.set_input(1, u.graph.add_constant(Tensor::of_f32({static_cast<int64_t>(scales.size())}, scales)));
    }
    node.op = "Resize";
  } else if (u.version >= 11) {
    return;
  }
  std::string mode = u.take<std::string>("mode", "nearest");
  node.attributes["mode"] = mode == "bilinear" ? std::string("linear") : mode;
  node.attributes["coordinate_transformation_mode"] = std::string("asymmetric");
  node.attributes["nearest_mode"] = std::string("floor");
  u.expect_inputs(2);
  ValueId scales = node.inputs[1];
  node.inputs = {node.inputs[0], {}, scales};
}

void upgrade_slice(Upgrade& u) {
  Ints starts = u.take<Ints>("starts", {}), ends = u.take<Ints>("ends", {}), axes = u.take<Ints>("axes", {});
  u.set_input(1, u.graph.add_constant(Tensor::of_i64(starts)));
  u.set_input(2, u.graph.add_constant(Tensor::of_i64(ends)));
  if (!axes.empty()) u.set_input(3, u.graph.add_constant(Tensor::of_i64(axes)));
}

void upgrade_pad(Upgrade& u) {
  Ints pads = u.take<Ints>(u.version < 2 ? "paddings" : "pads", {});
  float value = u.take<float>("value", 0);
  u.set_input(1, u.graph.add_constant(Tensor::of_i64(pads)));
  u.set_input(2, u.constant_like_input(value));
}

void upgrade_clip(Upgrade& u) {
  bool low = u.has("min"), high = u.has("max");
  float minimum = u.take<float>("min", 0), maximum = u.take<float>("max", 0);
  if (low) u.set_input(1, u.constant_like_input(minimum));
  if (high) u.set_input(2, u.constant_like_input(maximum));
}

// Opset 18 scaled groups, opset 21 scales channels.
void upgrade_group_norm(Upgrade& u) {
  std::optional<Shape> x = u.shape(0);
  for (size_t i : {1, 2}) {
    std::optional<Shape> s = u.shape(i);
    check_model(x && s && x->size() >= 2 && s->size() == 1 && (*x)[1] > 0 && (*s)[0] > 0 && (*x)[1] % (*s)[0] == 0,
                "GroupNormalization of opset 18 needs known shapes");
    int64_t groups = (*s)[0], each = (*x)[1] / groups;
    auto ints = [&](Ints v) { return u.graph.add_constant(Tensor::of_i64(v)); };
    ValueId column = u.emit(u.before, "Reshape", {u.node.inputs[i], ints({groups, 1})});
    ValueId wide = u.emit(u.before, "Expand", {column, ints({groups, each})});
    u.node.inputs[i] = u.emit(u.before, "Reshape", {wide, ints({-1})});
  }
}

// The body of the Loop that stands for a Scan of opset 8.
class BatchBody {
 public:
  explicit BatchBody(const Graph& outer) : outer_(outer) {
    entry_ = graph->add_input("entry", DType::kI64, Shape{});
    ValueId go_on = graph->add_input("go_on", DType::kBool, Shape{});
    graph->outputs = {graph->add("Identity", {go_on})};
    first_ = graph->add_constant(Tensor::of_i64({0}));
  }

  ValueId capture(ValueId outer) {
    const Value& source = outer_[outer];
    if (source.is_constant()) return graph->add_constant(source.constant, source.name);
    Value value;
    value.name = source.name;
    value.dtype = source.dtype;
    value.shape = source.shape;
    ValueId inner = graph->add_value(std::move(value));
    graph->captured.push_back(inner);
    captures.push_back(outer);
    return inner;
  }

  // The part of a batched value that belongs to the entry at hand.
  ValueId entry_of(ValueId batched) { return graph->add("Gather", {capture(batched), entry_}, {{"axis", int64_t{0}}}); }

  // The first `length` (one number) of a sequence.
  ValueId cut(ValueId sequence, ValueId length) { return graph->add("Slice", {sequence, first_, length, first_}); }

  // Zeros after `result`, so that it is as long as `sequence`.
  ValueId pad_to(ValueId sequence, ValueId result) {
    auto length = [&](ValueId v) { return graph->add("Shape", {v}, {{"start", int64_t{0}}, {"end", int64_t{1}}}); };
    ValueId missing = graph->add("Sub", {length(sequence), length(result)});
    ValueId pads = graph->add("Concat", {first_, missing}, {{"axis", int64_t{0}}});
    return graph->add("Pad", {result, pads, ValueId{}, first_});
  }

  // One entry of sequence_lens as a list of one number that is not negative.
  ValueId length_of(ValueId lengths) {
    ValueId one = graph->add("Reshape", {entry_of(lengths), graph->add_constant(Tensor::of_i64({1}))});
    return graph->add("Max", {one, first_});
  }

  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  std::vector<ValueId> captures;

 private:
  const Graph& outer_;
  ValueId entry_, first_;
};

// Scan of opset 8 went over a batch, each entry for as many steps as its number in sequence_lens says: a Loop over the
// batch around a Scan of today. What a short entry leaves of its stacked outputs is 0.
void upgrade_scan(Upgrade& u) {
  RawNode& node = u.node;
  auto sequences = u.take<int64_t>("num_scan_inputs", 0);
  Ints directions = u.take<Ints>("directions", {});
  auto step = u.take<std::shared_ptr<Graph>>("body", nullptr);
  check_model(step && sequences >= 1 && sequences < static_cast<int64_t>(node.inputs.size()),
              "num_scan_inputs is {} of {} inputs", sequences, node.inputs.size());
  size_t states = node.inputs.size() - 1 - static_cast<size_t>(sequences);
  check_model(step->outputs.size() >= states && step->outputs.size() >= node.outputs.size(), "the body of Scan has {} outputs, the node {}",
              step->outputs.size(), node.outputs.size());
  node.outputs.resize(step->outputs.size());
  for (size_t i = 1; i < node.inputs.size(); ++i) check_model(bool(node.inputs[i]), "input {} is missing", i);

  BatchBody body(u.graph);
  Node scan;
  scan.op = &find_op("Scan");
  scan.name = node.name;
  scan.scope = node.scope;
  scan.attributes = {{"body", step}, {"num_scan_inputs", sequences}};
  if (!directions.empty()) scan.attributes["scan_input_directions"] = directions;
  ValueId length = node.inputs[0] ? body.length_of(node.inputs[0]) : ValueId{};
  ValueId whole;
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    ValueId part = body.entry_of(node.inputs[i]);
    if (i > states) whole = part;
    scan.inputs.push_back(length && i > states ? body.cut(part, length) : part);
  }
  for (ValueId v : node.captures) scan.captures.push_back(body.capture(v));
  for (size_t i = 0; i < step->outputs.size(); ++i) {
    Value value;
    value.name = body.graph->fresh_name("Scan");
    scan.outputs.push_back(body.graph->add_value(std::move(value)));
  }
  std::vector<ValueId> results = scan.outputs;
  InferContext context(*body.graph, body.graph->add_node(std::move(scan)));
  context.node().op->infer(context);
  for (size_t i = 0; i < results.size(); ++i)
    body.graph->outputs.push_back(length && i >= states ? body.pad_to(whole, results[i]) : results[i]);

  ValueId sizes = u.emit(u.before, "Shape", {node.inputs[1]});
  ValueId batch = u.emit(u.before, "Gather", {sizes, u.scalar(0)}, {{"axis", int64_t{0}}});
  node.op = "Loop";
  node.inputs = {batch, {}};
  node.captures = body.captures;
  node.attributes["body"] = body.graph;
}

const std::set<std::string> kBroadcasting = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor",
                                             "Equal", "Greater", "Less", "PRelu"};
const std::set<std::string> kReductions = {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                                           "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"};

void upgrade_one(Upgrade& u) {
  RawNode& node = u.node;
  const std::string& op = node.op;
  int64_t v = u.version;
  if (v < 6) u.drop({"consumed_inputs"});
  if (v < 7 && kBroadcasting.contains(op)) align_broadcast(u);
  if (v < 7 && op == "Gemm") u.drop({"broadcast"});
  if (v < 7 && op == "GRU") u.drop({"output_sequence"});
  if (v < 12 && op == "Dropout") { u.drop({"ratio", "is_test"}); node.inputs.resize(1); }
  if (v < 15 && op == "BatchNormalization") {
    check_model(u.take<int64_t>("spatial", 1) == 1, "BatchNormalization with spatial = 0 is not supported");
    u.drop({"is_test"});
    node.outputs.resize(1);
  }
  if (v < 13 && (op == "Softmax" || op == "LogSoftmax" || op == "Hardmax")) flatten_softmax(u);
  if (v < 13 && (op == "Squeeze" || op == "Unsqueeze" || op == "ReduceSum")) u.ints_to_input("axes", 1);
  if (v < 18 && kReductions.contains(op)) u.ints_to_input("axes", 1);
  if (v < 10 && op == "Slice") upgrade_slice(u);
  if (v < 11 && op == "Pad") upgrade_pad(u);
  if (v < 11 && op == "Clip") upgrade_clip(u);
  if (v < 10 && op == "TopK") u.ints_to_input("k", 1);
  if (v < 13 && op == "Split") u.ints_to_input("split", 1);
  if (v < 18 && op == "Split" && (node.inputs.size() < 2 || !node.inputs[1]))
    node.attributes["num_outputs"] = static_cast<int64_t>(node.outputs.size());
  if (v < 5 && op == "Reshape") { u.ints_to_input("shape", 1); }
  if (op == "Upsample" || op == "Resize") upgrade_resize(u);
  if (v < 21 && op == "GroupNormalization") upgrade_group_norm(u);
  if (v < 20 && op == "DFT") {  // the axis counted from the batch on; -2 is the last before real and imaginary
    int64_t axis = u.take<int64_t>("axis", 1);
    u.set_input(2, u.scalar(axis));
  }
  if (v < 11 && op == "Scatter") node.op = "ScatterElements";
  if (v < 9 && op == "Scan") upgrade_scan(u);
}

}  // namespace

std::vector<RawNode> upgrade(Graph& graph, RawNode node, int64_t version) {
  if (node.op == "TopK" && version < 10 && node.attributes.contains("k")) {
    if (auto* k = std::get_if<int64_t>(&node.attributes["k"])) node.attributes["k"] = Ints{*k};
  }
  Upgrade u{graph, node, version, {}, {}};
  upgrade_one(u);
  std::vector<RawNode> result = std::move(u.before);
  result.push_back(std::move(node));
  for (RawNode& n : u.after) result.push_back(std::move(n));
  return result;
}

}  // namespace lathe::onnx_io
