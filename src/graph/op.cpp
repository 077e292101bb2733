#include "graph/op.h"

#include <map>

#include "graph/ops/families.h"

namespace lathe {
namespace {

using Key = std::pair<std::string, std::string>;  // domain, name

std::map<Key, Op, std::less<>>& table() {
  static std::map<Key, Op, std::less<>> ops;
  return ops;
}

std::string_view normal_domain(std::string_view domain) { return domain == "ai.onnx" ? "" : domain; }

const std::map<Key, Op, std::less<>>& known_ops() {
  static const bool once = [] {
    OpRegistry r;
    for (auto declare : {ops::declare_elementwise, ops::declare_conv, ops::declare_matmul,
                         ops::declare_normalize, ops::declare_reduce, ops::declare_shape,
                         ops::declare_index, ops::declare_create, ops::declare_control,
                         ops::declare_recurrent, ops::declare_attention, ops::declare_image,
                         ops::declare_quantize, ops::declare_signal, ops::declare_loss,
                         ops::declare_text, ops::declare_ml, ops::declare_fused, ops::declare_integer, ops::declare_integer_tokens,
                         ops::declare_coded})
      declare(r);
    return true;
  }();
  (void)once;
  return table();
}

}  // namespace

const AttributeSpec* Op::find(std::string_view attribute) const {
  for (const AttributeSpec& spec : attributes)
    if (spec.name == attribute) return &spec;
  return nullptr;
}

void OpRegistry::add(Op op) {
  require(bool(op.infer), "operator {} has no shape rule", op.name);
  Key key{op.domain, op.name};
  bool added = table().emplace(key, std::move(op)).second;
  require(added, "operator {} is declared twice", key.second);
}

const Op* find_op_or_null(std::string_view name, std::string_view domain) {
  auto it = known_ops().find(Key{std::string(normal_domain(domain)), std::string(name)});
  return it == known_ops().end() ? nullptr : &it->second;
}

const Op& find_op(std::string_view name, std::string_view domain) {
  const Op* op = find_op_or_null(name, domain);
  if (!op)
    fail(ErrorKind::kUnsupported, "operator {}{}{} is not supported", domain, domain.empty() ? "" : "::", name);
  return *op;
}

std::shared_ptr<const Op> make_unknown_op(std::string_view name, std::string_view domain) {
  auto op = std::make_shared<Op>(Op{.name = std::string(name), .domain = std::string(domain), .minimum_inputs = 0, .maximum_inputs = -1,
                                    .minimum_outputs = 0, .maximum_outputs = -1, .infer = [](InferContext& c) {
                                      for (size_t i = 0; i < c.output_count(); ++i) c.set_output(i, DType::kUndefined);
                                    }});
  op->supported = false;
  return op;
}

std::vector<const Op*> all_ops() {
  std::vector<const Op*> result;
  for (const auto& [key, op] : known_ops()) result.push_back(&op);
  return result;
}

void InferContext::expect_rank(size_t i, size_t minimum, size_t maximum) const {
  if (!has_input(i) || !shape(i)) return;
  if (shape(i)->size() >= minimum && shape(i)->size() <= maximum) return;
  const std::string expected = minimum == maximum ? std::to_string(minimum) : fmt::format("{} to {}", minimum, maximum);
  fail(ErrorKind::kModel, "input {} has shape {}, expected a rank of {}", i, to_string(*shape(i)), expected);
}

const Tensor* InferContext::constant(size_t i) const {
  return has_input(i) && input(i).is_constant() && input(i).constant.has_elements() ? &input(i).constant : nullptr;
}

void InferContext::set_output(size_t i, DType type, std::optional<Shape> shape) {
  if (!has_output(i)) return;
  if (shape) check_shape(*shape);
  Value& value = graph_[node().outputs[i]];
  value.dtype = type;
  value.shape = std::move(shape);
}

namespace infer {

void same_as_first(InferContext& c) { c.set_output(0, c.dtype(0), c.shape(0)); }

static std::optional<Shape> broadcast_inputs(InferContext& c) {
  Shape result;
  for (size_t i = 0; i < c.input_count(); ++i) {
    if (!c.has_input(i)) continue;
    if (!c.shape(i)) return std::nullopt;
    result = broadcast(result, *c.shape(i));
  }
  return result;
}

void broadcast_all(InferContext& c) { c.set_output(0, c.dtype(0), broadcast_inputs(c)); }
void broadcast_to_bool(InferContext& c) { c.set_output(0, DType::kBool, broadcast_inputs(c)); }

}  // namespace infer

void infer_shapes(Graph& graph) {
  for (NodeId id : graph.order()) {
    InferContext context(graph, id);
    try {
      graph[id].op->infer(context);
    } catch (const Error& e) {
      fail(e.kind(), "node '{}' ({}): {}", graph[id].name, graph[id].op->name, e.what());
    }
  }
}

}  // namespace lathe
