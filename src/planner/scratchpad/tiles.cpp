#include "planner/scratchpad/tiles.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "graph/op.h"

namespace lathe {
namespace {

constexpr int64_t kMostTiles = 64;  // of one operator

// Elements [begin, end) along an axis.
Tensor part_of(const Tensor& t, int64_t axis, int64_t begin, int64_t end) {
  Shape shape = t.shape();
  const size_t outer = static_cast<size_t>(product(shape, 0, static_cast<size_t>(axis))), inner = static_cast<size_t>(product(shape, static_cast<size_t>(axis) + 1, shape.size())) * size_of(t.dtype());
  const auto whole = static_cast<size_t>(shape[static_cast<size_t>(axis)]);
  shape[static_cast<size_t>(axis)] = end - begin;
  Tensor part(t.dtype(), shape);
  const auto* from = static_cast<const char*>(t.raw());
  auto* to = static_cast<char*>(part.raw());
  const size_t block = static_cast<size_t>(end - begin) * inner;
  for (size_t o = 0; o < outer; ++o) std::memcpy(to + o * block, from + (o * whole + static_cast<size_t>(begin)) * inner, block);
  return part;
}

// How a node can be cut.
struct Cut {
  enum class Kind { kWhole, kRows, kChannels } kind = Kind::kWhole;
  int64_t count = 1;
};

class Tiler {
 public:
  Tiler(const Graph& g, int64_t limit) : g_(g), limit_(limit), order_(g.order()), row_axis_(g.value_count(), -1), wanted_(g.value_count(), 1), cuts_(g.node_count()), parts_(g.value_count()) {}

  TiledNetwork run() {
    for (ValueId v : g_.inputs) row_axis_[static_cast<size_t>(v.index)] = input_axis(v);
    for (NodeId id : order_) find_row_axis(g_[id]);
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) choose(*id);
    for (size_t i = 0; i < g_.inputs.size(); ++i) add_input(i);
    for (NodeId id : order_) emit(id);
    for (size_t i = 0; i < g_.outputs.size(); ++i) {
      const Parts& p = parts_[static_cast<size_t>(g_.outputs[i].index)];
      if (p.values.empty()) fail(ErrorKind::kInput, "output '{}' is a constant", g_[g_.outputs[i]].name);
      for (size_t k = 0; k < p.values.size(); ++k) {
        result_.graph.outputs.push_back(p.values[k]);
        result_.outputs.push_back({i, p.axis, p.starts[k], p.starts[k + 1]});
      }
    }
    infer_shapes(result_.graph);
    return std::move(result_);
  }

 private:
  struct Parts {
    int64_t axis = 0;
    std::vector<int64_t> starts;  // one more than parts
    std::vector<ValueId> values;
  };
  const Shape& shape(ValueId v) const {
    const auto& s = g_[v].shape;
    if (!s || !is_static(*s)) fail(ErrorKind::kInput, "the shape of '{}' is known only at run time; tiles are planned for shapes that are known", g_[v].name);
    return *s;
  }
  int64_t bytes(ValueId v) const { return element_count(shape(v)) * static_cast<int64_t>(size_of(g_[v].dtype)); }
  static bool is_lathe(const Node& n, std::string_view name) { return n.op->domain == kLatheDomain && n.op->name == name; }
  static bool is_window(const Node& n) { return is_lathe(n, "Conv") || is_lathe(n, "PlanarConv") || is_lathe(n, "ExpandDepthwise") || is_lathe(n, "Pool"); }
  static bool is_elementwise(const Node& n) {
    static const std::set<std::string_view> kNames = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Gelu", "LeakyRelu", "Elu", "Mish", "Swish", "Sqrt", "Exp", "Max", "Min", "Affine"};
    return kNames.contains(n.op->name);
  }
  int64_t rank(ValueId v) const { return static_cast<int64_t>(shape(v).size()); }

  // Rows of an input are those that all its readers move over.
  int input_axis(ValueId v) const {
    int axis = -1;
    for (NodeId id : order_) {
      const Node& n = g_[id];
      if (std::find(n.inputs.begin(), n.inputs.end(), v) == n.inputs.end()) continue;
      int mine = -1;
      if (is_lathe(n, "PlanarConv")) mine = 2;
      else if (is_window(n)) mine = 1;
      else if ((is_elementwise(n) || is_lathe(n, "MatMul")) && rank(v) >= 3) mine = is_lathe(n, "MatMul") ? static_cast<int>(rank(v)) - 2 : 1;
      if (mine < 0 || (axis >= 0 && axis != mine)) return -1;
      axis = mine;
    }
    return axis;
  }

  void find_row_axis(const Node& n) {
    for (ValueId v : n.outputs) if (v) (void)shape(v);
    if (n.outputs.size() != 1 || !n.captures.empty()) return;
    const ValueId y = n.outputs[0];
    int& axis = row_axis_[static_cast<size_t>(y.index)];
    if (is_window(n)) {
      axis = 1;
    } else if (is_lathe(n, "MatMul")) {
      if (rank(y) >= 3) axis = static_cast<int>(rank(y)) - 2;
    } else if (n.op->name == "LayerNormalization" && n.outputs.size() == 1) {
      if (rank(y) >= 3 && (n.get_int("axis") == -1 || n.get_int("axis") == rank(y) - 1)) axis = static_cast<int>(rank(y)) - 2;
    } else if (n.op->name == "Concat") {
      const int64_t joined = normalize_axis(n.get_int("axis"), rank(y));
      const int first = row_axis_[static_cast<size_t>(n.inputs[0].index)];
      if (first >= 0 && first != joined) axis = first;
    } else if (is_elementwise(n)) {
      for (ValueId v : n.inputs)
        if (v && !g_[v].is_constant() && shape(v) == shape(y) && axis < 0) axis = row_axis_[static_cast<size_t>(v.index)];
      if (axis < 0 && rank(y) >= 3) axis = 1;
      for (ValueId v : n.inputs)  // whatever broadcasts along the rows is taken whole, what does not is cut
        if (v && axis >= 0 && !rows_or_one(v, y, axis)) axis = -1;
    }
    if (axis >= 0 && shape(y)[static_cast<size_t>(axis)] < 2) axis = -1;
  }
  bool rows_or_one(ValueId v, ValueId y, int axis) const {
    const int64_t at = axis - (rank(y) - rank(v));
    if (at < 0) return true;
    const int64_t size = shape(v)[static_cast<size_t>(at)];
    return size == 1 || (size == shape(y)[static_cast<size_t>(axis)] && !g_[v].is_constant());
  }
  bool channels_can_be_cut(const Node& n) const {
    if (n.inputs.size() < 2 || !n.inputs[1] || !g_[n.inputs[1]].is_constant() || !g_[n.inputs[1]].constant.has_elements()) return false;
    return (is_lathe(n, "Conv") && n.get_int("group") == 1) || is_lathe(n, "PlanarConv") || is_lathe(n, "MatMul");
  }

  void choose(NodeId id) {
    const Node& n = g_[id];
    if (n.outputs.size() != 1 || is_view(n)) return;
    const ValueId y = n.outputs[0];
    const int axis = row_axis_[static_cast<size_t>(y.index)];
    int64_t in = 0, weights = 0, residual = 0;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const ValueId v = n.inputs[i];
      if (!v) continue;
      if (g_[v].is_constant()) weights += bytes(v);
      else if (i == 3 && n.op->domain == kLatheDomain) residual += bytes(v);
      else in += bytes(v);
    }
    const int64_t out = bytes(y);
    Cut& cut = cuts_[static_cast<size_t>(id.index)];
    int64_t need = 1;
    if (in + out + weights + residual > limit_) {
      int64_t rows = kMostTiles + 1, channels = kMostTiles + 1;
      if (axis >= 0)
        for (rows = 2; rows <= kMostTiles && (in + out + residual) / rows + weights > limit_;) ++rows;
      if (channels_can_be_cut(n))
        for (channels = 2; channels <= kMostTiles && in + (out + residual + weights) / channels > limit_;) ++channels;
      // Neither reaches it: what comes nearer.
      if (rows > kMostTiles && channels > kMostTiles && axis >= 0) rows = kMostTiles;
      if (channels <= kMostTiles && channels < rows) {
        cut = {Cut::Kind::kChannels, std::min(channels, shape(y).back())};
        return;
      }
      if (rows <= kMostTiles) need = rows;
    }
    if (axis < 0) return;
    const int64_t count = std::min(std::max(need, wanted_[static_cast<size_t>(y.index)]), shape(y)[static_cast<size_t>(axis)]);
    if (count > 1) cut = {Cut::Kind::kRows, count};
    // Its inputs come in parts no larger than its own.
    for (ValueId v : n.inputs)
      if (v && !g_[v].is_constant() && need > 1) wanted_[static_cast<size_t>(v.index)] = std::max(wanted_[static_cast<size_t>(v.index)], need);
  }

  static std::vector<int64_t> split(int64_t size, int64_t count) {
    std::vector<int64_t> starts;
    for (int64_t k = 0; k <= count; ++k) starts.push_back(size * k / count);
    return starts;
  }

  void add_input(size_t i) {
    const ValueId v = g_.inputs[i];
    Parts& p = parts_[static_cast<size_t>(v.index)];
    const int axis = row_axis_[static_cast<size_t>(v.index)];
    const int64_t count = axis < 0 ? 1 : std::min(wanted_[static_cast<size_t>(v.index)], shape(v)[static_cast<size_t>(axis)]);
    p.axis = std::max(axis, 0);
    const int64_t size = shape(v).empty() ? 1 : shape(v)[static_cast<size_t>(p.axis)];
    p.starts = split(size, count);
    for (int64_t k = 0; k < count; ++k) {
      Shape s = shape(v);
      if (count > 1) s[static_cast<size_t>(axis)] = p.starts[static_cast<size_t>(k) + 1] - p.starts[static_cast<size_t>(k)];
      p.values.push_back(result_.graph.add_input(count > 1 ? fmt::format("{}.{}", g_[v].name, k) : g_[v].name, g_[v].dtype, s));
      result_.inputs.push_back({i, p.axis, p.starts[static_cast<size_t>(k)], p.starts[static_cast<size_t>(k) + 1]});
    }
  }

  ValueId constant(ValueId v) {
    Parts& p = parts_[static_cast<size_t>(v.index)];
    if (p.values.empty()) p.values = {result_.graph.add_constant(g_[v].constant, g_[v].name)};
    return p.values[0];
  }
  ValueId glue(std::string_view op, std::vector<ValueId> inputs, Attributes attributes) {
    const ValueId y = result_.graph.add(op, std::move(inputs), std::move(attributes));
    result_.graph[result_.graph[y].producer].scope = std::string(kTileScope);
    return y;
  }
  ValueId numbers(std::vector<int64_t> values) { return result_.graph.add_constant(Tensor::of_i64(values)); }

  // Elements [begin, end) along `axis` of value v, from the parts that there are.
  ValueId range(ValueId v, int64_t axis, int64_t begin, int64_t end) {
    if (g_[v].is_constant()) return constant(v);
    const Parts& p = parts_[static_cast<size_t>(v.index)];
    std::vector<ValueId> used;
    int64_t first = 0, last = shape(v)[static_cast<size_t>(axis)];
    if (p.values.size() > 1 && p.axis == axis) {
      for (size_t k = 0; k < p.values.size(); ++k) {
        if (p.starts[k + 1] <= begin || p.starts[k] >= end) continue;
        if (used.empty()) first = p.starts[k];
        last = p.starts[k + 1];
        used.push_back(p.values[k]);
      }
    } else {
      used = p.values;
    }
    ValueId x = used.size() == 1 ? used[0] : glue("Concat", used, {{"axis", p.axis}});
    if (begin != first || end != last) x = glue("Slice", {x, numbers({begin - first}), numbers({end - first}), numbers({axis})}, {});
    return x;
  }
  ValueId whole(ValueId v) {
    if (g_[v].is_constant()) return constant(v);
    const Parts& p = parts_[static_cast<size_t>(v.index)];
    return p.values.size() == 1 ? p.values[0] : glue("Concat", p.values, {{"axis", p.axis}});
  }

  void emit(NodeId id) {
    const Node& n = g_[id];
    const Cut& cut = cuts_[static_cast<size_t>(id.index)];
    if (cut.kind == Cut::Kind::kWhole || cut.count == 1) return emit_whole(n);
    const ValueId y = n.outputs[0];
    Parts& p = parts_[static_cast<size_t>(y.index)];
    p.axis = cut.kind == Cut::Kind::kRows ? row_axis_[static_cast<size_t>(y.index)] : rank(y) - 1;
    p.starts = split(shape(y)[static_cast<size_t>(p.axis)], cut.count);
    ++result_.tiled_nodes;
    result_.tiles += cut.count;
    for (int64_t k = 0; k < cut.count; ++k) {
      Node tile = n;
      tile.name = fmt::format("{}.{}", n.name, k);
      tile.outputs.clear();
      const int64_t begin = p.starts[static_cast<size_t>(k)], end = p.starts[static_cast<size_t>(k) + 1];
      if (cut.kind == Cut::Kind::kRows) rows(n, tile, p.axis, begin, end);
      else channels(n, tile, p.axis, begin, end);
      const NodeId made = result_.graph.add_node(std::move(tile));
      p.values.push_back(output(made, n.outputs[0], fmt::format("{}.{}", g_[y].name, k)));
    }
  }
  ValueId output(NodeId made, ValueId like, const std::string& name) {
    Graph& t = result_.graph;
    if (t[made].outputs.empty()) {
      Value v;
      v.name = name;
      v.producer = made;
      v.dtype = g_[like].dtype;
      t[made].outputs.push_back(t.add_value(std::move(v)));
    }
    t[t[made].outputs[0]].name = name;
    return t[made].outputs[0];
  }
  void emit_whole(const Node& n) {
    Node copy = n;
    for (ValueId& v : copy.inputs) if (v) v = whole(v);
    copy.outputs.clear();
    const NodeId made = result_.graph.add_node(std::move(copy));
    Graph& t = result_.graph;
    std::vector<ValueId> outputs;
    for (ValueId v : n.outputs) {
      if (!v) {
        outputs.emplace_back();
        continue;
      }
      Value value;
      value.name = g_[v].name;
      value.dtype = g_[v].dtype;
      value.producer = made;
      outputs.push_back(t.add_value(std::move(value)));
      parts_[static_cast<size_t>(v.index)] = {0, {0, shape(v).empty() ? 1 : shape(v)[0]}, {outputs.back()}};
    }
    t[made].outputs = outputs;
  }

  // Rows [begin, end) of the output, from the rows that the window reaches.
  void rows(const Node& n, Node& tile, int64_t axis, int64_t begin, int64_t end) {
    if (is_window(n)) {
      const bool planar = is_lathe(n, "PlanarConv"), expand = is_lathe(n, "ExpandDepthwise"), pool = is_lathe(n, "Pool");
      const int64_t in_axis = planar ? 2 : 1, height = shape(n.inputs[0])[static_cast<size_t>(in_axis)];
      const int64_t kernel = pool ? n.get_ints("kernel_shape")[0] : shape(n.inputs[expand ? 3 : 1])[2];
      const int64_t stride = n.get_ints("strides")[0], dilation = pool || n.get_ints("dilations").empty() ? 1 : n.get_ints("dilations")[0];
      std::vector<int64_t> pads = n.get_ints("pads");
      const int64_t first = begin * stride - pads[0], last = (end - 1) * stride - pads[0] + (kernel - 1) * dilation + 1;
      const int64_t from = std::clamp<int64_t>(first, 0, height - 1), to = std::clamp<int64_t>(last, from + 1, height);
      pads[0] = from - first;
      pads[2] = last - to;
      tile.attributes["pads"] = pads;
      for (size_t i = 0; i < n.inputs.size(); ++i) {
        const ValueId v = n.inputs[i];
        if (!v) continue;
        if (i == 0) tile.inputs[i] = range(v, in_axis, from, to);
        else if (i == 3 && is_lathe(n, "Conv")) tile.inputs[i] = range(v, axis, begin, end);
        else tile.inputs[i] = whole(v);
      }
      return;
    }
    const ValueId y = n.outputs[0];
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const ValueId v = n.inputs[i];
      if (!v) continue;
      const int64_t at = axis - (rank(y) - rank(v));
      const bool cut = !g_[v].is_constant() && at >= 0 && shape(v)[static_cast<size_t>(at)] == shape(y)[static_cast<size_t>(axis)] && shape(v)[static_cast<size_t>(at)] > 1;
      tile.inputs[i] = cut ? range(v, at, begin, end) : whole(v);
    }
  }
  // Channels [begin, end) of the output, from the weights that make them.
  void channels(const Node& n, Node& tile, int64_t axis, int64_t begin, int64_t end) {
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const ValueId v = n.inputs[i];
      if (!v) continue;
      const bool product = is_lathe(n, "MatMul");
      if (i == 1 || i == 2) {
        const int64_t cut = i == 2 ? 0 : product && n.get_int("transposed") == 0 ? 1 : 0;
        tile.inputs[i] = g_[v].is_constant() ? result_.graph.add_constant(part_of(g_[v].constant, cut, begin, end), fmt::format("{}.{}", g_[v].name, begin)) : range(v, cut, begin, end);
      } else if (i == 3) {
        tile.inputs[i] = range(v, axis, begin, end);
      } else {
        tile.inputs[i] = whole(v);
      }
    }
  }

  const Graph& g_;
  int64_t limit_;
  std::vector<NodeId> order_;
  std::vector<int> row_axis_;
  std::vector<int64_t> wanted_;
  std::vector<Cut> cuts_;
  std::vector<Parts> parts_;
  TiledNetwork result_;
};

}  // namespace

TiledNetwork tile_network(const Graph& graph, int64_t operand_bytes) { return Tiler(graph, operand_bytes).run(); }

std::vector<Tensor> TiledNetwork::cut(const std::vector<Tensor>& whole) const {
  std::vector<Tensor> parts;
  for (const TilePart& p : inputs) {
    const Tensor& t = whole.at(p.index);
    parts.push_back(t.shape().empty() ? t : part_of(t, p.axis, p.begin, p.end));
  }
  return parts;
}

std::vector<Tensor> TiledNetwork::join(const std::vector<Tensor>& parts, const Graph& network) const {
  std::vector<Tensor> whole;
  for (ValueId v : network.outputs) whole.emplace_back(network[v].dtype, *network[v].shape);
  for (size_t k = 0; k < outputs.size(); ++k) {
    const TilePart& p = outputs[k];
    Tensor& t = whole[p.index];
    if (t.shape().empty()) {
      t = parts[k];
      continue;
    }
    const size_t outer = static_cast<size_t>(product(t.shape(), 0, static_cast<size_t>(p.axis))), inner = static_cast<size_t>(product(t.shape(), static_cast<size_t>(p.axis) + 1, t.shape().size())) * size_of(t.dtype());
    const size_t block = static_cast<size_t>(p.end - p.begin) * inner;
    for (size_t o = 0; o < outer; ++o)
      std::memcpy(static_cast<char*>(t.raw()) + (o * static_cast<size_t>(t.shape()[static_cast<size_t>(p.axis)]) + static_cast<size_t>(p.begin)) * inner, static_cast<const char*>(parts[k].raw()) + o * block, block);
  }
  return whole;
}

FittedNetwork fit_in_tiles(const Graph& graph, const Scratchpad& scratchpad) {
  // Halos and parts that do not divide make operands larger than a tile's share: smaller shares until all fit.
  for (double part : {1.0, 0.85, 0.7, 0.55, 0.45, 0.35, 0.25, 0.18, 0.12, 0.08}) {
    FittedNetwork fitted{tile_network(graph, static_cast<int64_t>(part * static_cast<double>(scratchpad.capacity))), {}};
    fitted.network = schedule_network(fitted.tiles.graph, scratchpad);
    if (least_capacity(fitted.network.problem) <= scratchpad.capacity || part < 0.1) {
      (void)ScheduleIndex(fitted.network.problem);  // says which operator does not fit
      return fitted;
    }
  }
  fail(ErrorKind::kInternal, "no tiling was tried");
}

}  // namespace lathe
