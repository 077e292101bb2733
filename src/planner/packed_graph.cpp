#include "planner/packed_graph.h"

#include "graph/op.h"

namespace lathe {
namespace {

constexpr int kMaxDepth = 16;    // of subgraphs, as for ONNX
constexpr size_t kMaxRank = 64;  // as for ONNX
constexpr uint64_t kPage = 4096;
constexpr size_t kLarge = 1 << 16;  // bytes from which a page is not wasted: at most a sixteenth

// Bytes that a tensor takes in the section, with room to read one vector past the end.
uint64_t room(size_t bytes) { return (static_cast<uint64_t>(bytes) + 127) / 64 * 64; }

enum TensorForm : uint8_t { kNone, kTypeOnly, kElements };

void write_tensor(const Tensor& t, ByteWriter& out, WeightWriter& weights) {
  out.number<uint8_t>(!t.defined() ? kNone : t.has_elements() ? kElements : kTypeOnly);
  if (!t.defined()) return;
  out.number(static_cast<uint8_t>(t.dtype()));
  out.numbers(t.shape());
  if (t.has_elements()) out.number(weights.add(t));
}

DType read_dtype(ByteReader& in) {
  auto code = in.number<uint8_t>();
  if (code > static_cast<uint8_t>(DType::kU2)) in.broken("element type {} is unknown", code);
  return static_cast<DType>(code);
}

Shape read_shape(ByteReader& in) {
  Shape shape = in.numbers<int64_t>();
  if (shape.size() > kMaxRank) in.broken("a shape has {} dimensions", shape.size());
  for (int64_t size : shape)
    if (size < kUnknownDim) in.broken("a dimension is {}", size);
  return shape;
}

Tensor read_tensor(ByteReader& in, const WeightReader& weights) {
  auto form = in.number<uint8_t>();
  if (form == kNone) return {};
  DType type = read_dtype(in);
  Shape shape = read_shape(in);
  if (size_of(type) == 0 || element_count(shape) > kMaxTensorBytes / static_cast<int64_t>(size_of(type)))
    in.broken("a tensor of type {} and shape {}", name_of(type), to_string(shape));
  if (form == kElements) return weights.read(type, std::move(shape), in.number<uint64_t>());
  if (form != kTypeOnly) in.broken("a tensor of form {}", form);
  return Tensor(type, std::move(shape), nullptr);
}

class GraphWriter {
 public:
  GraphWriter(ByteWriter& out, WeightWriter& weights) : out_(out), weights_(weights) {}

  void graph(const Graph& g) {
    out_.text(g.name);
    out_.count(g.value_count());
    for (size_t i = 0; i < g.value_count(); ++i) value(g[ValueId{static_cast<int32_t>(i)}]);
    for (const auto* list : {&g.inputs, &g.outputs, &g.captured}) ids(*list);
    std::vector<NodeId> order = g.order();
    out_.count(order.size());
    for (NodeId id : order) node(g[id]);
  }

 private:
  void value(const Value& v) {
    out_.text(v.name);
    out_.number(static_cast<uint8_t>(v.dtype));
    out_.number(static_cast<uint8_t>(v.shape.has_value()));
    if (v.shape) out_.numbers(*v.shape);
    out_.count(v.dim_names.size());
    for (const std::string& name : v.dim_names) out_.text(name);
    write_tensor(v.constant, out_, weights_);
  }
  void ids(const std::vector<ValueId>& list) {
    out_.count(list.size());
    for (ValueId v : list) out_.number(v.index);
  }
  void node(const Node& n) {
    out_.text(n.op->domain);
    out_.text(n.op->name);
    out_.text(n.name);
    out_.text(n.scope);
    for (const auto* list : {&n.inputs, &n.outputs, &n.captures}) ids(*list);
    out_.count(n.attributes.size());
    for (const auto& [name, attribute] : n.attributes) {
      out_.text(name);
      out_.number(static_cast<uint8_t>(attribute.index()));
      std::visit([&](const auto& held) { payload(held); }, attribute);
    }
  }
  void payload(int64_t held) { out_.number(held); }
  void payload(float held) { out_.number(held); }
  void payload(const std::string& held) { out_.text(held); }
  void payload(const Tensor& held) { write_tensor(held, out_, weights_); }
  void payload(const std::vector<int64_t>& held) { out_.numbers(held); }
  void payload(const std::vector<float>& held) { out_.numbers(held); }
  void payload(const std::vector<std::string>& held) {
    out_.count(held.size());
    for (const std::string& text : held) out_.text(text);
  }
  void payload(const std::shared_ptr<Graph>& held) { graph(*held); }

  ByteWriter& out_;
  WeightWriter& weights_;
};

class GraphReader {
 public:
  GraphReader(ByteReader& in, const WeightReader& weights) : in_(in), weights_(weights) {}

  Graph graph(int depth) {
    if (depth >= kMaxDepth) in_.broken("subgraphs are nested more than {} deep", kMaxDepth);
    Graph g;
    g.name = in_.text();
    for (size_t left = in_.count(11); left > 0; --left) g.add_value(value());  // the least that a value takes
    for (auto* list : {&g.inputs, &g.outputs, &g.captured}) *list = ids(g, false);
    for (size_t left = in_.count(32); left > 0; --left) g.add_node(node(g, depth));
    if (depth > 0) check_subgraph(g);  // the outermost is checked by restore_plan
    return g;
  }

 private:
  // Reference kernels run subgraphs, which read constants as they are.
  void check_subgraph(const Graph& g) {
    verify(g);
    for (size_t i = 0; i < g.value_count(); ++i)
      if (!g[ValueId{static_cast<int32_t>(i)}].constant.has_elements()) in_.broken("a constant of a subgraph without elements");
  }
  Value value() {
    Value v;
    v.name = in_.text();
    v.dtype = read_dtype(in_);
    if (in_.number<uint8_t>()) v.shape = read_shape(in_);
    v.dim_names.resize(in_.count(4));
    for (std::string& name : v.dim_names) name = in_.text();
    v.constant = read_tensor(in_, weights_);
    if (v.shape && is_static(*v.shape)) element_count(*v.shape);  // throws on overflow
    return v;
  }
  std::vector<ValueId> ids(const Graph& g, bool may_be_omitted) {
    std::vector<ValueId> list(in_.count(4));
    for (ValueId& v : list) {
      v.index = in_.number<int32_t>();
      if (v.index < (may_be_omitted ? -1 : 0) || v.index >= static_cast<int64_t>(g.value_count()))
        in_.broken("value {} of {}", v.index, g.value_count());
    }
    return list;
  }
  Node node(const Graph& g, int depth) {
    Node n;
    std::string domain = in_.text(), op = in_.text();
    n.op = find_op_or_null(op, domain);
    if (!n.op) throw StalePacking(ErrorKind::kUnsupported, fmt::format("operator {}{}{} is not known", domain, domain.empty() ? "" : "::", op));
    n.name = in_.text();
    n.scope = in_.text();
    n.inputs = ids(g, true);
    n.outputs = ids(g, true);
    n.captures = ids(g, false);
    size_t captured = 0;
    for (size_t left = in_.count(5); left > 0; --left) {
      std::string name = in_.text();
      Attribute a = attribute(depth);
      if (auto* graph = std::get_if<std::shared_ptr<Graph>>(&a)) captured += (*graph)->captured.size();
      n.attributes[name] = std::move(a);
    }
    if (captured != n.captures.size()) in_.broken("node '{}' captures {} values, its subgraphs {}", n.name, n.captures.size(), captured);
    if (n.outputs.empty() || !n.outputs[0]) in_.broken("node '{}' makes no first output", n.name);
    return n;
  }
  Attribute attribute(int depth) {
    switch (auto kind = in_.number<uint8_t>()) {
      case 0: return in_.number<int64_t>();
      case 1: return in_.number<float>();
      case 2: return in_.text();
      case 3: {
        Tensor t = read_tensor(in_, weights_);
        if (!t.has_elements()) in_.broken("an attribute without elements");
        return t;
      }
      case 4: return in_.numbers<int64_t>();
      case 5: return in_.numbers<float>();
      case 6: {
        std::vector<std::string> texts(in_.count(4));
        for (std::string& text : texts) text = in_.text();
        return texts;
      }
      case 7: return std::make_shared<Graph>(graph(depth + 1));
      default: in_.broken("an attribute of kind {}", kind);
    }
  }

  ByteReader& in_;
  const WeightReader& weights_;
};

}  // namespace

uint64_t WeightWriter::add(const Tensor& tensor) {
  auto [it, fresh] = offsets_.try_emplace({tensor.raw(), tensor.bytes()}, 0);
  if (!fresh) return it->second;
  uint64_t alignment = tensor.bytes() >= kLarge ? kPage : 64;
  uint64_t offset = (size_ + alignment - 1) / alignment * alignment;
  pieces_.push_back({offset, tensor});
  size_ = offset + room(tensor.bytes());
  return it->second = offset;
}

void WeightWriter::for_each_piece(const std::function<void(const void*, size_t)>& use) const {
  static constexpr char kZeros[kPage + 128] = {};
  uint64_t at = 0;
  for (const Piece& piece : pieces_) {
    use(kZeros, piece.offset - at);
    use(piece.tensor.raw(), piece.tensor.bytes());
    at = piece.offset + piece.tensor.bytes();
  }
  use(kZeros, size_ - at);
}

Tensor WeightReader::read(DType type, Shape shape, uint64_t offset) const {
  Tensor t(type, std::move(shape), nullptr, owner_);
  uint64_t needed = room(t.bytes());
  if (offset % 64 != 0 || offset > section_.size() || needed > section_.size() - offset)
    fail(ErrorKind::kInput, "is corrupt: {} bytes at {} do not lie in the {} bytes of weights", t.bytes(), offset, section_.size());
  // The map is read-only; so are constants.
  return Tensor(type, t.shape(), const_cast<char*>(section_.data()) + offset, owner_);
}

void write_graph(const Graph& graph, ByteWriter& out, WeightWriter& weights) { GraphWriter(out, weights).graph(graph); }
Graph read_graph(ByteReader& in, const WeightReader& weights) { return GraphReader(in, weights).graph(0); }

void write_record(const PlanRecord& record, ByteWriter& out, WeightWriter& weights) {
  out.number(record.slices);
  out.number<uint8_t>(record.patches.has_value());
  if (record.patches) {
    out.number(record.patches->entry.index);
    out.number<uint64_t>(record.patches->nodes);
    out.number(record.patches->strips);
    out.number<uint8_t>(record.patches->cache);
  }
  out.count(record.steps.size());
  for (const PlanRecord::Choice& step : record.steps) {
    out.text(step.kernel_name);
    out.count(step.packed.size());
    for (const PackedInput& packed : step.packed) {
      write_tensor(packed.data, out, weights);
      out.number(packed.layout);
    }
  }
  out.numbers(record.offsets);
}

PlanRecord read_record(ByteReader& in, const WeightReader& weights) {
  PlanRecord record;
  record.slices = in.number<int64_t>();
  if (in.number<uint8_t>() != 0) {
    PatchSetting& patches = record.patches.emplace();
    patches.entry.index = in.number<int32_t>();
    patches.nodes = in.number<uint64_t>();
    patches.strips = in.number<int64_t>();
    patches.cache = in.number<uint8_t>() != 0;
  }
  record.steps.resize(in.count(8));
  for (PlanRecord::Choice& step : record.steps) {
    step.kernel_name = in.text();
    step.packed.resize(in.count(9));
    for (PackedInput& packed : step.packed) {
      packed.data = read_tensor(in, weights);
      if (packed.data.defined() && !packed.data.has_elements()) in.broken("packed weights without elements");
      packed.layout = in.number<uint64_t>();
    }
  }
  record.offsets = in.numbers<int64_t>();
  return record;
}

}  // namespace lathe
