#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <unordered_map>

#include "formats/onnx.h"
#include "formats/onnx_proto.h"
#include "formats/onnx_strip.h"
#include "formats/onnx_upgrade.h"
#include "graph/op.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using onnx_io::RawNode;

constexpr int kMaxDepth = 16;             // nesting of subgraphs and functions: deeper is an attack
// A few bytes of file must not become gigabytes of zeros: elements that each value of a sparse tensor may stand for.
// Pruned weights keep one in a hundred.
constexpr int64_t kMaxSparseGrowth = 4096, kSmallSparse = 65536;
constexpr size_t kMaxNodes = 4'000'000;
// Of functions, whose calls multiply: sixteen levels of two calls each are 65536 nodes out of a file of 1 KiB. A node takes
// about 1 KiB of memory; the largest models that exporters write as functions inline to some 100'000.
constexpr size_t kMaxInlinedNodes = 400'000;

std::string normal_domain(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

// "/features/features.0/Conv" → "features.features.0": exporters name nodes after their module.
std::string scope_of(const std::string& name) {
  size_t slash = name.rfind('/');
  if (slash == std::string::npos || slash == 0) return "";
  std::string scope = name.substr(name[0] == '/' ? 1 : 0, slash - (name[0] == '/' ? 1 : 0));
  std::replace(scope.begin(), scope.end(), '/', '.');
  return scope;
}

using FunctionTable = std::map<std::pair<std::string, std::string>, const onnx::FunctionProto*>;
using AttributeProtos = std::map<std::string, const onnx::AttributeProto*>;

class Importer {
 public:
  Importer(fs::path folder, const ImportOptions& options) : folder_(std::move(folder)), options_(options) {}
  // Raw data of the graph's initializers that stayed in the file (onnx_strip.h).
  Importer(fs::path folder, const ImportOptions& options, std::vector<std::span<const uint8_t>> raw, std::shared_ptr<const MappedFile> map)
      : folder_(std::move(folder)), options_(options), raw_(std::move(raw)), map_(std::move(map)) {}

  Model run(onnx::ModelProto& proto) {
    check_model(proto.has_graph(), "the file holds no graph: it is not an ONNX model");
    Model model;
    model.ir_version = proto.ir_version();
    model.producer = proto.producer_name();
    for (const auto& opset : proto.opset_import()) model.opsets[normal_domain(opset.domain())] = opset.version();
    for (const auto& entry : proto.metadata_props()) model.metadata[entry.key()] = entry.value();
    opsets_ = &model.opsets;
    for (const auto& function : proto.functions())
      functions_[{normal_domain(function.domain()), function.name()}] = &function;
    Scope scope;
    main_ = &model.graph;
    import_graph(*proto.mutable_graph(), model.graph, scope, 0);
    if (problems_.empty()) verify(model.graph);  // values that stand for what could not be read have no maker
    model.problems = std::move(problems_);
    model.external_data = external_data_;
    return model;
  }

 private:
  // For inspection, what is not supported is noted and left out; everything else that is wrong stays an error.
  template <class Body>
  void tolerate(const std::string& where, Body&& body) {
    try {
      body();
    } catch (const Error& e) {
      if (!options_.allow_unknown || e.kind() != ErrorKind::kUnsupported) throw;
      problems_.push_back(where.empty() ? e.what() : fmt::format("{}: {}", where, e.what()));
    }
  }

  // Names visible in a graph; lookups that miss go to the enclosing graph and become captures.
  struct Scope {
    std::unordered_map<std::string, ValueId> names;
    Graph* graph = nullptr;
    Scope* outer = nullptr;
    std::vector<ValueId> captured_outer;  // in the enclosing graph, parallel to graph->captured
  };

  ValueId look_up(Scope& scope, const std::string& name, const std::string& user) {
    if (auto it = scope.names.find(name); it != scope.names.end()) return it->second;
    check_model(scope.outer, "node '{}' reads '{}', which nothing makes", user, name);
    ValueId outer = look_up(*scope.outer, name, user);
    if (!outer) return scope.names[name] = outer;  // an omitted argument of a function
    Value copy;
    const Value& source = (*scope.outer->graph)[outer];
    copy.name = name;
    copy.dtype = source.dtype;
    copy.shape = source.shape;
    if (source.is_constant()) {  // constants need no capture: the elements are shared
      copy.constant = source.constant;
      return scope.names[name] = scope.graph->add_value(std::move(copy));
    }
    ValueId inner = scope.graph->add_value(std::move(copy));
    scope.graph->captured.push_back(inner);
    scope.captured_outer.push_back(outer);
    return scope.names[name] = inner;
  }

  void set_type(Value& value, const onnx::TypeProto& type) {
    if (!type.has_tensor_type()) {
      if (type.value_case() == onnx::TypeProto::VALUE_NOT_SET) return;
      return tolerate("", [&] {
        fail(ErrorKind::kUnsupported, "value '{}' is not a tensor (sequences, maps and optionals are not supported)", value.name);
      });
    }
    int code = type.tensor_type().elem_type();
    check_model(code >= 0 && code <= 26, "value '{}' has the unknown element type {}", value.name, code);
    value.dtype = static_cast<DType>(code);
    tolerate("", [&] {
      if (code != 0 && size_of(value.dtype) == 0)
        fail(ErrorKind::kUnsupported, "value '{}' has element type {}, which is not supported", value.name, name_of(value.dtype));
    });
    if (!type.tensor_type().has_shape()) return;
    Shape shape;
    for (const auto& dim : type.tensor_type().shape().dim()) {
      bool known = dim.has_dim_value() && dim.dim_value() >= 0;
      shape.push_back(known ? dim.dim_value() : kUnknownDim);
      value.dim_names.push_back(known ? "" : dim.dim_param());
    }
    check_model(shape.size() <= 64, "value '{}' has {} dimensions", value.name, shape.size());
    check_shape(shape);
    value.shape = std::move(shape);
  }

  void import_graph(onnx::GraphProto& proto, Graph& graph, Scope& scope, int depth) {
    check_model(depth < kMaxDepth, "subgraphs are nested more than {} deep", kMaxDepth);
    scope.graph = &graph;
    graph.name = proto.name();
    for (int i = 0; i < proto.initializer_size(); ++i) {
      auto& initializer = *proto.mutable_initializer(i);
      std::string name = initializer.name();
      check_model(!scope.names.contains(name), "two initializers are named '{}'", name);
      bool stripped = depth == 0 && static_cast<size_t>(i) < raw_.size() && !raw_[i].empty() &&
                      initializer.data_location() != onnx::TensorProto::EXTERNAL;
      tolerate("", [&] {
        scope.names[name] = graph.add_constant(stripped ? onnx_io::to_tensor(initializer, raw_[i], map_) : to_tensor(initializer), name);
      });
      if (!scope.names.contains(name)) scope.names[name] = add_unknown(graph, name);
    }
    for (auto& sparse : *proto.mutable_sparse_initializer()) {
      std::string name = sparse.values().name();
      check_model(!scope.names.contains(name), "two initializers are named '{}'", name);
      scope.names[name] = graph.add_constant(dense(sparse), name);
    }
    std::set<std::string> input_names;
    for (const auto& input : proto.input()) {
      check_model(input_names.insert(input.name()).second, "two graph inputs are named '{}'", input.name());
      if (scope.names.contains(input.name())) continue;  // old files list initializers as inputs too
      Value value;
      value.name = input.name();
      set_type(value, input.type());
      ValueId id = graph.add_value(std::move(value));
      graph.inputs.push_back(id);
      scope.names[input.name()] = id;
    }
    for (auto& node : *proto.mutable_node()) import_node(node, scope, depth, nullptr, "");
    for (const auto& output : proto.output()) {
      ValueId id = look_up(scope, output.name(), "graph output");
      check_model(bool(id), "graph output '{}' is an omitted argument", output.name());
      graph.outputs.push_back(id);
      Value& value = graph[id];
      if (value.dtype == DType::kUndefined || !value.shape) {  // what inference could not say, the file may
        Value declared;
        declared.name = output.name();
        set_type(declared, output.type());
        if (value.dtype == DType::kUndefined) value.dtype = declared.dtype;
        if (!value.shape && declared.shape && !is_static(*declared.shape)) value.shape = declared.shape;
      }
    }
  }

  // Stands for what could not be read.
  static ValueId add_unknown(Graph& graph, const std::string& name) {
    Value value;
    value.name = name;
    return graph.add_value(std::move(value));
  }

  Tensor to_tensor(onnx::TensorProto& proto) {
    external_data_ = external_data_ || proto.data_location() == onnx::TensorProto::EXTERNAL;
    Tensor t = onnx_io::to_tensor(proto, folder_);
    (void)t.raw();  // constants of subgraphs, which graphs share, are not left to be aligned by whoever reads them first
    return t;
  }

  Tensor dense(onnx::SparseTensorProto& sparse) {
    Shape shape(sparse.dims().begin(), sparse.dims().end());
    Tensor values = to_tensor(*sparse.mutable_values());
    check_model(element_count(shape) / kMaxSparseGrowth <= values.size() + kSmallSparse / kMaxSparseGrowth,
                "a sparse tensor of shape {} with {} values is too large", to_string(shape), values.size());
    Tensor indices = to_tensor(*sparse.mutable_indices());
    Tensor result(values.dtype(), shape);
    std::memset(result.raw(), 0, result.bytes());
    bool linear = indices.rank() == 1;
    check_model(indices.size() == values.size() * (linear ? 1 : static_cast<int64_t>(shape.size())),
                "a sparse tensor's indices do not match its values");
    std::vector<int64_t> strides = strides_of(shape);
    for (int64_t i = 0; i < values.size(); ++i) {
      int64_t offset = 0;
      if (linear) {
        offset = indices.get_int(i);
      } else {
        for (size_t k = 0; k < shape.size(); ++k) {
          int64_t at = indices.get_int(i * static_cast<int64_t>(shape.size()) + static_cast<int64_t>(k));
          check_model(at >= 0 && at < shape[k], "a sparse tensor's index {} is out of range", at);
          offset += at * strides[k];
        }
      }
      check_model(offset >= 0 && offset < result.size(), "a sparse tensor's index {} is out of range", offset);
      std::memcpy(result.data<char>() + offset * size_of(result.dtype()),
                  values.data<char>() + i * size_of(result.dtype()), size_of(result.dtype()));
    }
    return result;
  }

  // Subgraph attributes: the captures go to the node, in the order of attribute names.
  std::shared_ptr<Graph> import_subgraph(onnx::GraphProto& proto, Scope& scope, int depth,
                                         std::vector<ValueId>& captures) {
    auto graph = std::make_shared<Graph>();
    Scope inner;
    inner.outer = &scope;
    import_graph(proto, *graph, inner, depth + 1);
    captures.insert(captures.end(), inner.captured_outer.begin(), inner.captured_outer.end());
    return graph;
  }

  Attribute import_attribute(onnx::AttributeProto& a, Scope& scope, int depth, std::vector<ValueId>& captures) {
    auto type = a.type();
    if (type == onnx::AttributeProto::UNDEFINED) {  // written by old exporters: guess from what is there
      if (a.has_f()) type = onnx::AttributeProto::FLOAT;
      else if (a.has_i()) type = onnx::AttributeProto::INT;
      else if (a.has_s()) type = onnx::AttributeProto::STRING;
      else if (a.has_t()) type = onnx::AttributeProto::TENSOR;
      else if (a.floats_size()) type = onnx::AttributeProto::FLOATS;
      else if (a.ints_size()) type = onnx::AttributeProto::INTS;
    }
    switch (type) {
      case onnx::AttributeProto::FLOAT: return a.f();
      case onnx::AttributeProto::INT: return int64_t{a.i()};
      case onnx::AttributeProto::STRING: return a.s();
      case onnx::AttributeProto::TENSOR: return to_tensor(*a.mutable_t());
      case onnx::AttributeProto::FLOATS: return std::vector<float>(a.floats().begin(), a.floats().end());
      case onnx::AttributeProto::INTS: return std::vector<int64_t>(a.ints().begin(), a.ints().end());
      case onnx::AttributeProto::STRINGS: return std::vector<std::string>(a.strings().begin(), a.strings().end());
      case onnx::AttributeProto::GRAPH: return import_subgraph(*a.mutable_g(), scope, depth, captures);
      case onnx::AttributeProto::SPARSE_TENSOR: return dense(*a.mutable_sparse_tensor());
      default: fail(ErrorKind::kUnsupported, "attribute '{}' has a type that is not supported", a.name());
    }
  }

  void import_node(onnx::NodeProto& proto, Scope& scope, int depth, const AttributeProtos* arguments,
                   const std::string& prefix) {
    std::string what = fmt::format("node '{}' ({})", prefix + (proto.name().empty() && proto.output_size()
                                   ? proto.output(0) : proto.name()), proto.op_type());
    try {
      import_node_unnamed(proto, scope, depth, arguments, prefix);
    } catch (const Error& e) {
      if (std::string_view(e.what()).starts_with("node '")) throw;
      fail(e.kind(), "{}: {}", what, e.what());
    }
  }

  void import_node_unnamed(onnx::NodeProto& proto, Scope& scope, int depth, const AttributeProtos* arguments,
                           const std::string& prefix) {
    check_model(++nodes_ <= kMaxNodes, "the model has more than {} nodes", kMaxNodes);
    RawNode node;
    node.op = proto.op_type();
    node.domain = normal_domain(proto.domain());
    node.name = prefix + (proto.name().empty() && proto.output_size() ? proto.output(0) : proto.name());
    node.scope = scope_of(node.name);
    for (const auto& input : proto.input())
      node.inputs.push_back(input.empty() ? ValueId{} : look_up(scope, input, node.name));
    auto function = functions_.find({node.domain, node.op});
    bool known = find_op_or_null(node.op, node.domain) || node.op == "Upsample" || node.op == "Constant";
    if (function != functions_.end() && !known) return inline_function(*function->second, proto, node, scope, depth);
    // Attributes in the order of their names, since captures follow that order.
    std::map<std::string, onnx::AttributeProto*> attributes;
    std::vector<onnx::AttributeProto> substituted(proto.attribute_size());
    for (int i = 0; i < proto.attribute_size(); ++i) {
      auto& a = *proto.mutable_attribute(i);
      if (a.ref_attr_name().empty()) { attributes[a.name()] = &a; continue; }
      if (!arguments || !arguments->contains(a.ref_attr_name())) continue;
      substituted[i] = *arguments->at(a.ref_attr_name());
      substituted[i].set_name(a.name());
      attributes[a.name()] = &substituted[i];
    }
    std::string where = fmt::format("node '{}' ({})", node.name, node.op);
    if (node.op == "Constant" && node.domain.empty()) {
      tolerate(where, [&] { import_constant(attributes, proto, scope); });
      if (proto.output_size() == 1 && !scope.names.contains(proto.output(0)))
        scope.names[proto.output(0)] = add_unknown(*scope.graph, proto.output(0));
      return;
    }
    for (auto& [name, a] : attributes)
      tolerate(where, [&, &name = name, &a = a] { node.attributes[name] = import_attribute(*a, scope, depth, node.captures); });
    std::set<std::string_view> made;
    for (const auto& output : proto.output()) {
      check_model(output.empty() || made.insert(output).second, "makes value '{}' twice", output);
      if (output.empty()) { node.outputs.push_back({}); continue; }
      check_model(!scope.names.contains(output), "value '{}' has two producers", output);
      Value value;
      value.name = output;
      node.outputs.push_back(scope.graph->add_value(std::move(value)));
    }
    // Loop may leave out trip count and condition, and have nothing after them.
    size_t fewest = node.op == "Loop" && node.domain.empty() ? 2 : 0;
    while (node.inputs.size() > fewest && !node.inputs.back()) node.inputs.pop_back();
    while (!node.outputs.empty() && !node.outputs.back()) node.outputs.pop_back();
    std::vector<ValueId> results = node.outputs;
    int64_t version = kOnnxOpset;
    if (auto it = opsets_->find(node.domain); it != opsets_->end()) version = it->second;
    std::vector<RawNode> nodes{node};
    if (node.domain.empty() && known) nodes = onnx_io::upgrade(*scope.graph, std::move(node), version);
    for (RawNode& n : nodes) add(std::move(n), *scope.graph);
    int i = 0;
    for (const auto& output : proto.output()) {
      if (i < static_cast<int>(results.size()) && results[i]) scope.names[output] = results[i];
      ++i;
    }
  }

  void add(RawNode raw, Graph& graph) {
    Node node;
    // Operators that fusion makes rely on what fusion checked; from a file they would come unchecked.
    const Op* op = find_op_or_null(raw.op, raw.domain);
    if (raw.domain == kLatheDomain && op && !op->in_files) op = nullptr;
    if (raw.domain == kLatheDomain && !op && !options_.allow_unknown)
      fail(ErrorKind::kUnsupported, "operators of {} are made when a network is planned; a file may not hold them", kLatheDomain);
    if (!op && !options_.allow_unknown)
      fail(ErrorKind::kUnsupported, "operator {}{}{} is not supported", raw.domain, raw.domain.empty() ? "" : "::", raw.op);
    if (!op) node.own_op = make_unknown_op(raw.op, raw.domain);
    node.op = op ? op : node.own_op.get();
    node.name = std::move(raw.name);
    node.scope = std::move(raw.scope);
    node.inputs = std::move(raw.inputs);
    node.outputs = std::move(raw.outputs);
    node.captures = std::move(raw.captures);
    node.attributes = std::move(raw.attributes);
    check_node(graph, node);
    const Op* rule = node.op;
    NodeId id = graph.add_node(std::move(node));
    InferContext context(graph, id);
    try {
      rule->infer(context);
    } catch (const Error& e) {
      // A branch that is never taken may be impossible for the shapes at hand: only running it is an error. Nor
      // can a rule be blamed for what it makes of a value that could not be read.
      if ((&graph == main_ && problems_.empty()) || e.kind() != ErrorKind::kModel) throw;
      for (size_t i = 0; i < context.output_count(); ++i) context.set_output(i, DType::kUndefined);
    }
  }

  // What infer rules rely on: enough inputs, none of the required ones missing, attributes as declared.
  static void check_node(const Graph&, const Node& node) {
    const Op& op = *node.op;
    if (!op.supported) return;
    auto inputs = static_cast<int>(node.inputs.size()), outputs = static_cast<int>(node.outputs.size());
    check_model(inputs >= op.minimum_inputs && (op.maximum_inputs < 0 || inputs <= op.maximum_inputs),
                "takes {} to {} inputs, found {}", op.minimum_inputs, op.maximum_inputs, inputs);
    check_model(outputs >= op.minimum_outputs && (op.maximum_outputs < 0 || outputs <= op.maximum_outputs),
                "makes {} to {} outputs, found {}", op.minimum_outputs, op.maximum_outputs, outputs);
    for (int i = 0; i < op.minimum_inputs; ++i) check_model(bool(node.inputs[i]), "input {} is missing", i);
    for (const auto& [name, value] : node.attributes) {
      const AttributeSpec* spec = op.find(name);
      check_model(spec, "has no attribute '{}'", name);
      check_model(spec->default_value.index() == value.index(), "attribute '{}' has the wrong type", name);
    }
    for (const AttributeSpec& spec : op.attributes)
      check_model(!spec.required || node.attributes.contains(spec.name), "attribute '{}' is missing", spec.name);
  }

  void import_constant(std::map<std::string, onnx::AttributeProto*>& attributes, const onnx::NodeProto& proto, Scope& scope) {
    check_model(attributes.size() == 1 && proto.output_size() == 1, "Constant takes one attribute and makes one output");
    onnx::AttributeProto& a = *attributes.begin()->second;
    const std::string& name = attributes.begin()->first;
    Tensor t;
    if (name == "value") {
      t = to_tensor(*a.mutable_t());
    } else if (name == "sparse_value") {
      t = dense(*a.mutable_sparse_tensor());
    } else if (name == "value_float") {
      t = Tensor::scalar(a.f());
    } else if (name == "value_floats") {
      t = Tensor::of_f32({a.floats_size()}, {a.floats().begin(), a.floats().end()});
    } else if (name == "value_int") {
      t = Tensor(DType::kI64, {});
      t.set_int(0, a.i());
    } else if (name == "value_ints") {
      t = Tensor::of_i64({a.ints().begin(), a.ints().end()});
    } else {
      fail(ErrorKind::kUnsupported, "Constant with '{}' is not supported", name);
    }
    check_model(!scope.names.contains(proto.output(0)), "value '{}' has two producers", proto.output(0));
    scope.names[proto.output(0)] = scope.graph->add_constant(std::move(t), proto.output(0));
  }

  void inline_function(const onnx::FunctionProto& function, const onnx::NodeProto& call, const RawNode& node,
                       Scope& scope, int depth) {
    check_model(depth < kMaxDepth, "functions are nested more than {} deep", kMaxDepth);
    AttributeProtos arguments;
    for (const auto& a : call.attribute()) arguments[a.name()] = &a;
    // The body sees only its own names.
    Scope body;
    body.graph = scope.graph;
    check_model(static_cast<int>(node.inputs.size()) <= function.input_size(), "function '{}' takes {} inputs, found {}",
                function.name(), function.input_size(), node.inputs.size());
    for (int i = 0; i < function.input_size(); ++i)
      body.names[function.input(i)] = i < static_cast<int>(node.inputs.size()) ? node.inputs[i] : ValueId{};
    std::map<std::string, int64_t> opsets = *opsets_;
    for (const auto& opset : function.opset_import()) opsets[normal_domain(opset.domain())] = opset.version();
    std::swap(opsets, *opsets_);
    for (const auto& inner : function.node()) {
      check_model(++inlined_ <= kMaxInlinedNodes, "the functions of the model come to more than {} nodes", kMaxInlinedNodes);
      onnx::NodeProto copy = inner;
      import_node(copy, body, depth + 1, &arguments, node.name + "/");
    }
    std::swap(opsets, *opsets_);
    for (int i = 0; i < call.output_size(); ++i) {
      if (call.output(i).empty()) continue;
      check_model(i < function.output_size(), "function '{}' makes {} outputs", function.name(), function.output_size());
      check_model(!scope.names.contains(call.output(i)), "value '{}' has two producers", call.output(i));
      ValueId result = look_up(body, function.output(i), node.name);
      scope.names[call.output(i)] = result;
      if (result && !(*scope.graph)[result].is_constant() && (*scope.graph)[result].producer)
        (*scope.graph)[result].name = call.output(i);
    }
  }

  fs::path folder_;
  ImportOptions options_;
  std::map<std::string, int64_t>* opsets_ = nullptr;
  FunctionTable functions_;
  const Graph* main_ = nullptr;
  size_t nodes_ = 0, inlined_ = 0;
  std::vector<std::string> problems_;
  bool external_data_ = false;
  std::vector<std::span<const uint8_t>> raw_;
  std::shared_ptr<const MappedFile> map_;
};

void parse(std::string_view bytes, onnx::ModelProto& proto, const std::string& what) {
  bool fits = bytes.size() <= static_cast<size_t>(std::numeric_limits<int>::max());  // a limit of protobuf
  if (!fits || !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    fail(ErrorKind::kInput, "{} is not a readable ONNX model: it is truncated or of another format", what);
}

}  // namespace

Model import_onnx(const fs::path& path, const ImportOptions& options) {
  if (!fs::is_regular_file(path))
    fail(ErrorKind::kInput, "cannot open model '{}': {}", path.string(), fs::exists(path) ? "not a readable file" : "no such file");
  auto map = MappedFile::open(path.string());
  fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::string what = "'" + path.string() + "'";
  try {
    std::optional<onnx_io::StrippedModel> stripped = onnx_io::strip_raw_data(map->bytes());
    onnx::ModelProto proto;
    std::string_view bytes = stripped ? std::string_view(stripped->proto) : std::string_view(reinterpret_cast<const char*>(map->data()), map->size());
    parse(bytes, proto, what);
    if (!stripped) return Importer(folder, options).run(proto);
    std::string().swap(stripped->proto);
    return Importer(folder, options, std::move(stripped->raw), std::move(map)).run(proto);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kInput) throw;
    fail(e.kind(), "{}: {}", path.filename().string(), e.what());
  }
}

Model import_onnx_bytes(std::string_view bytes, const fs::path& folder, const ImportOptions& options) {
  onnx::ModelProto proto;
  parse(bytes, proto, "the buffer");
  return Importer(folder, options).run(proto);
}

}  // namespace lathe
