#include "quantize/qdq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "graph/op.h"
#include "transform/passes.h"
#include "transform/quantize/weight_forms.h"

namespace lathe {
namespace {

// Their output's elements are elements of the first input, or lie between them.
const std::set<std::string, std::less<>> kMoves = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "MaxPool", "Expand", "Tile", "SpaceToDepth",
                                                   "DepthToSpace", "Gather", "Identity", "Pad"};
const std::set<std::string, std::less<>> kArithmetic = {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Resize"};
// Functions of one element that a table of codes can hold.
const std::set<std::string, std::less<>> kUnary = {"Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu",
                                                   "Softplus", "Softsign", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Identity"};
const std::set<std::string, std::less<>> kBinary = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"};

class Sites {
 public:
  Sites(const Graph& g, const std::set<int32_t>& products, bool everywhere) : g_(g), order_(g.order()), consumers_(g.consumers()), products_(products), everywhere_(everywhere) {}

  QdqSites find() {
    find_roots();
    if (everywhere_) find_attention();
    find_nodes();
    QdqSites sites;
    sites.nodes = nodes_;
    auto consider = [&](ValueId v) {
      if (wanted(v)) sites.values.push_back(v);
    };
    for (ValueId v : g_.inputs) consider(v);
    for (NodeId id : order_)
      for (ValueId v : g_[id].outputs)
        if (v) consider(v);
    std::set<int32_t> rounded;
    for (ValueId v : sites.values) rounded.insert(v.index);
    for (ValueId v : sites.values) {
      const NodeId producer = g_[v].producer;
      if (producer && nodes_.contains(producer.index) && kMoves.contains(g_[producer].op->name) && rounded.contains(g_[producer].inputs[0].index)) {
        auto found = sites.same_as.find(g_[producer].inputs[0].index);
        sites.same_as[v.index] = found != sites.same_as.end() ? found->second : g_[producer].inputs[0].index;
      }
    }
    return sites;
  }

 private:
  bool is_float(ValueId v) const { return v && g_[v].dtype == DType::kF32 && !g_[v].is_constant(); }
  bool scalar(ValueId v) const { return v && g_[v].is_constant() && g_[v].constant.size() == 1; }
  const std::vector<NodeId>& readers(ValueId v) const { return consumers_[static_cast<size_t>(v.index)]; }

  // Which value each is a function of, element by element: itself where it is none.
  void find_roots() {
    root_.resize(g_.value_count());
    for (size_t i = 0; i < root_.size(); ++i) root_[i] = static_cast<int32_t>(i);
    for (NodeId id : order_) {
      const Node& n = g_[id];
      if (!n.op->domain.empty() || n.outputs.size() != 1 || !is_float(n.outputs[0])) continue;
      if (!kUnary.contains(n.op->name) && !kBinary.contains(n.op->name)) continue;
      int32_t root = -1;
      bool one = true;
      for (ValueId v : n.inputs) {
        if (!v || scalar(v)) continue;
        if (!is_float(v) || (root >= 0 && root != root_[static_cast<size_t>(v.index)])) one = false;
        else root = root_[static_cast<size_t>(v.index)];
      }
      if (one && root >= 0) root_[static_cast<size_t>(n.outputs[0].index)] = root;
    }
  }
  bool unary(const Node& n) const { return n.outputs.size() == 1 && n.outputs[0] && root_[static_cast<size_t>(n.outputs[0].index)] != n.outputs[0].index; }
  // Relu and Clip with known limits: the rounding that follows does their work.
  bool narrows(const Node& n) const {
    if (!n.op->domain.empty()) return false;
    if (n.op->name == "Relu") return true;
    if (n.op->name != "Clip") return false;
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (n.inputs[i] && !scalar(n.inputs[i])) return false;
    return true;
  }

  // softmax(Q·Kᵀ·factor)·V: its nodes hold numbers between that nobody rounds.
  void find_attention() {
    for (NodeId id : order_) {
      const Node& softmax = g_[id];
      if (!is(softmax, "Softmax") || readers(softmax.outputs[0]).size() != 1) continue;
      const NodeId values = readers(softmax.outputs[0])[0];
      if (!is(g_[values], "MatMul") || g_[values].inputs[0] != softmax.outputs[0] || !is_float(g_[values].inputs[1])) continue;
      std::vector<NodeId> inside{id, values};
      const auto factor = [&](NodeId node) { return node && (is(g_[node], "Mul") || is(g_[node], "Div")) && scalar(g_[node].inputs[1]); };
      ValueId v = softmax.inputs[0];
      if (factor(g_[v].producer)) {
        inside.push_back(g_[v].producer);
        v = g_[g_[v].producer].inputs[0];
      }
      const NodeId scores = g_[v].producer;
      if (!scores || !is(g_[scores], "MatMul") || !is_float(g_[scores].inputs[0]) || !is_float(g_[scores].inputs[1])) continue;
      inside.push_back(scores);
      for (ValueId side : g_[scores].inputs)
        if (factor(g_[side].producer)) inside.push_back(g_[side].producer);
      for (NodeId node : inside) attention_.insert(node.index);
      attention_ends_.insert(values.index);
    }
  }
  bool is(const Node& n, std::string_view op) const { return n.op->domain.empty() && n.op->name == op; }
  // What attention alone reads, through moves: it is rounded before them, so that heads stay views of what a product made.
  bool feeds_attention(ValueId v) const {
    if (readers(v).empty()) return false;
    return std::all_of(readers(v).begin(), readers(v).end(), [&](NodeId id) {
      return attention_.contains(id.index) || (g_[id].op->domain.empty() && kMoves.contains(g_[id].op->name) && g_[id].outputs.size() == 1 && feeds_attention(g_[id].outputs[0]));
    });
  }
  // A sum of what a product made and a constant row.
  bool adds_bias(const Node& n) const {
    if (!is(n, "Add")) return false;
    for (int i : {0, 1}) {
      const ValueId row = n.inputs[static_cast<size_t>(i)], x = n.inputs[static_cast<size_t>(1 - i)];
      if (!g_[row].is_constant() || g_[row].constant.rank() != 1 || !is_float(x) || !g_[x].producer) continue;
      return products_.contains(g_[x].producer.index) && readers(x).size() == 1 && g_[g_[x].producer].op->name != "Conv";
    }
    return false;
  }

  bool companion(const Node& n) const {
    if (!n.op->domain.empty()) return false;
    const std::string& op = n.op->name;
    if (everywhere_ && !n.outputs.empty() && is_float(n.outputs[0])) {
      if (op == "LayerNormalization") return is_float(n.inputs[0]);
      if (op == "Add" && n.inputs.size() == 2 && is_float(n.inputs[0]) != is_float(n.inputs[1])) return true;
    }
    if (!kMoves.contains(op) && !kArithmetic.contains(op) && !unary(n)) return false;
    if (n.outputs.empty() || !is_float(n.outputs[0])) return false;
    if (op == "MaxPool" && n.outputs.size() > 1 && n.outputs[1]) return false;
    if (op == "Pad" && (n.get_string("mode") != "constant" || (n.inputs.size() > 2 && n.inputs[2] && !(scalar(n.inputs[2]) && g_[n.inputs[2]].constant.get(0) == 0)))) return false;
    if (op == "Resize" && n.get_string("mode") == "cubic") return false;
    if ((op == "Add" || op == "Mul") && !unary(n)) return is_float(n.inputs[0]) && is_float(n.inputs[1]);
    return is_float(n.inputs[0]);
  }

  // Forward: what is made of codes alone. Backward: what reaches a product, or anything where all is to be codes.
  void find_nodes() {
    std::vector<bool> coded(g_.value_count(), false), reaches(g_.value_count(), false);
    for (ValueId v : g_.inputs) coded[static_cast<size_t>(v.index)] = is_float(v);
    std::set<int32_t> candidates;
    for (NodeId id : order_) {
      const Node& n = g_[id];
      bool on_codes = products_.contains(id.index);
      if (!on_codes && (companion(n) || attention_.contains(id.index))) {
        on_codes = true;
        for (ValueId v : n.inputs)
          if (is_float(v) && !coded[static_cast<size_t>(v.index)]) on_codes = false;
      }
      if (!on_codes) continue;
      candidates.insert(id.index);
      for (ValueId v : n.outputs)
        if (v) coded[static_cast<size_t>(v.index)] = true;
    }
    for (size_t i = order_.size(); i-- > 0;) {
      const Node& n = g_[order_[i]];
      bool keep = products_.contains(order_[i].index);
      if (!keep && candidates.contains(order_[i].index))
        for (ValueId v : n.outputs) keep |= everywhere_ || (v && reaches[static_cast<size_t>(v.index)]);
      if (!keep) continue;
      nodes_.insert(order_[i].index);
      for (ValueId v : n.inputs)
        if (is_float(v)) reaches[static_cast<size_t>(v.index)] = true;
    }
  }

  bool wanted(ValueId v) const {
    if (!is_float(v)) return false;
    bool read = false;
    for (NodeId id : readers(v)) {
      if (!nodes_.contains(id.index)) continue;
      const Node& n = g_[id];
      const bool as_data = n.inputs[0] == v || attention_.contains(id.index) || n.op->name == "Add" || n.op->name == "Mul" || n.op->name == "Concat" || unary(n);
      if (!as_data) continue;
      // Inside one function of an element there is nothing to round.
      if (unary(n) && root_[static_cast<size_t>(v.index)] != v.index) continue;
      read = true;
    }
    if (!read) return false;
    if (everywhere_) {
      const NodeId maker = g_[v].producer;
      if (maker && attention_.contains(maker.index) && !attention_ends_.contains(maker.index)) return false;
      if (maker && nodes_.contains(maker.index) && kMoves.contains(g_[maker].op->name) && feeds_attention(v)) return false;
      if (readers(v).size() == 1 && adds_bias(g_[readers(v)[0]])) return false;
    }
    // Before a Relu or Clip that alone reads it, what a node on codes made is rounded after it.
    const bool output = std::find(g_.outputs.begin(), g_.outputs.end(), v) != g_.outputs.end();
    const NodeId producer = g_[v].producer;
    if (!output && producer && nodes_.contains(producer.index) && !kMoves.contains(g_[producer].op->name) && readers(v).size() == 1) {
      // Through a chain of them.
      const NodeId reader = readers(v)[0];
      if (narrows(g_[reader]) && nodes_.contains(reader.index)) return false;
    }
    return true;
  }

  const Graph& g_;
  std::vector<NodeId> order_;
  std::vector<std::vector<NodeId>> consumers_;
  const std::set<int32_t>& products_;
  const bool everywhere_;
  std::set<int32_t> attention_, attention_ends_;
  std::vector<int32_t> root_;
  std::set<int32_t> nodes_;
};

Tensor typed_codes(const QuantizedTensor& weights) {
  const int bits = weights.spec.bits;
  if (bits > 4) return weights.codes;
  return cast(weights.codes, weights.codes.dtype() == DType::kI8 ? DType::kI4 : DType::kU4);
}

// Whether the codes of a grid keep to the limits of a Relu or Clip by themselves.
bool implied(const Graph& graph, const Node& n, const Grid& grid) {
  if (!n.op->domain.empty()) return false;
  double least = -HUGE_VAL, most = HUGE_VAL;
  if (n.op->name == "Relu") {
    least = 0;
  } else if (n.op->name == "Clip") {
    for (size_t i = 1; i < n.inputs.size(); ++i) {
      if (!n.inputs[i]) continue;
      const Value& limit = graph[n.inputs[i]];
      if (!limit.is_constant() || limit.constant.size() != 1) return false;
      (i == 1 ? least : most) = limit.constant.get(0);
    }
  } else {
    return false;
  }
  // Half a step beyond a limit still rounds to it.
  const double half = 0.49 * static_cast<double>(grid.scale);
  return static_cast<double>(grid.value(grid.low)) > least - half && static_cast<double>(grid.value(grid.high)) < most + half && least <= most;
}

bool few_levels(const Tensor& codes) {
  for (int64_t i = 0; i < codes.size(); ++i)
    if (std::abs(codes.get_int(i)) > 63) return false;
  return true;
}

}  // namespace

QdqSites find_sites(const Graph& graph, const std::set<int32_t>& products, bool everywhere) { return Sites(graph, products, everywhere).find(); }

bool store_weights(Graph& graph, const Layer& layer, const QuantizedTensor& weights) {
  const ValueId old = graph[layer.node].inputs[1];
  const Shape shape = graph[old].constant.shape();
  const bool tensor = weights.spec.granularity == Granularity::kTensor, grouped = weights.spec.granularity == Granularity::kGroup;
  const auto count = static_cast<int64_t>(weights.grids.size());
  if (!weights.grids[0].uniform()) {
    size_t levels = 0;
    for (const Grid& g : weights.grids) levels = std::max(levels, g.levels.size());
    if (levels > 16 || grouped) {
      set_weight_rows(graph, layer, weights.dequantize());
      return false;
    }
    int bits = 1;
    while ((size_t{1} << bits) < levels) ++bits;
    Tensor codebooks(DType::kF32, tensor ? Shape{static_cast<int64_t>(levels)} : Shape{count, static_cast<int64_t>(levels)});
    for (int64_t i = 0; i < count; ++i) {
      const auto& own = weights.grids[static_cast<size_t>(i)].levels;
      for (size_t k = 0; k < levels; ++k) codebooks.data<float>()[static_cast<size_t>(i) * levels + k] = k < own.size() ? own[k] : 0;
    }
    store_as_codebook(graph, old, from_rows(weights.codes, shape, layer.axis), codebooks, bits, static_cast<int>(layer.axis));
    return true;
  }
  const Tensor codes = typed_codes(weights);
  Tensor scales(DType::kF32, {count}), zeros(codes.dtype(), {count});
  bool centred = true;
  for (int64_t i = 0; i < count; ++i) {
    scales.data<float>()[i] = weights.grids[static_cast<size_t>(i)].scale;
    zeros.set_int(i, weights.grids[static_cast<size_t>(i)].zero);
    centred &= weights.grids[static_cast<size_t>(i)].zero == 0;
  }
  if (!grouped) {
    const Shape parameters = tensor ? Shape{} : Shape{count};
    const Tensor s = scales.reshaped(parameters), z = zeros.reshaped(parameters);
    store_as_groups(graph, old, from_rows(codes, shape, layer.axis), s, centred ? nullptr : &z, static_cast<int>(layer.axis), 0);
    return true;
  }
  const int64_t groups = weights.groups_per_row(), group = std::min(weights.spec.group, layer.columns);
  const Tensor s = scales.reshaped({layer.rows, groups}), z = zeros.reshaped({layer.rows, groups});
  if (shape.size() == 2) {
    // Along the columns of the matrix, or, where it lies the other way, along its rows.
    const bool turned = layer.axis == 1;
    const Tensor ts = turned ? transpose(s, {1, 0}) : s, tz = turned ? transpose(z, {1, 0}) : z;
    store_as_groups(graph, old, from_rows(codes, shape, layer.axis), ts, centred ? nullptr : &tz, turned ? 0 : 1, group);
    return true;
  }
  // Groups of a convolution go through its window: as a matrix, in the weights' shape afterwards.
  const std::string name = graph[old].name;
  std::vector<ValueId> inputs{graph.add_constant(codes, name + "_q"), graph.add_constant(s, name + "_scale")};
  if (!centred) inputs.push_back(graph.add_constant(z, name + "_zero"));
  const ValueId matrix = graph.add("DequantizeLinear", inputs, {{"axis", int64_t{1}}, {"block_size", group}});
  const ValueId result = graph.add("Reshape", {matrix, graph.add_constant(Tensor::of_i64(shape))});
  graph[layer.node].inputs[1] = result;
  return true;
}

const Grid* QdqSites::grid_of(const std::map<int32_t, Grid>& grids, ValueId value) const {
  auto same = same_as.find(value.index);
  auto found = grids.find(same != same_as.end() ? same->second : value.index);
  return found == grids.end() ? nullptr : &found->second;
}

ValueId add_rounding(Graph& graph, ValueId value, const Grid& grid, ZeroPoints* zeros) {
  ValueId z;
  const std::pair<bool, int64_t> key{grid.low < 0, grid.zero};
  if (zeros) z = (*zeros)[key];
  if (!z) {
    Tensor zero(grid.low < 0 ? DType::kI8 : DType::kU8, {});
    zero.set_int(0, grid.zero);
    z = graph.add_constant(zero, fmt::format("zero_{}{}", key.first ? "i8_" : "", grid.zero));
  }
  if (zeros) (*zeros)[key] = z;
  const std::string name = graph[value].name;
  const ValueId s = graph.add_constant(Tensor::scalar(grid.scale), name + "_scale");
  return graph.add("DequantizeLinear", {graph.add("QuantizeLinear", {value, s, z}, {}, name + "_q"), s, z}, {}, name + "_dq");
}

void insert_qdq(Graph& graph, const QdqSites& sites, const std::map<int32_t, Grid>& grids, const std::vector<Layer>& layers,
                const std::map<int32_t, QuantizedTensor>& weights, const QdqOptions& options) {
  // Biases first: they want the scale of what the layer reads.
  for (const Layer& layer : layers) {
    auto w = weights.find(layer.node.index);
    if (w == weights.end()) continue;
    const Grid* input = sites.grid_of(grids, graph[layer.node].inputs[0]);
    require(input != nullptr, "the input of {} has no grid", layer.name);
    if (options.fake_weights) {
      const ValueId old = graph[layer.node].inputs[1];
      const auto count = static_cast<int64_t>(w->second.grids.size());
      Tensor scales(DType::kF32, count == 1 ? Shape{} : Shape{count}), zeros(DType::kI8, scales.shape());
      for (int64_t i = 0; i < count; ++i) scales.data<float>()[i] = w->second.grids[static_cast<size_t>(i)].scale, zeros.set_int(i, 0);
      const ValueId s = graph.add_constant(scales, graph[old].name + "_scale"), z = graph.add_constant(zeros, graph[old].name + "_zero");
      const ValueId codes = graph.add("QuantizeLinear", {old, s, z}, {{"axis", layer.axis}});
      graph[layer.node].inputs[1] = graph.add("DequantizeLinear", {codes, s, z}, {{"axis", layer.axis}});
      continue;
    }
    const bool few = options.float_biases && few_levels(w->second.codes);
    store_weights(graph, layer, w->second);
    if (few) continue;
    Node& n = graph[layer.node];
    if (n.inputs.size() < 3 || !n.inputs[2] || !graph[n.inputs[2]].is_constant() || graph[n.inputs[2]].constant.size() != layer.rows) continue;
    const Tensor& bias = graph[n.inputs[2]].constant;
    Tensor codes(DType::kI32, {layer.rows}), scales(DType::kF32, {layer.rows});
    bool fits = true;
    for (int64_t r = 0; r < layer.rows; ++r) {
      const Grid& grid = w->second.grids[w->second.grids.size() == 1 ? 0 : static_cast<size_t>(r)];
      scales.data<float>()[r] = input->scale * grid.scale;
      const double code = std::nearbyint(bias.get(r) / static_cast<double>(scales.data<float>()[r]));
      fits &= std::abs(code) < 2147483000.0;  // also false for a scale that became 0
      codes.set_int(r, fits ? static_cast<int64_t>(code) : 0);
    }
    if (!fits) continue;  // the bias stays in float: such a channel has next to no weights
    const ValueId old = n.inputs[2];
    const std::string name = graph[old].name;
    graph[old].name.clear();  // what is decoded takes its name
    const ValueId value = graph.add("DequantizeLinear", {graph.add_constant(codes, name + "_q"), graph.add_constant(scales, name + "_scale")}, {{"axis", int64_t{0}}}, name);
    graph[layer.node].inputs[2] = value;
  }
  ZeroPoints zeros;
  for (ValueId v : sites.values) {
    const Grid* grid = sites.grid_of(grids, v);
    if (!grid) continue;
    // All readers but the graph's outputs take what the codes stand for.
    const ValueId near = add_rounding(graph, v, *grid, &zeros);
    replace_readers(graph, v, near, graph[graph[graph[near].producer].inputs[0]].producer);
  }
  // A Relu or Clip whose limits the codes keep to by themselves goes: other runtimes would leave integers for it.
  const auto consumers = graph.consumers();
  for (ValueId v : sites.values) {
    const Grid* grid = sites.grid_of(grids, v);
    if (!grid) continue;
    for (NodeId q : consumers[static_cast<size_t>(v.index)]) {
      if (graph[q].op->name != "QuantizeLinear" || graph[q].inputs[0] != v) continue;
      for (ValueId x = v; graph[x].producer;) {
        const Node& n = graph[graph[x].producer];
        if (consumers[static_cast<size_t>(x.index)].size() != 1 || std::find(graph.outputs.begin(), graph.outputs.end(), x) != graph.outputs.end() || !implied(graph, n, *grid)) break;
        x = n.inputs[0];
        graph[q].inputs[0] = x;
      }
    }
  }
  remove_dead(graph);
  infer_shapes(graph);
  graph.compact();
}

}  // namespace lathe
