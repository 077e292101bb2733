// Which nodes can run on tiles, and what a tile needs of each map.
#include <algorithm>
#include <set>
#include <string_view>

#include "graph/op.h"
#include "graph/ops/window.h"
#include "transform/patches.h"

namespace lathe {

bool is_elementwise(const Node& node) {
  static const std::set<std::string_view> kElementwise = {
      "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div",
      "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
      "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu",
      "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
      "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor", "QuantizeLinear", "DequantizeLinear"};
  return node.op->domain.empty() && kElementwise.contains(node.op->name);
}

namespace {

using Ints = std::vector<int64_t>;

constexpr int kFirst = 2, kLast = 1;  // patch_axis() of channels-first and channels-last maps

const std::set<std::string_view> kPoolings = {"MaxPool", "AveragePool", "LpPool"};
// Operators of ai.lathe whose input 0 is seen through a window over [N, H, W, C] (PlanarConv: [N, C, H, W]).
const std::set<std::string_view> kLatheWindows = {"Conv", "PlanarConv", "ExpandDepthwise", "Pool", "IntegerConv", "IntegerPool", "CodedConv"};
const std::set<std::string_view> kLatheElementwise = {"IntegerAdd", "IntegerMul", "Table", "StarRelu", "Affine", "ChannelShuffle"};

std::string described(const Node& n) { return fmt::format("node '{}' ({})", n.name, n.op->name); }

// Finds out what can be taken from one entry on.
class PrefixFinder {
 public:
  PrefixFinder(const Graph& g, ValueId entry, int axis) : g_(g), axis_(g.value_count(), 0), fixed_(g.value_count(), false) {
    axis_[entry.index] = prefix_.whole.axes[entry] = axis;
    prefix_.whole.entry = entry;
  }

  PatchPrefix find() {
    const std::vector<std::vector<NodeId>> readers = g_.consumers();
    std::vector<bool> is_output(g_.value_count(), false), taken(g_.node_count(), false);
    for (ValueId v : g_.outputs) is_output[v.index] = true;
    for (NodeId id : g_.order()) {
      const Node& n = g_[id];
      const auto fixed = [&](ValueId v) { return !v || is_fixed(v); };
      if (std::all_of(n.inputs.begin(), n.inputs.end(), fixed) && n.captures.empty()) {
        for (ValueId v : n.outputs)
          if (v) fixed_[v.index] = true;
        continue;
      }
      const auto touches = [&](ValueId v) { return is_map(v); };
      if (std::none_of(n.inputs.begin(), n.inputs.end(), touches) && std::none_of(n.captures.begin(), n.captures.end(), touches)) continue;
      PatchNode node{id, {}, {}, false};
      int axis = 0;
      prefix_.stop = refusal(n, node, axis);
      if (!prefix_.stop.empty()) break;
      for (ValueId v : n.outputs)
        if (v) axis_[v.index] = prefix_.whole.axes[v] = axis;
      taken[id.index] = true;
      prefix_.whole.nodes.push_back(std::move(node));
      if (ValueId exit = only_exit(readers, is_output, taken)) {
        prefix_.ends.push_back(prefix_.whole.nodes.size());
        prefix_.exits.push_back(exit);
        prefix_.whole.exit = exit;
      }
    }
    return std::move(prefix_);
  }

 private:
  bool is_map(ValueId v) const { return v && axis_[v.index] != 0; }
  bool is_fixed(ValueId v) const { return g_[v].is_constant() || fixed_[v.index]; }

  // The one map that is read by what was not taken or is an output; none when there are several or the entry is among them.
  ValueId only_exit(const std::vector<std::vector<NodeId>>& readers, const std::vector<bool>& is_output, const std::vector<bool>& taken) const {
    ValueId exit;
    const auto leaves = [&](ValueId v) {
      return is_output[v.index] || std::any_of(readers[v.index].begin(), readers[v.index].end(), [&](NodeId r) { return !taken[r.index]; });
    };
    if (leaves(prefix_.whole.entry)) return {};
    for (const PatchNode& n : prefix_.whole.nodes)
      for (ValueId v : g_[n.node].outputs) {
        if (!v || !leaves(v)) continue;
        if (exit) return {};
        exit = v;
      }
    return exit && !is_output[exit.index] && waits_for_rounding(readers, exit) ? ValueId{} : exit;
  }

  // Between an operator and the QuantizeLinear behind it nothing may stand, or it would not run on codes (transform/integer.cpp), and
  // round otherwise.
  bool waits_for_rounding(const std::vector<std::vector<NodeId>>& readers, ValueId v) const {
    while (readers[v.index].size() == 1) {
      const Node& n = g_[readers[v.index][0]];
      if (n.op->name == "QuantizeLinear") return true;
      if (!is_elementwise(n) || n.outputs.size() != 1 || g_[n.outputs[0]].shape != g_[v].shape) return false;
      v = n.outputs[0];
    }
    return false;
  }

  // Fills in `node` and the axis of what it makes. Why it cannot run on tiles, or "".
  std::string refusal(const Node& n, PatchNode& node, int& axis) {
    node.inputs.assign(n.inputs.size(), PatchInput::kFixed);
    if (!n.op->supported || !n.captures.empty() || n.outputs.empty() || !n.outputs[0]) return described(n) + " is not an operator on maps";
    for (ValueId v : n.inputs)
      if (v && (!g_[v].shape || !is_static(*g_[v].shape))) return described(n) + " reads a value of unknown shape";
    for (ValueId v : n.outputs)
      if (v && (!g_[v].shape || g_[v].shape->size() != 4 || !is_static(*g_[v].shape) || element_count(*g_[v].shape) == 0)) return reason(n);
    for (ValueId v : n.inputs)
      if (v && !is_map(v) && !is_fixed(v)) return described(n) + " reads what does not come from the stage's entry";
    if (n.op->domain.empty()) return standard(n, node, axis);
    if (n.op->domain == kLatheDomain) return own(n, node, axis);
    return reason(n);
  }

  static std::string reason(const Node& n) {
    const std::string& op = n.op->name;
    if (op.starts_with("Global") || op.starts_with("Reduce")) return described(n) + " sees the whole map";
    if (op == "Attention" || op == "MatMul" || op == "Softmax" || op.ends_with("Normalization")) return described(n) + " mixes places that lie far apart";
    if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Transpose") return described(n) + " gives the map another shape";
    return described(n) + " is not known to work at one place of a map";
  }

  std::string elementwise(const Node& n, PatchNode& node, int& axis) {
    const Shape& y = *g_[n.outputs[0]].shape;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const ValueId v = n.inputs[i];
      if (!is_map(v)) continue;
      if (axis != 0 && axis != axis_[v.index]) return described(n) + " joins maps of two layouts";
      axis = axis_[v.index];
    }
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const ValueId v = n.inputs[i];
      if (!v) continue;
      const Shape& s = *g_[v].shape;
      if (is_map(v)) {
        if (s[static_cast<size_t>(axis)] != y[static_cast<size_t>(axis)] || s[static_cast<size_t>(axis) + 1] != y[static_cast<size_t>(axis) + 1])
          return described(n) + " stretches a map";
        node.inputs[i] = PatchInput::kSame;
        continue;
      }
      if (along_one_axis(n, i)) {
        if (n.get_int("axis") == axis || n.get_int("axis") == axis + 1) return described(n) + " has a parameter for each place of a map";
        continue;
      }
      for (int a : {axis, axis + 1}) {  // broadcasting aligns last axes
        const int from = a - 4 + static_cast<int>(s.size());
        if (from >= 0 && s[static_cast<size_t>(from)] != 1) return described(n) + " has a parameter for each place of a map";
      }
    }
    return "";
  }
  // Scales and zero points: vectors along the attribute `axis`, which broadcasting does not tell.
  bool along_one_axis(const Node& n, size_t input) const {
    return (n.op->name == "QuantizeLinear" || n.op->name == "DequantizeLinear") && input > 0 && g_[n.inputs[input]].shape->size() == 1;
  }

  // Every output must see something of the map: padding as wide as the window would leave tiles without an input.
  std::string windowed(const Node& n, PatchNode& node, const ops::Window& w) const {
    for (size_t a = 0; a < 2; ++a) {
      const int64_t extent = (*g_[n.inputs[0]].shape)[static_cast<size_t>(axis_[n.inputs[0].index]) + a];
      node.window[a] = {w.kernel[a], w.strides[a], w.dilations[a], w.begin[a]};
      const PatchRange all = node.window[a].sees({0, w.outputs[a]});
      const int64_t reach = node.window[a].reach();
      if (w.begin[a] < 0 || w.end[a] < 0) return described(n) + " crops its input";
      if (w.begin[a] >= reach || all.end - extent >= reach) return described(n) + " has windows that see padding alone";
    }
    node.inputs[0] = PatchInput::kWindowed;
    return "";
  }

  std::string standard(const Node& n, PatchNode& node, int& axis) {
    const std::string& op = n.op->name;
    if (is_elementwise(n)) return elementwise(n, node, axis);
    if (!is_map(n.inputs[0])) return reason(n);
    axis = axis_[n.inputs[0].index];
    const bool first = axis == kFirst;
    if (first && (op == "Conv" || kPoolings.contains(op) || op == "QLinearConv" || op == "ConvInteger")) {
      for (size_t i = 1; i < n.inputs.size(); ++i)
        if (is_map(n.inputs[i])) return described(n) + " has weights that depend on the input";
      if (n.outputs.size() > 1 && n.outputs[1]) return described(n) + " gives the places of its largest elements";
      const size_t weight = op == "QLinearConv" ? 3 : 1;
      Ints kernel;
      if (!kPoolings.contains(op)) {
        const Shape& w = *g_[n.inputs[weight]].shape;
        kernel = {w[2], w[3]};
      }
      const Shape& x = *g_[n.inputs[0]].shape;
      const ops::Window w = ops::resolve_window({x[2], x[3]}, ops::window_attributes(n, kernel));
      if (op != "Conv" && kPoolings.contains(op) && n.op->find("count_include_pad") && n.get_int("count_include_pad"))
        for (size_t a = 0; a < 2; ++a)  // the windows that ceil_mode adds count what no attribute of a tile says
          if ((w.outputs[a] - 1) * w.strides[a] + w.reach(a) > x[a + 2] + w.begin[a] + w.end[a]) return described(n) + " counts padding that ceil_mode adds";
      return windowed(n, node, w);
    }
    if (op == "BatchNormalization") {
      if (n.inputs.size() > 1 && std::any_of(n.inputs.begin() + 1, n.inputs.end(), [&](ValueId v) { return is_map(v); })) return reason(n);
      node.inputs[0] = PatchInput::kSame;
      return first ? "" : reason(n);
    }
    const auto rank4_axis = [&](std::string_view name) { return normalize_axis(n.get_int(name), 4); };
    const auto over_channels = [&](std::string_view name) { return rank4_axis(name) == (first ? 1 : 3); };
    if (op == "Concat") {
      if (!over_channels("axis")) return described(n) + " puts maps side by side";
      for (ValueId v : n.inputs)
        if (!is_map(v) || axis_[v.index] != axis) return described(n) + " joins a map with a constant or another layout";
      node.inputs.assign(n.inputs.size(), PatchInput::kSame);
      return "";
    }
    if (op == "Split" || op == "Softmax" || op == "LogSoftmax") {
      if (!over_channels("axis")) return reason(n);
      node.inputs[0] = PatchInput::kSame;
      return "";
    }
    if (op == "Pad") return pad(n, node, axis);
    if (op == "Transpose") {
      const Ints& perm = n.get_ints("perm");
      if (first && perm == Ints{0, 2, 3, 1}) axis = kLast;
      else if (!first && perm == Ints{0, 3, 1, 2}) axis = kFirst;
      else return reason(n);
      node.inputs[0] = PatchInput::kSame;
      return "";
    }
    return reason(n);
  }

  // Constant padding of rows and columns: a window of one element.
  std::string pad(const Node& n, PatchNode& node, int axis) const {
    if (n.get_string("mode") != "constant" || !g_[n.inputs[1]].is_constant() || (n.inputs.size() > 3 && n.inputs[3])) return described(n) + " does not pad all axes with a constant";
    const Ints pads = g_[n.inputs[1]].constant.to_i64();
    if (pads.size() != 8) return reason(n);
    for (size_t i = 0; i < 8; ++i) {
      const int a = static_cast<int>(i % 4);
      if (pads[i] < 0 || (pads[i] != 0 && a != axis && a != axis + 1)) return described(n) + " crops, or pads other axes than rows and columns";
    }
    for (size_t a = 0; a < 2; ++a) node.window[a].before = pads[static_cast<size_t>(axis) + a];
    node.inputs[0] = PatchInput::kWindowed;
    node.pads = true;
    return "";
  }

  std::string own(const Node& n, PatchNode& node, int& axis) {
    const std::string& op = n.op->name;
    const bool shuffle = op == "ChannelShuffle";
    if (kLatheElementwise.contains(op)) {
      if (shuffle || op == "Table" || op == "Affine") {
        for (size_t i = 0; i < n.inputs.size(); ++i) {
          if (!is_map(n.inputs[i])) continue;
          if (axis != 0 && axis != axis_[n.inputs[i].index]) return reason(n);
          axis = axis_[n.inputs[i].index];
          node.inputs[i] = PatchInput::kSame;
        }
        if (shuffle && normalize_axis(n.get_int("axis"), 4) != (axis == kFirst ? 1 : 3)) return reason(n);
        return axis == 0 ? reason(n) : "";
      }
      return elementwise(n, node, axis);
    }
    if (!kLatheWindows.contains(op) || !is_map(n.inputs[0])) return reason(n);
    if (axis_[n.inputs[0].index] != (op == "PlanarConv" ? kFirst : kLast)) return described(n) + " reads a map of another layout";
    axis = kLast;
    for (size_t i = 1; i < n.inputs.size(); ++i) {
      if (!is_map(n.inputs[i])) continue;
      const bool residual = i == 3 && (op == "Conv" || op == "CodedConv") && axis_[n.inputs[i].index] == kLast;
      if (!residual) return described(n) + " has weights that depend on the input";
      node.inputs[i] = PatchInput::kSame;
    }
    const auto given = [&](std::string_view name) { return n.op->find(name) && !n.get_ints(name).empty() ? n.get_ints(name) : Ints{1, 1}; };
    ops::Window w;
    if (n.op->find("kernel_shape")) {
      w.kernel = n.get_ints("kernel_shape");
    } else {
      const Shape& s = *g_[n.inputs[op == "ExpandDepthwise" ? 3 : 1]].shape;
      if (s.size() != 4) return reason(n);
      w.kernel = {s[2], s[3]};
    }
    w.strides = given("strides");
    w.dilations = given("dilations");
    const Ints& pads = n.get_ints("pads");
    w.begin = {pads[0], pads[1]};
    w.end = {pads[2], pads[3]};
    const Shape& y = *g_[n.outputs[0]].shape;
    w.outputs = {y[1], y[2]};
    return windowed(n, node, w);
  }

  const Graph& g_;
  std::vector<int> axis_;  // patch_axis() of each value; 0: no map
  std::vector<bool> fixed_;  // made of constants alone
  PatchPrefix prefix_;
};

}  // namespace

PatchStage PatchPrefix::stage(size_t nodes) const {
  const auto end = std::find(ends.begin(), ends.end(), nodes);
  if (end == ends.end()) fail(ErrorKind::kUsage, "a stage of {} nodes has more than one exit, or there is none", nodes);
  PatchStage stage = whole;
  stage.nodes.resize(nodes);
  stage.exit = exits[static_cast<size_t>(end - ends.begin())];
  return stage;
}

PatchPrefix patchable_prefix(const Graph& graph, ValueId entry, bool channels_last) {
  if (!entry) {
    for (ValueId v : graph.inputs) {
      if (!graph[v].shape || graph[v].shape->size() != 4) continue;
      if (entry) fail(ErrorKind::kUsage, "'{}' and '{}' are both maps: a stage has one entry", graph[entry].name, graph[v].name);
      entry = v;
    }
    if (!entry) fail(ErrorKind::kUsage, "no input is a map [N, C, H, W]");
  }
  const auto& shape = graph[entry].shape;
  if (!shape || shape->size() != 4 || !is_static(*shape)) fail(ErrorKind::kUsage, "'{}' is no map of known sizes", graph[entry].name);
  return PrefixFinder(graph, entry, channels_last ? kLast : kFirst).find();
}

}  // namespace lathe
