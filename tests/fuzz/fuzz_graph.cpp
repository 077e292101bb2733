// Bytes → choices → a model of known operators with odd inputs and attributes → plan → one run. Reaches the
// rules and kernels of single operators, where fuzz_onnx mostly tests the reading of files.
#include <onnx/onnx_pb.h>

#include <string>

#include "formats/onnx.h"
#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "runtime/session.h"

using namespace lathe;

namespace {

class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}
  bool done() const { return data_ == end_; }
  int byte() { return done() ? 0 : *data_++; }
  int below(int n) { return byte() % n; }
  // Mostly small, sometimes at the limits.
  int64_t number() {
    static const int64_t odd[] = {INT64_MAX, INT64_MIN, INT32_MAX, INT32_MIN, int64_t{1} << 40, -100, 100, 1 << 16};
    int b = byte();
    return b < 16 ? odd[b % 8] : b % 9 - 3;
  }

 private:
  const uint8_t *data_, *end_;
};

constexpr int kTypes[] = {1, 1, 1, 7, 7, 6, 9, 3, 2, 10, 11, 16};

void add_constant(onnx::GraphProto* g, const std::string& name, Choices& c) {
  auto* t = g->add_initializer();
  t->set_name(name);
  Shape shape;
  for (int i = c.below(5); i > 0; --i) shape.push_back(c.below(4));
  int64_t count = 1;
  for (int64_t size : shape) { t->add_dims(size); count *= size; }
  t->set_data_type(c.below(2) ? 1 : 7);
  for (int64_t i = 0; i < count; ++i)
    t->data_type() == 1 ? t->add_float_data(static_cast<float>(c.number())) : t->add_int64_data(c.number());
}

void add_attribute(onnx::NodeProto* node, const AttributeSpec& spec, Choices& c) {
  static const char* words[] = {"", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "linear", "cubic", "nearest", "reflect",
                                "edge", "wrap", "constant", "add", "mul", "max", "forward", "reverse", "bidirectional",
                                "mean", "sum", "none", "LEFT", "RIGHT", "DCR", "CRD", "tanh", "ij,jk->ik", "ii->i", "...i->..."};
  auto* a = node->add_attribute();
  a->set_name(spec.name);
  if (std::holds_alternative<int64_t>(spec.default_value)) {
    a->set_type(onnx::AttributeProto::INT);
    a->set_i(c.number());
  } else if (std::holds_alternative<float>(spec.default_value)) {
    a->set_type(onnx::AttributeProto::FLOAT);
    a->set_f(static_cast<float>(c.number()));
  } else if (std::holds_alternative<std::string>(spec.default_value)) {
    a->set_type(onnx::AttributeProto::STRING);
    a->set_s(words[c.below(std::size(words))]);
  } else if (std::holds_alternative<std::vector<int64_t>>(spec.default_value)) {
    a->set_type(onnx::AttributeProto::INTS);
    for (int i = c.below(5); i > 0; --i) a->add_ints(c.number());
  } else if (std::holds_alternative<std::vector<float>>(spec.default_value)) {
    a->set_type(onnx::AttributeProto::FLOATS);
    for (int i = c.below(4); i > 0; --i) a->add_floats(static_cast<float>(c.number()));
  } else {
    node->mutable_attribute()->RemoveLast();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Choices c(data, size);
  static const std::vector<const Op*> ops = all_ops();
  onnx::ModelProto model;
  model.set_ir_version(8);
  model.add_opset_import()->set_version(23);
  auto* g = model.mutable_graph();
  std::vector<std::string> names;
  for (int i = 0; i < 3; ++i) {
    names.push_back("x" + std::to_string(i));
    auto* x = g->add_input();
    x->set_name(names.back());
    auto* type = x->mutable_type()->mutable_tensor_type();
    type->set_elem_type(kTypes[c.below(std::size(kTypes))]);
    type->mutable_shape();
    for (int k = c.below(6); k > 0; --k) type->mutable_shape()->add_dim()->set_dim_value(c.below(5));
  }
  for (int i = 0; i < 4; ++i) {
    names.push_back("c" + std::to_string(i));
    add_constant(g, names.back(), c);
  }
  for (int i = 0; i < 4 && (i == 0 || !c.done()); ++i) {
    const Op& op = *ops[(c.byte() * 256 + c.byte()) % ops.size()];
    auto* node = g->add_node();
    node->set_op_type(op.name);
    node->set_domain(op.domain);
    int most = op.maximum_inputs < 0 ? op.minimum_inputs + 3 : op.maximum_inputs;
    for (int k = op.minimum_inputs + c.below(most - op.minimum_inputs + 1); k > 0; --k) {
      int pick = c.below(static_cast<int>(names.size()) + 1);
      node->add_input(pick ? names[names.size() - pick] : "");
    }
    for (const AttributeSpec& spec : op.attributes)
      if (spec.required || c.below(3) == 0) add_attribute(node, spec, c);
    int outputs = op.maximum_outputs < 0 ? op.minimum_outputs + 2 : op.maximum_outputs;
    for (int k = op.minimum_outputs + c.below(outputs - op.minimum_outputs + 1); k > 0; --k) {
      node->add_output(fmt::format("n{}_{}", i, k));
      names.push_back(node->output(node->output_size() - 1));
    }
  }
  g->add_output()->set_name(names.back());
  try {
    Graph graph = import_onnx_bytes(model.SerializeAsString()).graph;
    Plan plan = make_plan(std::move(graph));
    if (plan.arena_bytes > (int64_t{1} << 26)) return 0;
    Session session(std::move(plan));
    session.run(random_inputs(session.plan().graph, 1));
  } catch (const Error&) {
  }
  return 0;
}
