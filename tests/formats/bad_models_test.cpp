// Models that are broken, each in its own way: every one must end in a lathe::Error with a message, at import,
// when planned or when run, and never in a crash.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "formats/onnx.h"
#include "planner/plan.h"
#include "runtime/inspect.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Dims = std::vector<int64_t>;
using Names = std::vector<std::string>;
constexpr auto kF32 = onnx::TensorProto::FLOAT;
constexpr auto kI64 = onnx::TensorProto::INT64;
constexpr int64_t kHuge = int64_t{1} << 40;
constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();

void set_type(onnx::ValueInfoProto* value, int type, const Dims& dims) {
  auto* tensor = value->mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(type);
  tensor->mutable_shape();  // a scalar's shape is there and empty
  for (int64_t size : dims) tensor->mutable_shape()->add_dim()->set_dim_value(size);
}

// A node under construction; copies refer to the same node.
class NodeBuilder {
 public:
  explicit NodeBuilder(onnx::NodeProto* node) : node_(node) {}
  NodeBuilder set(const std::string& name, int64_t value) const {
    auto* a = add(name, onnx::AttributeProto::INT);
    a->set_i(value);
    return *this;
  }
  NodeBuilder set(const std::string& name, const Dims& values) const {
    auto* a = add(name, onnx::AttributeProto::INTS);
    for (int64_t v : values) a->add_ints(v);
    return *this;
  }
  NodeBuilder set(const std::string& name, const std::string& value) const {
    add(name, onnx::AttributeProto::STRING)->set_s(value);
    return *this;
  }
  NodeBuilder set_float(const std::string& name, float value) const {
    add(name, onnx::AttributeProto::FLOAT)->set_f(value);
    return *this;
  }
  onnx::GraphProto* graph(const std::string& name) const {
    return add(name, onnx::AttributeProto::GRAPH)->mutable_g();
  }
  onnx::AttributeProto* add(const std::string& name, onnx::AttributeProto::AttributeType type) const {
    auto* a = node_->add_attribute();
    a->set_name(name);
    a->set_type(type);
    return a;
  }
  onnx::NodeProto* operator->() const { return node_; }

 private:
  onnx::NodeProto* node_;
};

NodeBuilder add_node(onnx::GraphProto* graph, const std::string& op, const Names& inputs, const Names& outputs = {"y"}) {
  auto* node = graph->add_node();
  node->set_op_type(op);
  node->set_name(op + "_" + std::to_string(graph->node_size()));
  for (const auto& name : inputs) node->add_input(name);
  for (const auto& name : outputs) node->add_output(name);
  return NodeBuilder(node);
}

class Builder {
 public:
  Builder() {
    model.set_ir_version(8);
    model.add_opset_import()->set_version(17);
    model.mutable_graph()->set_name("bad");
  }
  onnx::GraphProto* graph() { return model.mutable_graph(); }
  Builder& input(const std::string& name, const Dims& dims, int type = kF32) {
    auto* value = graph()->add_input();
    value->set_name(name);
    set_type(value, type, dims);
    return *this;
  }
  Builder& output(const std::string& name = "y") {
    graph()->add_output()->set_name(name);
    return *this;
  }
  NodeBuilder node(const std::string& op, const Names& inputs, const Names& outputs = {"y"}) {
    return add_node(graph(), op, inputs, outputs);
  }
  onnx::TensorProto* constant(const std::string& name, const Dims& dims, int type = kF32) {
    auto* tensor = graph()->add_initializer();
    tensor->set_name(name);
    tensor->set_data_type(type);
    for (int64_t size : dims) tensor->add_dims(size);
    return tensor;
  }
  Builder& floats(const std::string& name, const Dims& dims, float value = 1) {
    auto* tensor = constant(name, dims);
    int64_t count = 1;
    for (int64_t size : dims) count *= size;
    for (int64_t i = 0; i < count; ++i) tensor->add_float_data(value);
    return *this;
  }
  Builder& ints(const std::string& name, const Dims& values) {
    auto* tensor = constant(name, {static_cast<int64_t>(values.size())}, kI64);
    for (int64_t v : values) tensor->add_int64_data(v);
    return *this;
  }
  Builder& scalar(const std::string& name, int64_t value) {
    constant(name, {}, kI64)->add_int64_data(value);
    return *this;
  }
  onnx::ModelProto model;
};

// Inspects, then imports, plans and runs.
void use(const std::string& bytes, const fs::path& folder = {}) {
  try {
    inspect(import_onnx_bytes(bytes, folder, {.allow_unknown = true}));
  } catch (const Error& e) {
    EXPECT_NE(e.kind(), ErrorKind::kInternal) << e.what();
  }
  Model model = import_onnx_bytes(bytes, folder);
  Session session(make_plan(std::move(model.graph)));
  session.run(random_inputs(session.plan(), 1));
}

void expect_refused(const std::string& bytes, const fs::path& folder = {}) {
  try {
    use(bytes, folder);
    ADD_FAILURE() << "was accepted";
  } catch (const Error& e) {
    EXPECT_FALSE(std::string_view(e.what()).empty());
    EXPECT_NE(e.kind(), ErrorKind::kInternal) << e.what();
  }
}

struct Case {
  const char* name;
  std::function<void(Builder&)> build;
};

// A model of one node whose first input is "x" of shape `dims`, further constants made by `more`.
Case unary(const char* name, const char* op, Dims dims, std::function<void(Builder&, NodeBuilder)> more, Names rest = {},
           int type = kF32) {
  return {name, [=](Builder& b) {
            Names inputs = {"x"};
            inputs.insert(inputs.end(), rest.begin(), rest.end());
            b.input("x", dims, type).output();
            more(b, b.node(op, inputs));
          }};
}

void nothing(Builder&, NodeBuilder) {}

// One value of Range, Slice and the like from the attribute-free constants.
std::vector<Case> cases() {
  std::vector<Case> list;
  auto add = [&](const char* name, std::function<void(Builder&)> build) { list.push_back({name, std::move(build)}); };
  // The graph.
  add("no graph", [](Builder& b) { b.model.clear_graph(); });
  add("cycle of two nodes", [](Builder& b) {
    b.input("x", {2}).output();
    b.node("Add", {"x", "y"}, {"z"});
    b.node("Relu", {"z"});
  });
  add("node that reads itself", [](Builder& b) { b.output().node("Relu", {"y"}); });
  add("unknown operator", [](Builder& b) { b.input("x", {2}).output().node("Frobnicate", {"x"}); });
  add("unknown domain", [](Builder& b) { b.input("x", {2}).output().node("Relu", {"x"})->set_domain("com.example"); });
  add("operator that only fusion makes", [](Builder& b) {
    b.input("x", {1, 4, 4, 1}).floats("w", {1, 3, 3, 1}).output();
    auto n = b.node("Conv", {"x", "w"}).set("strides", Dims{0, 0}).set("pads", Dims(4, 0)).set("dilations", Dims{1, 1});
    n->set_domain("ai.lathe");
  });
  add("empty operator name", [](Builder& b) { b.input("x", {2}).output().node("", {"x"}); });
  add("input that nothing makes", [](Builder& b) { b.output().node("Relu", {"absent"}); });
  add("output that nothing makes", [](Builder& b) { b.input("x", {2}).output("absent"); });
  add("two nodes make one value", [](Builder& b) {
    b.input("x", {2}).output();
    b.node("Relu", {"x"});
    b.node("Neg", {"x"});
  });
  add("one node makes one value twice", [](Builder& b) {
    b.input("x", {2, 2}).output().node("Split", {"x"}, {"y", "y"});
  });
  add("two inputs of one name", [](Builder& b) { b.input("x", {2}).input("x", {3}).output().node("Relu", {"x"}); });
  add("two initializers of one name", [](Builder& b) {
    b.floats("w", {2}).floats("w", {3}).output().node("Relu", {"w"});
  });
  add("a node makes an input", [](Builder& b) { b.input("x", {2}).output("x").node("Relu", {"x"}, {"x"}); });
  add("a node makes an initializer", [](Builder& b) {
    b.input("x", {2}).floats("w", {2}).output("w").node("Relu", {"x"}, {"w"});
  });
  add("too few inputs", [](Builder& b) { b.input("x", {2}).output().node("Add", {"x"}); });
  add("old Upsample without scales", [](Builder& b) {
    b.model.mutable_opset_import(0)->set_version(9);
    b.input("x", {1, 1, 2, 2}).output().node("Upsample", {"x"});
  });
  add("old Softmax of nothing", [](Builder& b) {
    b.model.mutable_opset_import(0)->set_version(9);
    b.output().node("Softmax", {});
  });
  add("shift of integers by a float", [](Builder& b) {
    b.input("x", {2}, onnx::TensorProto::UINT32).input("z", {2}).output().node("BitShift", {"x", "z"}).set("direction", "LEFT");
  });
  add("too many inputs", [](Builder& b) { b.input("x", {2}).output().node("Relu", {"x", "x"}); });
  add("no inputs", [](Builder& b) { b.output().node("MatMul", {}); });
  add("a required input is empty", [](Builder& b) { b.input("x", {2, 2}).output().node("MatMul", {"", "x"}); });
  add("too many outputs", [](Builder& b) { b.input("x", {2}).output().node("Relu", {"x"}, {"y", "z"}); });
  add("no outputs", [](Builder& b) { b.input("x", {2}).output("x").node("Relu", {"x"}, {}); });
  // Attributes.
  list.push_back(unary("unknown attribute", "Relu", {2}, [](Builder&, NodeBuilder n) { n.set("flavour", 3); }));
  list.push_back(unary("attribute of the wrong type", "Softmax", {2}, [](Builder&, NodeBuilder n) { n.set("axis", "last"); }));
  list.push_back(unary("list where a number belongs", "Softmax", {2}, [](Builder&, NodeBuilder n) { n.set("axis", Dims{0}); }));
  list.push_back(unary("a required attribute is missing", "Concat", {2}, nothing));
  list.push_back(unary("Cast to an unknown type", "Cast", {2}, [](Builder&, NodeBuilder n) { n.set("to", 99); }));
  list.push_back(unary("Cast to a negative type", "Cast", {2}, [](Builder&, NodeBuilder n) { n.set("to", -1); }));
  list.push_back(unary("Cast to strings", "Cast", {2}, [](Builder&, NodeBuilder n) { n.set("to", 8); }));
  list.push_back(unary("Softmax of an axis that is not there", "Softmax", {2, 2}, [](Builder&, NodeBuilder n) { n.set("axis", 7); }));
  list.push_back(unary("axis of the smallest integer", "Flatten", {2, 2}, [](Builder&, NodeBuilder n) { n.set("axis", kMin); }));
  list.push_back(unary("permutation with a repetition", "Transpose", {2, 2}, [](Builder&, NodeBuilder n) { n.set("perm", Dims{0, 0}); }));
  list.push_back(unary("permutation too short", "Transpose", {2, 2, 2}, [](Builder&, NodeBuilder n) { n.set("perm", Dims{1, 0}); }));
  add("Constant without a value", [](Builder& b) { b.output().node("Constant", {}); });
  add("Constant of a string", [](Builder& b) { b.output().node("Constant", {}).set("value_string", "hello"); });
  // Types.
  add("strings as input", [](Builder& b) { b.input("x", {2}, onnx::TensorProto::STRING).output().node("Identity", {"x"}); });
  add("strings as initializer", [](Builder& b) {
    b.constant("w", {1}, onnx::TensorProto::STRING)->add_string_data("hello");
    b.output().node("Identity", {"w"});
  });
  add("complex numbers", [](Builder& b) { b.input("x", {2}, onnx::TensorProto::COMPLEX64).output().node("Identity", {"x"}); });
  add("input of no type", [](Builder& b) { b.input("x", {2}, 0).output().node("Relu", {"x"}); });
  add("input of an unknown type", [](Builder& b) { b.input("x", {2}, 77).output().node("Relu", {"x"}); });
  add("input of a negative type", [](Builder& b) { b.input("x", {2}, -5).output().node("Relu", {"x"}); });
  add("sequence as input", [](Builder& b) {
    auto* x = b.graph()->add_input();
    x->set_name("x");
    x->mutable_type()->mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(kF32);
    b.output().node("Identity", {"x"});
  });
  add("map as input", [](Builder& b) {
    auto* x = b.graph()->add_input();
    x->set_name("x");
    x->mutable_type()->mutable_map_type()->set_key_type(kI64);
    b.output().node("Identity", {"x"});
  });
  add("operator on sequences", [](Builder& b) { b.input("x", {2}).output().node("SequenceConstruct", {"x"}); });
  for (const char* op : {"Add", "Mul", "Div", "Max", "Less", "Equal"})
    list.push_back({"operands of different types", [op](Builder& b) {
                      b.input("x", {2}).input("z", {2}, kI64).output().node(op, {"x", "z"});
                    }});
  add("MatMul of different types", [](Builder& b) { b.input("x", {2, 2}).input("z", {2, 2}, kI64).output().node("MatMul", {"x", "z"}); });
  add("Concat of different types", [](Builder& b) {
    b.input("x", {2}).input("z", {2}, kI64).output().node("Concat", {"x", "z"}).set("axis", 0);
  });
  // Stored tensors.
  add("too few raw bytes", [](Builder& b) { b.constant("w", {4})->set_raw_data("12345678"); b.output().node("Relu", {"w"}); });
  add("too many raw bytes", [](Builder& b) { b.constant("w", {1})->set_raw_data("12345678"); b.output().node("Relu", {"w"}); });
  add("no data at all", [](Builder& b) { b.constant("w", {4}); b.output().node("Relu", {"w"}); });
  add("too few numbers", [](Builder& b) { b.constant("w", {4})->add_float_data(1); b.output().node("Relu", {"w"}); });
  add("numbers in the wrong field", [](Builder& b) { b.constant("w", {1})->add_int64_data(1); b.output().node("Relu", {"w"}); });
  add("negative size", [](Builder& b) { b.constant("w", {-1})->set_raw_data("1234"); b.output().node("Relu", {"w"}); });
  add("sizes that overflow", [](Builder& b) { b.constant("w", {kHuge, kHuge})->set_raw_data("1234"); b.output().node("Relu", {"w"}); });
  add("sizes that overflow to zero", [](Builder& b) { b.constant("w", {int64_t{1} << 32, int64_t{1} << 32}); b.output().node("Relu", {"w"}); });
  add("zero times sizes that overflow", [](Builder& b) { b.constant("w", {0, kHuge, kHuge}); b.output().node("Relu", {"w"}); });
  add("terabytes", [](Builder& b) { b.constant("w", {kHuge}); b.output().node("Relu", {"w"}); });
  add("packed elements, too few", [](Builder& b) {
    b.constant("w", {9}, 21)->set_raw_data("1234");
    b.output().node("Identity", {"w"});
  });
  add("tensor of no type", [](Builder& b) { b.constant("w", {1}, 0)->set_raw_data("1234"); b.output().node("Relu", {"w"}); });
  add("sparse index out of range", [](Builder& b) {
    auto* sparse = b.graph()->add_sparse_initializer();
    sparse->add_dims(4);
    auto* values = sparse->mutable_values();
    values->set_name("w");
    values->set_data_type(kF32);
    values->add_dims(1);
    values->add_float_data(1);
    auto* indices = sparse->mutable_indices();
    indices->set_data_type(kI64);
    indices->add_dims(1);
    indices->add_int64_data(4);
    b.output().node("Relu", {"w"});
  });
  add("sparse tensor of terabytes", [](Builder& b) {
    auto* sparse = b.graph()->add_sparse_initializer();
    sparse->add_dims(kHuge);
    sparse->mutable_values()->set_name("w");
    sparse->mutable_values()->set_data_type(kF32);
    sparse->mutable_values()->add_dims(0);
    sparse->mutable_indices()->set_data_type(kI64);
    sparse->mutable_indices()->add_dims(0);
    b.output().node("Relu", {"w"});
  });
  add("sparse tensor of a gigabyte from one value", [](Builder& b) {
    auto* sparse = b.graph()->add_sparse_initializer();
    sparse->add_dims(int64_t{1} << 28);
    sparse->mutable_values()->set_name("w");
    sparse->mutable_values()->set_data_type(kF32);
    sparse->mutable_values()->add_dims(1);
    sparse->mutable_values()->add_float_data(1);
    sparse->mutable_indices()->set_data_type(kI64);
    sparse->mutable_indices()->add_dims(1);
    sparse->mutable_indices()->add_int64_data(0);
    b.output().node("Relu", {"w"});
  });
  // Shapes.
  add("an axis at the limit of 64 bits", [](Builder& b) {
    b.input("x", {1, 1, kMax}).output().node("MaxPool", {"x"}).set("kernel_shape", Dims{1}).set("strides", Dims{2}).set("auto_pad", "SAME_UPPER");
  });
  add("sizes that do not broadcast", [](Builder& b) { b.input("x", {2, 3}).input("z", {4}).output().node("Add", {"x", "z"}); });
  add("broadcast to terabytes", [](Builder& b) { b.input("x", {1 << 20, 1}).input("z", {1 << 24}).output().node("Add", {"x", "z"}); });
  add("input of terabytes", [](Builder& b) { b.input("x", {kHuge}).output().node("Relu", {"x"}); });
  add("input sizes that overflow", [](Builder& b) { b.input("x", {kHuge, kHuge}).output().node("Relu", {"x"}); });
  add("input of open size", [](Builder& b) { b.input("x", {-1}).output().node("Relu", {"x"}); });
  add("input of a hundred axes", [](Builder& b) { b.input("x", Dims(100, 1)).output().node("Relu", {"x"}); });
  add("MatMul of sizes that differ", [](Builder& b) { b.input("x", {2, 3}).input("z", {4, 2}).output().node("MatMul", {"x", "z"}); });
  add("MatMul of scalars", [](Builder& b) { b.input("x", {}).input("z", {}).output().node("MatMul", {"x", "z"}); });
  add("Gemm of three axes", [](Builder& b) { b.input("x", {2, 3, 4}).input("z", {4, 2}).output().node("Gemm", {"x", "z"}); });
  auto with_ints = [&](const char* name, const char* op, Dims dims, std::vector<Dims> arguments) {
    list.push_back({name, [=](Builder& b) {
                      b.input("x", dims).output();
                      Names inputs = {"x"};
                      for (size_t i = 0; i < arguments.size(); ++i) {
                        inputs.push_back("c" + std::to_string(i));
                        b.ints(inputs.back(), arguments[i]);
                      }
                      b.node(op, inputs);
                    }});
  };
  with_ints("Reshape to another count", "Reshape", {2, 3}, {{4, 2}});
  with_ints("Reshape that does not divide", "Reshape", {2, 3}, {{4, -1}});
  with_ints("Reshape with two open sizes", "Reshape", {2, 3}, {{-1, -1}});
  with_ints("Reshape to a negative size", "Reshape", {2, 3}, {{-2, -3}});
  with_ints("Reshape to sizes that overflow", "Reshape", {2, 3}, {{kHuge, kHuge}});
  with_ints("Reshape by nothing", "Reshape", {2, 3}, {{0, -1, 0}});
  with_ints("Slice of an axis that is not there", "Slice", {2, 3}, {{0}, {1}, {5}});
  with_ints("Slice of one axis twice", "Slice", {2, 3}, {{0, 0}, {1, 1}, {0, 0}});
  with_ints("Slice with step zero", "Slice", {2, 3}, {{0}, {1}, {0}, {0}});
  with_ints("Slice with lists of different length", "Slice", {2, 3}, {{0, 0}, {1}, {0}});
  with_ints("Expand to sizes that differ", "Expand", {2, 3}, {{4, 5}});
  with_ints("Expand to terabytes", "Expand", {1}, {{kHuge}});
  with_ints("Expand to a negative size", "Expand", {1}, {{-3}});
  with_ints("Tile with the wrong count", "Tile", {2, 3}, {{2}});
  with_ints("Tile that overflows", "Tile", {2, 3}, {{kMax, kMax}});
  with_ints("Tile to terabytes", "Tile", {2}, {{kHuge}});
  with_ints("Pad with the wrong count", "Pad", {2, 3}, {{1, 1}});
  with_ints("Pad to terabytes", "Pad", {2}, {{kHuge, 0}});
  with_ints("Pad by more than there is", "Pad", {2}, {{-2, -2}});
  with_ints("Pad that overflows", "Pad", {2}, {{kMax, kMax}});
  with_ints("Squeeze of a size that is not one", "Squeeze", {2, 3}, {{0}});
  with_ints("Unsqueeze of an axis that is not there", "Unsqueeze", {2}, {{9}});
  with_ints("Unsqueeze of one axis twice", "Unsqueeze", {2}, {{0, 0}});
  with_ints("Split into sizes that do not add up", "Split", {4}, {{9}});
  with_ints("Gather out of bounds", "Gather", {3}, {{3}});
  with_ints("Gather far below zero", "Gather", {3}, {{kMin}});
  with_ints("GatherElements out of bounds", "GatherElements", {3}, {{5}});
  with_ints("GatherND out of bounds", "GatherND", {3}, {{7}});
  with_ints("TopK of more than there is", "TopK", {3}, {{9}});
  with_ints("TopK of a negative count", "TopK", {3}, {{-1}});
  with_ints("ReduceSum of an axis that is not there", "ReduceSum", {3}, {{4}});
  with_ints("ReduceSum of the smallest axis", "ReduceSum", {3}, {{kMin}});
  add("Gather out of bounds among constants", [](Builder& b) { b.floats("w", {3}).ints("i", {-4}).output().node("Gather", {"w", "i"}); });
  add("ScatterND out of bounds", [](Builder& b) {
    b.input("x", {3}).ints("i", {99}).floats("u", {}).output().node("ScatterND", {"x", "i", "u"});
  });
  add("division by zero among constants", [](Builder& b) { b.ints("a", {1}).ints("z", {0}).output().node("Div", {"a", "z"}); });
  add("remainder by zero among constants", [](Builder& b) { b.ints("a", {1}).ints("z", {0}).output().node("Mod", {"a", "z"}); });
  add("ConstantOfShape of terabytes", [](Builder& b) { b.ints("s", {kHuge}).output().node("ConstantOfShape", {"s"}); });
  add("ConstantOfShape that overflows", [](Builder& b) { b.ints("s", {kHuge, kHuge}).output().node("ConstantOfShape", {"s"}); });
  add("ConstantOfShape of a negative size", [](Builder& b) { b.ints("s", {-2}).output().node("ConstantOfShape", {"s"}); });
  add("Range without end", [](Builder& b) { b.scalar("a", 0).scalar("l", kMax).scalar("d", 1).output().node("Range", {"a", "l", "d"}); });
  add("Range with step zero", [](Builder& b) { b.scalar("a", 0).scalar("l", 5).scalar("d", 0).output().node("Range", {"a", "l", "d"}); });
  add("OneHot of terabytes", [](Builder& b) {
    b.input("x", {2}, kI64).scalar("n", kHuge).floats("v", {2}).output().node("OneHot", {"x", "n", "v"});
  });
  list.push_back(unary("RandomNormalLike of strings", "RandomNormalLike", {2}, [](Builder&, NodeBuilder n) { n.set("dtype", 8); }));
  add("RandomUniform of terabytes", [](Builder& b) { b.output().node("RandomUniform", {}).set("shape", Dims{kHuge, kHuge}); });
  add("EyeLike of three axes", [](Builder& b) { b.input("x", {2, 2, 2}).output().node("EyeLike", {"x"}); });
  // Windows.
  auto conv = [&](const char* name, Dims x, Dims w, std::function<void(NodeBuilder)> set) {
    list.push_back({name, [=](Builder& b) { b.input("x", x).floats("w", w).output(); set(b.node("Conv", {"x", "w"})); }});
  };
  conv("Conv with stride zero", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("strides", Dims{0, 0}); });
  conv("Conv with a negative stride", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("strides", Dims{-1, 1}); });
  conv("Conv with dilation zero", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("dilations", Dims{0, 0}); });
  conv("Conv with group zero", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("group", 0); });
  conv("Conv with groups that do not divide", {1, 4, 4, 4}, {2, 2, 3, 3}, [](NodeBuilder n) { n.set("group", 3); });
  conv("Conv with a kernel larger than the input", {1, 1, 2, 2}, {1, 1, 3, 3}, [](NodeBuilder) {});
  conv("Conv with channels that differ", {1, 2, 4, 4}, {1, 3, 3, 3}, [](NodeBuilder) {});
  conv("Conv of a matrix", {4, 4}, {3, 3}, [](NodeBuilder) {});
  conv("Conv of ranks that differ", {1, 1, 4, 4}, {1, 1, 3}, [](NodeBuilder) {});
  conv("Conv with too few pads", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("pads", Dims{1, 1}); });
  conv("Conv with negative pads", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("pads", Dims{-9, 0, 0, 0}); });
  conv("Conv with pads that overflow", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("pads", Dims(4, kMax)); });
  conv("Conv with unknown auto_pad", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("auto_pad", "SOMEHOW"); });
  conv("Conv with a kernel_shape that is not the weight's", {1, 1, 4, 4}, {1, 1, 3, 3}, [](NodeBuilder n) { n.set("kernel_shape", Dims{2, 2}); });
  add("Conv with a bias of the wrong size", [](Builder& b) {
    b.input("x", {1, 1, 4, 4}).floats("w", {1, 1, 3, 3}).floats("b", {5}).output().node("Conv", {"x", "w", "b"});
  });
  list.push_back(unary("MaxPool without a kernel", "MaxPool", {1, 1, 4, 4}, nothing));
  list.push_back(unary("MaxPool with kernel zero", "MaxPool", {1, 1, 4, 4}, [](Builder&, NodeBuilder n) { n.set("kernel_shape", Dims{0, 0}); }));
  list.push_back(unary("AveragePool larger than the input", "AveragePool", {1, 1, 4, 4}, [](Builder&, NodeBuilder n) { n.set("kernel_shape", Dims{9, 9}); }));
  list.push_back(unary("DepthToSpace with block zero", "DepthToSpace", {1, 4, 2, 2}, [](Builder&, NodeBuilder n) { n.set("blocksize", 0); }));
  list.push_back(unary("DepthToSpace that does not divide", "DepthToSpace", {1, 3, 2, 2}, [](Builder&, NodeBuilder n) { n.set("blocksize", 2); }));
  list.push_back(unary("LRN of size zero", "LRN", {1, 4, 2, 2}, [](Builder&, NodeBuilder n) { n.set("size", 0); }));
  add("BatchNormalization with statistics of the wrong size", [](Builder& b) {
    b.input("x", {1, 3, 2, 2}).floats("s", {2}).output().node("BatchNormalization", {"x", "s", "s", "s", "s"});
  });
  add("Einsum without an equation that fits", [](Builder& b) {
    b.input("x", {2, 2}).output().node("Einsum", {"x"}).set("equation", "ijk->i");
  });
  add("LSTM with weights of the wrong shape", [](Builder& b) {
    b.input("x", {2, 1, 2}).floats("w", {1, 3, 2}).floats("r", {1, 4, 1}).output().node("LSTM", {"x", "w", "r"}).set("hidden_size", 1);
  });
  add("QuantizeLinear to a scale of the wrong size", [](Builder& b) {
    b.input("x", {2, 3}).floats("s", {7}).output().node("QuantizeLinear", {"x", "s"});
  });
  add("Resize to nothing sensible", [](Builder& b) {
    b.input("x", {1, 1, 2, 2}).floats("s", {4}, -1).output().node("Resize", {"x", "", "s"});
  });
  add("Resize to terabytes", [](Builder& b) {
    b.input("x", {1, 1, 2, 2}).floats("s", {4}, 1e9f).output().node("Resize", {"x", "", "s"});
  });
  // Subgraphs and functions.
  add("If without branches", [](Builder& b) { b.input("c", {}, onnx::TensorProto::BOOL).output().node("If", {"c"}); });
  add("If whose branch makes nothing", [](Builder& b) {
    b.input("c", {}, onnx::TensorProto::BOOL).output();
    auto n = b.node("If", {"c"});
    n.graph("then_branch");
    n.graph("else_branch");
  });
  add("If on a list of conditions", [](Builder& b) {
    b.input("c", {3}, onnx::TensorProto::BOOL).input("x", {1}).output();
    auto n = b.node("If", {"c"});
    for (const char* name : {"then_branch", "else_branch"}) {
      auto* g = n.graph(name);
      add_node(g, "Relu", {"x"}, {"z"});
      g->add_output()->set_name("z");
    }
  });
  add("branch that reads what nothing makes", [](Builder& b) {
    b.input("c", {}, onnx::TensorProto::BOOL).output();
    auto n = b.node("If", {"c"});
    for (const char* name : {"then_branch", "else_branch"}) {
      auto* g = n.graph(name);
      add_node(g, "Relu", {"absent"}, {"z"});
      g->add_output()->set_name("z");
    }
  });
  add("Loop without a body", [](Builder& b) { b.scalar("n", 3).input("x", {2}).output().node("Loop", {"n", "", "x"}); });
  add("Loop whose body takes too little", [](Builder& b) {
    b.scalar("n", 3).input("x", {2}).output();
    auto* g = b.node("Loop", {"n", "", "x"}).graph("body");
    g->add_input()->set_name("i");
    add_node(g, "Identity", {"i"}, {"o"});
    g->add_output()->set_name("o");
  });
  add("Loop that never ends", [](Builder& b) {
    b.scalar("n", kMax).input("x", {2}).output();
    auto* g = b.node("Loop", {"n", "", "x"}).graph("body");
    for (const char* name : {"i", "go", "a"}) g->add_input()->set_name(name);
    set_type(g->mutable_input(0), kI64, {});
    set_type(g->mutable_input(1), onnx::TensorProto::BOOL, {});
    set_type(g->mutable_input(2), kF32, {2});
    add_node(g, "Identity", {"go"}, {"on"});
    add_node(g, "Identity", {"a"}, {"b"});
    g->add_output()->set_name("on");
    g->add_output()->set_name("b");
  });
  add("Scan over more than there is", [](Builder& b) {
    b.input("x", {2}).output();
    auto n = b.node("Scan", {"x"}).set("num_scan_inputs", 9);
    n.graph("body");
  });
  add("subgraphs nested too deep", [](Builder& b) {
    b.input("c", {}, onnx::TensorProto::BOOL).output();
    auto* g = b.graph();
    for (int i = 0; i < 30; ++i) {
      auto n = add_node(g, "If", {"c"}, {"y" + std::to_string(i)});
      n.graph("else_branch");
      g = n.graph("then_branch");
    }
  });
  auto function = [](Builder& b, const char* name, const char* calls) {
    auto* f = b.model.add_functions();
    f->set_name(name);
    f->set_domain("d");
    f->add_input("a");
    f->add_output("o");
    auto* n = f->add_node();
    n->set_op_type(calls);
    n->set_domain("d");
    n->add_input("a");
    n->add_output("o");
  };
  add("function that calls itself", [=](Builder& b) {
    function(b, "F", "F");
    b.input("x", {2}).output().node("F", {"x"})->set_domain("d");
  });
  add("functions that call each other", [=](Builder& b) {
    function(b, "F", "G");
    function(b, "G", "F");
    b.input("x", {2}).output().node("F", {"x"})->set_domain("d");
  });
  add("functions whose calls multiply to millions", [](Builder& b) {
    constexpr int kLevels = 12, kCalls = 4;
    for (int level = 0; level < kLevels; ++level) {
      auto* f = b.model.add_functions();
      f->set_name("F" + std::to_string(level));
      f->set_domain("d");
      f->add_input("a0");
      f->add_output("a" + std::to_string(kCalls));
      for (int i = 0; i < kCalls; ++i) {
        auto* n = f->add_node();
        bool last = level == kLevels - 1;
        n->set_op_type(last ? "Relu" : "F" + std::to_string(level + 1));
        n->set_domain(last ? "" : "d");
        n->add_input("a" + std::to_string(i));
        n->add_output("a" + std::to_string(i + 1));
      }
    }
    b.input("x", {2}).output().node("F0", {"x"})->set_domain("d");
  });
  add("function given too much", [=](Builder& b) {
    function(b, "F", "F");
    b.input("x", {2}).output().node("F", {"x", "x"})->set_domain("d");
  });
  add("function that lacks its output", [=](Builder& b) {
    auto* f = b.model.add_functions();
    f->set_name("F");
    f->set_domain("d");
    f->add_output("absent");
    b.output().node("F", {})->set_domain("d");
  });
  add("omitted argument of a function read in a branch", [](Builder& b) {
    auto* f = b.model.add_functions();
    f->set_name("F");
    f->set_domain("d");
    for (const char* name : {"c", "a"}) f->add_input(name);
    f->add_output("o");
    NodeBuilder n(f->add_node());
    n->set_op_type("If");
    n->add_input("c");
    n->add_output("o");
    for (const char* name : {"then_branch", "else_branch"}) n.graph(name)->add_output()->set_name("a");
    b.input("x", {}, onnx::TensorProto::BOOL).output().node("F", {"x"})->set_domain("d");
  });
  return list;
}

TEST(BadModels, AreRefused) {
  auto list = cases();
  EXPECT_GE(list.size(), 60u);
  for (const Case& c : list) {
    SCOPED_TRACE(c.name);
    Builder b;
    c.build(b);
    if (std::getenv("LATHE_TEST_VERBOSE")) fprintf(stderr, "%s\n", c.name);
    expect_refused(b.model.SerializeAsString());
  }
}

std::string good_model() {
  Builder b;
  b.input("x", {1, 1, 4, 4}).floats("w", {2, 1, 3, 3}).output();
  b.node("Conv", {"x", "w"}, {"c"}).set("pads", Dims{1, 1, 1, 1});
  b.node("Relu", {"c"});
  return b.model.SerializeAsString();
}

TEST(BadModels, GoodOneIsAccepted) { EXPECT_NO_THROW(use(good_model())); }

// Cut at every byte. A cut between two fields leaves a readable but smaller message, which may be valid only
// once the whole graph is there.
TEST(BadModels, TruncatedAnywhere) {
  std::string bytes = good_model();
  size_t refused = 0;
  for (size_t n = 0; n < bytes.size(); ++n) {
    try {
      use(bytes.substr(0, n));
    } catch (const Error& e) {
      ++refused;
      EXPECT_FALSE(std::string_view(e.what()).empty());
    }
  }
  EXPECT_GE(refused + 12, bytes.size());
}

TEST(BadModels, EveryByteChanged) {
  std::string bytes = good_model();
  for (size_t n = 0; n < bytes.size(); ++n) {
    for (int flip : {1, 0x80, 0xff}) {
      std::string changed = bytes;
      changed[n] = static_cast<char>(changed[n] ^ flip);
      try {
        use(changed);
      } catch (const Error& e) {
        EXPECT_FALSE(std::string_view(e.what()).empty());
      }
    }
  }
}

TEST(BadModels, NotModels) {
  for (const std::string& bytes : {std::string("hello, this is not a model at all"), std::string(1000, '\xff'),
                                   std::string(1000, '\0'), std::string("\x89PNG\r\n\x1a\n"), std::string()})
    expect_refused(bytes);
}

class ExternalData : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("bad_models_" + std::to_string(::getpid()));
    fs::create_directories(root_ / "model");
    std::ofstream(root_ / "secret") << std::string(64, 's');
    std::ofstream(root_ / "model" / "data") << std::string(64, 'd');
    std::ofstream(root_ / "model" / "empty");
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string model(const std::vector<std::pair<std::string, std::string>>& entries, const Dims& dims = {4}) {
    Builder b;
    auto* w = b.constant("w", dims);
    w->set_data_location(onnx::TensorProto::EXTERNAL);
    for (const auto& [key, value] : entries) {
      auto* entry = w->add_external_data();
      entry->set_key(key);
      entry->set_value(value);
    }
    b.output().node("Relu", {"w"});
    return b.model.SerializeAsString();
  }
  void refuse(const std::vector<std::pair<std::string, std::string>>& entries, const Dims& dims = {4}) {
    SCOPED_TRACE(entries.empty() ? "" : entries[0].second);
    expect_refused(model(entries, dims), root_ / "model");
  }
  fs::path root_;
};

TEST_F(ExternalData, InTheFolderIsRead) {
  EXPECT_NO_THROW(use(model({{"location", "data"}, {"offset", "16"}, {"length", "16"}}), root_ / "model"));
}

TEST_F(ExternalData, OutsideTheFolderIsRefused) {
  refuse({{"location", "../secret"}});
  refuse({{"location", "deeper/../../secret"}});
  refuse({{"location", (root_ / "secret").string()}});
  refuse({{"location", "/etc/passwd"}});
  fs::create_symlink(root_ / "secret", root_ / "model" / "link");
  refuse({{"location", "link"}});
  fs::create_directory_symlink(root_, root_ / "model" / "up");
  refuse({{"location", "up/secret"}});
  expect_refused(model({{"location", "data"}}));  // bytes without a folder have no external data
}

TEST_F(ExternalData, BrokenEntriesAreRefused) {
  refuse({});
  refuse({{"location", ""}});
  refuse({{"location", "absent"}});
  refuse({{"location", "."}});
  refuse({{"location", "empty"}});
  refuse({{"location", "data"}, {"offset", "100"}});
  refuse({{"location", "data"}, {"offset", "52"}});
  refuse({{"location", "data"}, {"offset", "999999999999999999"}});
  refuse({{"location", "data"}, {"offset", "99999999999999999999999999"}});
  refuse({{"location", "data"}, {"offset", "-4"}});
  refuse({{"location", "data"}, {"offset", "four"}});
  refuse({{"location", "data"}, {"length", "4"}});
  refuse({{"location", "data"}, {"length", "999999999999999999"}});
  refuse({{"location", "data"}}, {1000});
  refuse({{"location", "data"}}, {kHuge, kHuge});
  refuse({{"location", "data"}}, {-1});
}

// A branch that is never taken may be impossible for the shapes at hand.
TEST(BadModels, ImpossibleBranchIsAllowed) {
  Builder b;
  b.input("x", {2}).input("c", {}, onnx::TensorProto::BOOL).ints("axes", {0}).output();
  auto n = b.node("If", {"c"});
  for (const char* name : {"then_branch", "else_branch"}) {
    auto* g = n.graph(name);
    bool impossible = std::string_view(name) == "then_branch";
    add_node(g, impossible ? "Squeeze" : "Identity", impossible ? Names{"x", "axes"} : Names{"x"}, {"z"});
    g->add_output()->set_name("z");
  }
  Model model = import_onnx_bytes(b.model.SerializeAsString());
  Session session(make_plan(std::move(model.graph)));
  Tensor condition(DType::kBool, {});
  condition.set_int(0, 0);
  EXPECT_EQ(session.run({Tensor::of_f32({2}, {1, 2}), condition})[0].to_f32(), (std::vector<float>{1, 2}));
  condition.set_int(0, 1);
  EXPECT_THROW(session.run({Tensor::of_f32({2}, {1, 2}), condition}), Error);
}

}  // namespace
}  // namespace lathe
