// What exporters make of a product with quantized weights whose input is quantized as it comes: MatMulInteger or ConvInteger,
// Cast to f32, Mul by the product of both scales and Add of a bias become one DynamicMatMul or DynamicConv
// (graph/ops/integer.cpp). A convolution gets its channels last between two transposes, which the layout pass does away with.
#include <algorithm>
#include <optional>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

class DynamicPass {
 public:
  explicit DynamicPass(Graph& g) : g_(g), consumers_(g.consumers()), is_output_(g.value_count(), false) {
    for (ValueId v : g.outputs) is_output_[v.index] = true;
  }

  void run() {
    for (NodeId id : g_.order())
      if (!g_[id].dead && (is(id, "MatMulInteger") || is(id, "ConvInteger"))) product(id);
    remove_dead(g_);
  }

 private:
  bool is(NodeId id, std::string_view op) const { return g_[id].op->name == op && g_[id].op->domain.empty(); }

  // The only reader of a value, if that is an `op`.
  NodeId reader(ValueId v, std::string_view op) const {
    if (v.index >= static_cast<int32_t>(consumers_.size()) || is_output_[v.index] || consumers_[v.index].size() != 1) return {};
    const NodeId id = consumers_[v.index][0];
    return !g_[id].dead && is(id, op) ? id : NodeId{};
  }
  static ValueId other(const Node& n, ValueId v) { return n.inputs[0] == v ? n.inputs[1] : n.inputs[0]; }
  bool single(ValueId v) const { return v && g_[v].dtype == DType::kF32 && g_[v].shape && is_static(*g_[v].shape) && element_count(*g_[v].shape) == 1; }

  // A constant as one number for each of `columns` columns, which are the axis before `spatial` others; undefined when it is
  // not that.
  Tensor by_column(ValueId v, int64_t columns, size_t spatial) const {
    const Tensor& t = g_[v].constant;
    if (!t.defined() || t.dtype() != DType::kF32 || !t.has_elements()) return {};
    const Shape& s = t.shape();
    if (t.size() != 1 && (t.size() != columns || s.size() <= spatial || s[s.size() - 1 - spatial] != columns)) return {};
    Tensor list(DType::kF32, {columns});
    for (int64_t i = 0; i < columns; ++i) list.set(i, t.get(t.size() == 1 ? 0 : i));
    return list;
  }

  // Strides, pads, dilations and groups of a 2-D ConvInteger that says its pads.
  std::optional<Attributes> window(const Node& n) const {
    const std::string& mode = n.get_string("auto_pad");
    if ((mode != "NOTSET" && mode != "VALID") || g_[n.inputs[0]].shape->size() != 4) return std::nullopt;
    auto list = [&](const char* name, const std::vector<int64_t>& otherwise) { return n.get_ints(name).empty() ? otherwise : n.get_ints(name); };
    return Attributes{{"strides", list("strides", {1, 1})}, {"dilations", list("dilations", {1, 1})}, {"group", n.get_int("group")},
                      {"pads", mode == "VALID" ? std::vector<int64_t>(4, 0) : list("pads", {0, 0, 0, 0})}};
  }

  void product(NodeId id) {
    const Node n = g_[id];
    auto input = [&](size_t i) { return i < n.inputs.size() ? n.inputs[i] : ValueId{}; };
    const ValueId w = n.inputs[1], x_zero = input(2), w_zero = input(3);
    const bool conv = n.op->name == "ConvInteger";
    if (!g_[w].is_constant() || g_[w].shape->size() != (conv ? 4 : 2) || !g_[n.inputs[0]].shape || g_[n.inputs[0]].shape->size() < 2) return;
    const std::optional<Attributes> attributes = conv ? window(n) : Attributes();
    if (!attributes || !g_[n.outputs[0]].shape || !is_static(*g_[n.outputs[0]].shape) || element_count(*g_[n.outputs[0]].shape) == 0) return;
    if (x_zero && (!g_[x_zero].shape || !is_static(*g_[x_zero].shape) || element_count(*g_[x_zero].shape) != 1)) return;
    const int64_t columns = (*g_[w].shape)[conv ? 0 : 1];
    const size_t spatial = conv ? 2 : 0;
    if (w_zero && (!g_[w_zero].is_constant() || g_[w_zero].constant.rank() > 1 || (g_[w_zero].constant.size() != 1 && g_[w_zero].constant.size() != columns))) return;
    const NodeId cast = reader(n.outputs[0], "Cast");
    if (!cast || g_[g_[cast].outputs[0]].dtype != DType::kF32) return;
    const NodeId mul = reader(g_[cast].outputs[0], "Mul");
    if (!mul || g_[mul].inputs[0] == g_[mul].inputs[1]) return;
    const ValueId scales = other(g_[mul], g_[cast].outputs[0]);
    // One scale for X, found at run time, times one or many for W, which are constant.
    ValueId x_scale = scales;
    Tensor multipliers;
    if (const NodeId both = g_[scales].producer; both && is(both, "Mul"))
      for (size_t i = 0; i < 2 && !multipliers.defined(); ++i) {
        x_scale = g_[both].inputs[1 - i];
        if (single(x_scale)) multipliers = by_column(g_[both].inputs[i], columns, spatial);
      }
    if (!multipliers.defined()) {
      x_scale = scales;
      if (!single(scales)) return;
      multipliers = Tensor(DType::kF32, {columns});
      std::fill_n(multipliers.data<float>(), columns, 1.0f);
    }
    NodeId last = mul;
    ValueId bias;
    if (const NodeId add = reader(g_[mul].outputs[0], "Add"))
      if (Tensor list = by_column(other(g_[add], g_[mul].outputs[0]), columns, spatial); list.defined() && g_[g_[add].outputs[0]].shape == g_[g_[mul].outputs[0]].shape) {
        bias = g_.add_constant(list);
        last = add;
      }
    if (!g_[g_[last].outputs[0]].shape || g_[g_[last].outputs[0]].shape->size() != g_[n.outputs[0]].shape->size()) return;
    const ValueId m = g_.add_constant(multipliers), zeros = w_zero ? g_.add_constant(g_[w_zero].constant.reshaped({g_[w_zero].constant.size()})) : ValueId{};
    std::vector<ValueId> inputs{n.inputs[0], w, m, x_zero, x_scale, zeros, bias};
    while (!inputs.back()) inputs.pop_back();
    if (!conv) return become(last, "DynamicMatMul", kLatheDomain, std::move(inputs), {});
    inputs[0] = g_.add("Transpose", {inputs[0]}, {{"perm", std::vector<int64_t>{0, 2, 3, 1}}});
    const ValueId y = g_.add("ai.lathe::DynamicConv", std::move(inputs), *attributes, n.name);
    become(last, "Transpose", "", {y}, {{"perm", std::vector<int64_t>{0, 3, 1, 2}}});
  }

  void become(NodeId id, std::string_view op, std::string_view domain, std::vector<ValueId> inputs, Attributes attributes) {
    Node& n = g_[id];
    n.op = &find_op(op, domain);
    n.inputs = std::move(inputs);
    n.attributes = std::move(attributes);
  }

  Graph& g_;
  std::vector<std::vector<NodeId>> consumers_;
  std::vector<bool> is_output_;
};

}  // namespace

void fuse_dynamic_products(Graph& graph) { DynamicPass(graph).run(); }

}  // namespace lathe
