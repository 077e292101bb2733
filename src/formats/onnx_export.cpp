#include <limits>
#include <set>

#include "core/file.h"
#include "formats/onnx.h"
#include "formats/onnx_proto.h"
#include "graph/op.h"

namespace lathe {
namespace {

// UnpackBits (graph/ops/coded.cpp) in standard operators. Every byte is moved right by 0, bits, 2·bits, … and cut to
// its lowest bits; the codes of the last byte beyond `shape` are dropped.
void write_unpack_bits(onnx::FunctionProto* f) {
  f->set_domain(std::string(kLatheDomain));
  f->set_name("UnpackBits");
  f->set_doc_string("Codes of 1, 2 or 4 bits, several in a byte, the lowest bits first, become one code a byte.");
  auto* opset = f->add_opset_import();
  opset->set_domain("");
  opset->set_version(kOnnxOpset);
  f->add_input("packed");
  f->add_output("codes");
  for (const char* name : {"bits", "shape"}) f->add_attribute(name);
  using P = onnx::AttributeProto;
  auto node = [&](const char* op, std::initializer_list<const char*> inputs, const char* output) {
    auto* n = f->add_node();
    n->set_op_type(op);
    for (const char* input : inputs) n->add_input(input);
    n->add_output(output);
    return n;
  };
  auto attribute = [](onnx::NodeProto* n, const char* name, onnx::AttributeProto_AttributeType type) {
    auto* a = n->add_attribute();
    a->set_name(name);
    a->set_type(type);
    return a;
  };
  auto number = [&](const char* name, int64_t value) { attribute(node("Constant", {}, name), "value_int", P::INT)->set_i(value); };
  auto list = [&](const char* name, std::initializer_list<int64_t> values) {
    auto* a = attribute(node("Constant", {}, name), "value_ints", P::INTS);
    for (int64_t v : values) a->add_ints(v);
  };
  auto to_u8 = [&](const char* from, const char* to) { attribute(node("Cast", {from}, to), "to", P::INT)->set_i(static_cast<int64_t>(DType::kU8)); };
  auto shift_right = [&](const char* what, const char* by, const char* to) { attribute(node("BitShift", {what, by}, to), "direction", P::STRING)->set_s("RIGHT"); };
  attribute(node("Constant", {}, "width"), "value_int", P::INT)->set_ref_attr_name("bits");
  attribute(node("Constant", {}, "sizes"), "value_ints", P::INTS)->set_ref_attr_name("shape");
  number("none", 0);
  number("eight", 8);
  number("whole", 255);
  list("first", {0});
  list("flat", {-1});
  list("column", {-1, 1});
  node("Range", {"none", "eight", "width"}, "distances");
  to_u8("distances", "shifts");
  node("Sub", {"eight", "width"}, "unused");
  to_u8("unused", "unused_bits");
  to_u8("whole", "all_bits");
  shift_right("all_bits", "unused_bits", "mask");
  node("Reshape", {"packed", "column"}, "bytes");
  shift_right("bytes", "shifts", "shifted");
  node("BitwiseAnd", {"shifted", "mask"}, "cut");
  node("Reshape", {"cut", "flat"}, "all");
  attribute(node("ReduceProd", {"sizes"}, "count"), "keepdims", P::INT)->set_i(1);
  node("Slice", {"all", "first", "count", "first"}, "wanted");
  node("Reshape", {"wanted", "sizes"}, "codes");
}

class Exporter {
 public:
  void run(const Graph& graph, onnx::ModelProto* model) {
    model->set_ir_version(10);
    model->set_producer_name("lathe");
    write_graph(graph, model->mutable_graph(), {}, true);
    if (unpacks_bits_) write_unpack_bits(model->add_functions());
    auto* opset = model->add_opset_import();
    opset->set_domain("");
    opset->set_version(kOnnxOpset);
    for (const std::string& domain : domains_) {
      auto* extra = model->add_opset_import();
      extra->set_domain(domain);
      extra->set_version(domain == "ai.onnx.ml" ? 5 : 1);  // TreeEnsemble came with 5, all others are older
    }
  }

 private:
  // `outer`: the names that this graph's captured values have in the enclosing graph.
  void write_graph(const Graph& graph, onnx::GraphProto* proto, const std::vector<std::string>& outer, bool types) {
    std::vector<std::string> names = unique_names(graph, outer);
    proto->set_name(graph.name.empty() ? "lathe" : graph.name);
    std::set<int32_t> written;
    for (ValueId v : graph.inputs) describe(graph[v], names[v.index], proto->add_input(), true);
    for (ValueId v : graph.outputs) describe(graph[v], names[v.index], proto->add_output(), types);
    auto constant = [&](ValueId v) {
      if (!v || !graph[v].is_constant() || !written.insert(v.index).second) return;
      auto* tensor = proto->add_initializer();
      tensor->set_name(names[v.index]);
      onnx_io::from_tensor(graph[v].constant, tensor);
    };
    for (ValueId v : graph.outputs) constant(v);
    for (NodeId id : graph.order()) {
      const Node& node = graph[id];
      for (ValueId v : node.inputs) constant(v);
      auto* out = proto->add_node();
      // A node without a name has its first output's, here and for the importer.
      if (node.outputs.empty() || !node.outputs[0] || names[node.outputs[0].index] != node.name) out->set_name(node.name);
      out->set_op_type(node.op->name);
      if (!node.op->domain.empty()) out->set_domain(node.op->domain);
      if (!node.op->domain.empty()) domains_.insert(node.op->domain);
      if (node.op->domain == kLatheDomain && node.op->name == "UnpackBits") unpacks_bits_ = true;
      for (ValueId v : node.inputs) out->add_input(v ? names[v.index] : "");
      for (ValueId v : node.outputs) out->add_output(v ? names[v.index] : "");
      size_t capture = 0;
      for (const auto& [name, value] : node.attributes) {
        auto* attribute = out->add_attribute();
        attribute->set_name(name);
        write_attribute(value, attribute, node, names, &capture);
      }
    }
  }

  // ONNX forbids a subgraph to reuse a name of an enclosing graph, so all names are made unique together.
  std::vector<std::string> unique_names(const Graph& graph, const std::vector<std::string>& outer) {
    std::vector<std::string> names(graph.value_count());
    for (size_t i = 0; i < graph.captured.size(); ++i) names[graph.captured[i].index] = outer[i];
    auto claim = [&](ValueId v) {
      std::string& name = names[v.index];
      if (!name.empty()) return;
      name = graph[v].name.empty() ? "value" : graph[v].name;
      for (int k = 1; !taken_.insert(name).second; ++k) name = fmt::format("{}_{}", graph[v].name, k);
    };
    for (ValueId v : graph.inputs) claim(v);   // the public names first: they must stay
    for (ValueId v : graph.outputs) claim(v);
    for (size_t i = 0; i < names.size(); ++i) claim({static_cast<int32_t>(i)});
    return names;
  }

  static void describe(const Value& value, const std::string& name, onnx::ValueInfoProto* proto, bool typed) {
    proto->set_name(name);
    if (!typed || value.dtype == DType::kUndefined) return;
    auto* tensor = proto->mutable_type()->mutable_tensor_type();
    tensor->set_elem_type(static_cast<int>(value.dtype));
    if (!value.shape) return;
    auto* shape = tensor->mutable_shape();
    for (size_t i = 0; i < value.shape->size(); ++i) {
      auto* dim = shape->add_dim();
      if ((*value.shape)[i] >= 0) dim->set_dim_value((*value.shape)[i]);
      else if (i < value.dim_names.size() && !value.dim_names[i].empty()) dim->set_dim_param(value.dim_names[i]);
    }
  }

  void write_attribute(const Attribute& value, onnx::AttributeProto* proto, const Node& node,
                       const std::vector<std::string>& names, size_t* capture) {
    using P = onnx::AttributeProto;
    if (auto* i = std::get_if<int64_t>(&value)) { proto->set_type(P::INT); proto->set_i(*i); }
    if (auto* f = std::get_if<float>(&value)) { proto->set_type(P::FLOAT); proto->set_f(*f); }
    if (auto* s = std::get_if<std::string>(&value)) { proto->set_type(P::STRING); proto->set_s(*s); }
    if (auto* t = std::get_if<Tensor>(&value)) { proto->set_type(P::TENSOR); onnx_io::from_tensor(*t, proto->mutable_t()); }
    if (auto* v = std::get_if<std::vector<int64_t>>(&value)) { proto->set_type(P::INTS); for (auto x : *v) proto->add_ints(x); }
    if (auto* v = std::get_if<std::vector<float>>(&value)) { proto->set_type(P::FLOATS); for (auto x : *v) proto->add_floats(x); }
    if (auto* v = std::get_if<std::vector<std::string>>(&value)) { proto->set_type(P::STRINGS); for (auto& x : *v) proto->add_strings(x); }
    if (auto* g = std::get_if<std::shared_ptr<Graph>>(&value)) {
      proto->set_type(P::GRAPH);
      std::vector<std::string> outer;
      for (size_t i = 0; i < (*g)->captured.size(); ++i) outer.push_back(names[node.captures[(*capture)++].index]);
      write_graph(**g, proto->mutable_g(), outer, false);
    }
  }

  std::set<std::string> domains_, taken_;
  bool unpacks_bits_ = false;
};

}  // namespace

std::string onnx_bytes(const Graph& graph, const std::map<std::string, std::string>& metadata) {
  onnx::ModelProto model;
  for (const auto& [key, value] : metadata) {
    auto* entry = model.add_metadata_props();
    entry->set_key(key);
    entry->set_value(value);
  }
  Exporter().run(graph, &model);
  std::string bytes;
  if (model.ByteSizeLong() > static_cast<size_t>(std::numeric_limits<int>::max()))
    fail(ErrorKind::kUnsupported, "the model takes {} bytes, ONNX files end at 2 GiB", model.ByteSizeLong());
  require(model.SerializeToString(&bytes), "the model cannot be serialized");
  return bytes;
}

void export_onnx(const Graph& graph, const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) {
  std::string bytes;
  try {
    bytes = onnx_bytes(graph, metadata);
  } catch (const Error& e) {
    fail(e.kind(), "{}: {}", path.string(), e.what());
  }
  write_file(path, bytes);
}

}  // namespace lathe
