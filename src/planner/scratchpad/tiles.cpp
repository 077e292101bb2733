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
  enum class Kind { kWhole, kRows, kChannels, kSums } kind = Kind::kWhole;
  int64_t count = 1;
};

class Tiler {
 public:
  Tiler(const Graph& g, const std::vector<int64_t>& limits) : g_(g), limits_(limits), order_(g.order()), row_axis_(g.value_count(), -1), wanted_(g.value_count(), 1), cuts_(g.node_count()), parts_(g.value_count()) {}

  TiledNetwork run() {
    for (ValueId v : g_.inputs) row_axis_[static_cast<size_t>(v.index)] = input_axis(v);
    for (NodeId id : order_) find_row_axis(g_[id]);
    for (size_t i = order_.size(); i-- > 0;) choose(order_[i]);
    for (size_t i = 0; i < g_.inputs.size(); ++i) add_input(i);
    for (NodeId id : order_) {
      emit(id);
      result_.origin.resize(result_.graph.node_count(), id);
    }
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
  // Of a picture with channels last, by constants.
  bool is_row_pad(const Node& n) const {
    return n.op->name == "Pad" && n.op->domain.empty() && n.get_string("mode") == "constant" && rank(n.outputs[0]) == 4 && n.inputs.size() >= 2 && n.inputs[1] && g_[n.inputs[1]].is_constant() &&
           g_[n.inputs[1]].constant.size() == 8 && (n.inputs.size() < 4 || !n.inputs[3]);
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
      else if (is_window(n) || is_lathe(n, "ConvTranspose")) mine = 1;
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
    if (is_window(n) || is_lathe(n, "ConvTranspose") || is_row_pad(n)) {
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
    return (is_lathe(n, "Conv") && n.get_int("group") == 1) || is_lathe(n, "PlanarConv") || is_lathe(n, "ConvTranspose") || is_lathe(n, "MatMul");
  }

  // A mean over rows and columns of a picture.
  bool sums_parts(const Node& n) const {
    if (n.op->name != "ReduceMean" || n.inputs.size() < 2 || !n.inputs[1] || !g_[n.inputs[1]].is_constant() || rank(n.inputs[0]) != 4) return false;
    std::vector<int64_t> axes = g_[n.inputs[1]].constant.to_i64();
    std::sort(axes.begin(), axes.end());
    return axes == std::vector<int64_t>{1, 2} && g_[n.inputs[0]].dtype == DType::kF32 && row_axis_[static_cast<size_t>(n.inputs[0].index)] == 1;
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
    const int64_t out = bytes(y), limit = limits_[static_cast<size_t>(id.index)];
    Cut& cut = cuts_[static_cast<size_t>(id.index)];
    int64_t need = 1;
    if (sums_parts(n)) {
      // The mean of a picture is that of the sums of its parts.
      const int64_t parts = std::min<int64_t>((in + limit - 1) / std::max<int64_t>(limit - out, 1), kMostTiles);
      if (in + out > limit) wanted_[static_cast<size_t>(n.inputs[0].index)] = std::max(wanted_[static_cast<size_t>(n.inputs[0].index)], parts);
      cut = {Cut::Kind::kSums, 1};
      return;
    }
    if (in + out + weights + residual > limit) {
      int64_t rows = kMostTiles + 1, channels = kMostTiles + 1;
      if (axis >= 0)
        for (rows = 2; rows <= kMostTiles && (in + out + residual) / rows + weights > limit;) ++rows;
      // A residual is there as a whole: its parts are rows, if anything.
      if (channels_can_be_cut(n))
        for (channels = 2; channels <= kMostTiles && in + residual + (out + weights) / channels > limit;) ++channels;
      if (rows > kMostTiles && channels > kMostTiles) {  // neither reaches it: what comes nearer
        const bool by_channels = channels_can_be_cut(n) && (axis < 0 || in + residual < weights);
        if (by_channels) channels = kMostTiles;
        else if (axis >= 0) rows = kMostTiles;
      }
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
  ValueId numbers(const std::vector<int64_t>& values) { return result_.graph.add_constant(Tensor::of_i64(values)); }

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
    if (cut.kind == Cut::Kind::kSums)
      if (const Parts& in = parts_[static_cast<size_t>(n.inputs[0].index)]; in.values.size() > 1) return in.axis == 1 ? emit_sums(n) : emit_means(n);
    if (cut.kind == Cut::Kind::kWhole || cut.kind == Cut::Kind::kSums || cut.count == 1) return emit_whole(n);
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
  // Σ over the parts of their sums, divided by the number of elements.
  void emit_sums(const Node& n) {
    const ValueId y = n.outputs[0];
    const Parts in = parts_[static_cast<size_t>(n.inputs[0].index)];
    Graph& t = result_.graph;
    ValueId sum;
    for (ValueId part : in.values) {
      const ValueId partial = t.add("ReduceSum", {part, constant(n.inputs[1])}, {{"keepdims", n.get_int("keepdims")}}, fmt::format("{}.sum", n.name));
      sum = sum ? t.add("Add", {sum, partial}, {}, fmt::format("{}.add", n.name)) : partial;
    }
    const Shape& x = shape(n.inputs[0]);
    const ValueId mean = t.add("Mul", {sum, t.add_constant(Tensor::scalar(1.0f / static_cast<float>(x[1] * x[2])))}, {}, n.name);
    t[mean].name = g_[y].name;
    parts_[static_cast<size_t>(y.index)] = {0, {0, shape(y)[0]}, {mean}};
    ++result_.tiled_nodes;
    result_.tiles += static_cast<int64_t>(in.values.size());
  }
  // Of parts that hold channels, each has its own means.
  void emit_means(const Node& n) {
    const ValueId y = n.outputs[0];
    const Parts in = parts_[static_cast<size_t>(n.inputs[0].index)];
    Parts& out = parts_[static_cast<size_t>(y.index)];
    out = {rank(y) - 1, in.starts, {}};
    for (ValueId part : in.values) out.values.push_back(result_.graph.add("ReduceMean", {part, constant(n.inputs[1])}, {{"keepdims", n.get_int("keepdims")}}, fmt::format("{}.{}", n.name, out.values.size())));
    ++result_.tiled_nodes;
    result_.tiles += static_cast<int64_t>(in.values.size());
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
    if (is_row_pad(n)) {
      std::vector<int64_t> pads = g_[n.inputs[1]].constant.to_i64();
      const int64_t height = shape(n.inputs[0])[1], first = begin - pads[1], last = end - pads[1];
      const int64_t from = std::clamp<int64_t>(first, 0, height - 1), to = std::clamp<int64_t>(last, from + 1, height);
      pads[1] = from - first;
      pads[5] = last - to;
      tile.inputs[0] = range(n.inputs[0], 1, from, to);
      tile.inputs[1] = numbers(pads);
      if (n.inputs.size() > 2 && n.inputs[2]) tile.inputs[2] = whole(n.inputs[2]);
      return;
    }
    if (is_lathe(n, "ConvTranspose")) {
      // Row i of the input reaches rows i·stride to i·stride + reach − 1 before the pads are taken off.
      const int64_t stride = n.get_ints("strides")[0], reach = (shape(n.inputs[1])[2] - 1) * n.get_ints("dilations")[0] + 1, height = shape(n.inputs[0])[1];
      std::vector<int64_t> pads = n.get_ints("pads"), extra = n.get_ints("output_padding");
      const int64_t first = begin + pads[0], last = end + pads[0];
      const int64_t from = std::clamp<int64_t>(std::min((std::max<int64_t>(first - reach + 1, 0) + stride - 1) / stride, first / stride), 0, height - 1);
      const int64_t to = std::clamp<int64_t>((last - 1) / stride + 1, from + 1, height);
      const int64_t made = (to - from - 1) * stride + reach;
      pads[0] = first - from * stride;
      pads[2] = std::max<int64_t>(0, made - pads[0] - (end - begin));
      extra[0] = std::max<int64_t>(0, pads[0] + (end - begin) - made);
      tile.attributes["pads"] = pads;
      tile.attributes["output_padding"] = extra;
      for (size_t i = 0; i < n.inputs.size(); ++i)
        if (n.inputs[i]) tile.inputs[i] = i == 0 ? range(n.inputs[i], 1, from, to) : whole(n.inputs[i]);
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
        const int64_t cut = i == 2 ? 0 : (product && n.get_int("transposed") == 0) || is_lathe(n, "ConvTranspose") ? 1 : 0;
        tile.inputs[i] = g_[v].is_constant() ? result_.graph.add_constant(part_of(g_[v].constant, cut, begin, end), fmt::format("{}.{}", g_[v].name, begin)) : range(v, cut, begin, end);
      } else if (i == 3) {
        tile.inputs[i] = range(v, axis, begin, end);
      } else {
        tile.inputs[i] = whole(v);
      }
    }
  }

  const Graph& g_;
  const std::vector<int64_t>& limits_;  // by node: bytes of the operands of one tile
  std::vector<NodeId> order_;
  std::vector<int> row_axis_;
  std::vector<int64_t> wanted_;
  std::vector<Cut> cuts_;
  std::vector<Parts> parts_;
  TiledNetwork result_;
};

}  // namespace

TiledNetwork tile_network(const Graph& graph, const std::vector<int64_t>& operand_bytes) { return Tiler(graph, operand_bytes).run(); }

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

namespace {

// Smaller shares for the operators that do not fit, until all do; false where one cannot be cut so far.
bool fits(const Graph& graph, const Scratchpad& scratchpad, double share, FittedNetwork& fitted) {
  std::vector<int64_t> limits(graph.node_count(), static_cast<int64_t>(share * static_cast<double>(scratchpad.capacity)));
  for (int round = 0; round < 24; ++round) {
    fitted.tiles = tile_network(graph, limits);
    fitted.network = schedule_network(fitted.tiles.graph, scratchpad);
    const ScheduleIndex index(fitted.network.problem, false);
    if (index.largest_demand <= scratchpad.capacity) return true;
    std::set<int32_t> large;
    for (size_t k = 0; k < index.operator_count; ++k)
      if (index.demand[k] > scratchpad.capacity) large.insert(fitted.tiles.origin[static_cast<size_t>(fitted.network.nodes[k].back().index)].index);
    for (int32_t node : large) limits[static_cast<size_t>(node)] = std::max<int64_t>(1, limits[static_cast<size_t>(node)] * 3 / 4);
  }
  return false;
}

}  // namespace

FittedNetwork fit_in_tiles(const Graph& graph, const Scratchpad& scratchpad) {
  constexpr size_t kMostOperators = 1200;  // more take longer to plan than they save
  FittedNetwork best, last;
  double least = 0;
  for (double share : {1.0, 0.6, 0.4, 0.25, 0.15}) {
    FittedNetwork fitted;
    if (!fits(graph, scratchpad, share, fitted)) {
      last = std::move(fitted);
      continue;
    }
    const size_t operators = fitted.network.problem.operators.size();
    if (!best.network.nodes.empty() && operators > kMostOperators) break;
    const double cost = schedule_scratchpad(fitted.network.problem).cost;
    if (best.network.nodes.empty() || cost < least) {
      least = cost;
      best = std::move(fitted);
    }
    if (cost == 0) break;
  }
  if (best.network.nodes.empty()) (void)ScheduleIndex(last.network.problem);  // says which operator does not fit
  return best;
}

}  // namespace lathe
