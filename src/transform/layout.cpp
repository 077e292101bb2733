// Channels-last images. Convolutions and pooling become ai.lathe operators on [N, H, W, C]; what stands
// between them and does not care about the layout follows. A value then has a twin: the same elements
// channels-last. Transposes are made only where a value is wanted in the layout that nobody makes.
#include <algorithm>
#include <cmath>
#include <set>

#include "graph/op.h"
#include "graph/ops/window.h"
#include "transform/passes.h"
#include "transform/quantize/weight_forms.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
const Ints kToLast{0, 2, 3, 1}, kToFirst{0, 3, 1, 2};

// Axis i of [N, C, H, W] is axis kAxis[i] of [N, H, W, C].
constexpr int64_t kAxis[4] = {0, 3, 1, 2};

const std::set<std::string> kUnary = {"Abs", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
                                      "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
                                      "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "Cast", "Celu", "Sign", "ThresholdedRelu"};
const std::set<std::string> kBinary = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu", "Where", "GreaterOrEqual", "Greater", "LessOrEqual", "Less", "Equal"};

class LayoutPass {
 public:
  explicit LayoutPass(Graph& g) : g_(g) {}

  void run() {
    drop_empty_inputs();
    for (NodeId id : g_.order()) convert(id);
    for (auto& [first, last] : twin_)
      if (!g_[ValueId{first}].producer && orphans_.contains(first)) restore({first}, last);
    remove_dead(g_);
  }

 private:
  // Before operator set 13 an unused input of Resize was an empty tensor; kernels are not asked for empty tensors.
  void drop_empty_inputs() {
    for (NodeId id : g_.order()) {
      if (g_[id].op->name != "Resize" || !g_[id].op->domain.empty()) continue;
      for (size_t i = 1; i < g_[id].inputs.size(); ++i) {
        const ValueId v = g_[id].inputs[i];
        if (v && g_[v].is_constant() && g_[v].constant.size() == 0) g_[id].inputs[i] = {};
      }
    }
  }

  bool image(ValueId v) const {
    return v && g_[v].shape && g_[v].shape->size() == 4 && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0;
  }
  bool has_twin(ValueId v) const { return v && twin_.contains(v.index); }

  // The value channels-last; a transpose is made when it has no twin yet.
  ValueId last(ValueId v) {
    if (auto it = twin_.find(v.index); it != twin_.end()) return it->second;
    const Shape& s = *g_[v].shape;
    ValueId t;
    if (g_[v].is_constant()) {
      t = g_.add_constant(transpose(g_[v].constant, kToLast), g_[v].name + "_nhwc");
    } else if (s[1] == 1 || s[2] * s[3] == 1) {  // moving axes of size one moves no element
      t = g_.add("Reshape", {v, g_.add_constant(Tensor::of_i64({s[0], s[2], s[3], s[1]}))});
    } else {
      t = g_.add("Transpose", {v}, {{"perm", kToLast}});
    }
    twin_[v.index] = t;
    return t;
  }

  void restore(ValueId v, ValueId twin) {
    Shape s = *g_[v].shape;
    Node n;
    bool moves = s[1] != 1 && s[2] * s[3] != 1;
    n.op = &find_op(moves ? "Transpose" : "Reshape");
    n.name = g_[v].name + "_nchw";
    n.inputs = {twin};
    if (moves) n.attributes["perm"] = kToFirst;
    else n.inputs.push_back(g_.add_constant(Tensor::of_i64(s)));
    n.outputs = {v};
    g_.add_node(std::move(n));
  }

  // `node` is replaced by `op` on twins; its output lives on as the twin of the old one.
  void replace(NodeId id, std::string_view op, std::vector<ValueId> inputs, Attributes attributes) {
    std::string name = g_[id].name, scope = g_[id].scope;
    ValueId old = g_[id].outputs[0];
    g_.remove(id);
    ValueId made = g_.add(op, std::move(inputs), std::move(attributes), name);
    g_[g_[made].producer].scope = scope;
    twin_[old.index] = made;
    orphans_.insert(old.index);
  }

  void convert(NodeId id) {
    const Node& n = g_[id];
    if (n.dead || n.inputs.empty()) return;
    const std::string& op = n.op->name;
    if (n.op->domain == "ai.lathe") {
      if (op == "ChannelShuffle" && has_twin(n.inputs[0])) {
        Attributes a = n.attributes;
        a["axis"] = int64_t{3};
        replace(id, "ai.lathe::ChannelShuffle", {last(n.inputs[0])}, a);
      }
      if (op == "Wave" && std::any_of(n.inputs.begin(), n.inputs.begin() + 3, [&](ValueId v) { return has_twin(v); })) {
        std::vector<ValueId> inputs = n.inputs;
        for (size_t i = 0; i < 3; ++i) inputs[i] = last(inputs[i]);
        replace(id, "ai.lathe::Wave", inputs, {{"axis", int64_t{3}}});
      }
      if (op == "StarRelu" && has_twin(n.inputs[0])) replace(id, "ai.lathe::StarRelu", {last(n.inputs[0])}, Attributes(n.attributes));
      return;
    }
    if (!n.op->domain.empty() || n.outputs.empty()) return;
    if (kBinary.contains(op) && image(n.outputs[0]) && std::any_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return has_twin(v); }))
      return binary(id);  // a constant of lower rank may stand first
    if (!image(n.inputs[0])) return;
    if (op == "Conv") return conv(id);
    if (op == "ConvTranspose") return conv_transpose(id);
    if (op == "MaxPool" || op == "AveragePool") return pool(id);
    if (op == "GlobalAveragePool") return replace_reduce(id);
    if (op == "BatchNormalization") return batch_norm(id);
    if (op == "GroupNormalization" && n.get_int("num_groups") == 1) return sample_norm(id);
    if (op == "Transpose" && n.get_ints("perm") == kToFirst) {  // the model's own step back to channels-first
      twin_[n.outputs[0].index] = n.inputs[0];
      return;
    }
    bool any = std::any_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return has_twin(v); });
    if (!any || n.outputs.size() != 1) {
      if (any && op == "Split") split(id);
      if (any && op == "DynamicQuantizeLinear") dynamic_quantize(id);
      return;
    }
    if (kUnary.contains(op) || tensor_scale(g_, n)) {
      std::vector<ValueId> inputs = n.inputs;
      inputs[0] = last(inputs[0]);
      Attributes a = n.attributes;
      return replace(id, op, inputs, a);
    }
    if (op == "Concat") return concat(id);
    if (op == "ReduceMean" || op == "ReduceSum" || op == "ReduceMax") return reduce(id);
    if (op == "ArgMax" || op == "ArgMin") return arg_extreme(id);
    if (op == "Pad" || op == "Slice") return along_axes(id);
    if (op == "Resize") return resize(id);
    if (op == "Split") return split(id);
    if (op == "Reshape" || op == "Flatten" || op == "Squeeze") return reshape(id);
    if (op == "Transpose") return transpose_node(id);
    if (op == "Softmax" || op == "LogSoftmax") {
      Attributes a = n.attributes;
      a["axis"] = kAxis[normalize_axis(n.get_int("axis"), 4)];
      return replace(id, op, {last(n.inputs[0])}, a);
    }
  }

  // Pads as they work out for the known input and output: explicit, automatic and ceil_mode alike.
  Ints resolve_pads(const Node& n, const Ints& kernel, const Ints& strides, const Ints& dilations) {
    const Shape &x = *g_[n.inputs[0]].shape, &y = *g_[n.outputs[0]].shape;
    Ints pads(4, 0);
    const std::string& mode = n.get_string("auto_pad");
    const Ints& given = n.get_ints("pads");
    for (int i = 0; i < 2; ++i) {
      int64_t reach = (kernel[i] - 1) * dilations[i] + 1;
      int64_t total = (y[i + 2] - 1) * strides[i] + reach - x[i + 2];
      if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
        total = std::max<int64_t>(total, 0);
        pads[i] = mode == "SAME_UPPER" ? total / 2 : total - total / 2;
        pads[i + 2] = total - pads[i];
      } else {
        pads[i] = mode == "VALID" || given.empty() ? 0 : given[i];
        int64_t end = mode == "VALID" || given.empty() ? 0 : given[i + 2];
        pads[i + 2] = std::max(total - pads[i], end);  // more than given only with ceil_mode
      }
    }
    return pads;
  }

  static Ints or_ones(const Ints& v) { return v.empty() ? Ints{1, 1} : v; }

  void conv(NodeId id) {
    const Node& n = g_[id];
    const Value& w = g_[n.inputs[1]];
    bool bias = n.inputs.size() > 2 && n.inputs[2];
    // Quantized weights become constants later, or never (transform/integer.cpp, transform/to_coded.cpp).
    auto fixed = [&](ValueId v) { return g_[v].is_constant() || weights_of(g_, v, 0) || is_coded(g_, v); };
    if (!fixed(n.inputs[1]) || w.dtype != DType::kF32 || w.shape->size() != 4 || g_[n.inputs[0]].dtype != DType::kF32) return;
    if (bias && !fixed(n.inputs[2])) return;
    if (!image(n.outputs[0])) return;
    const Shape& s = *w.shape;
    Ints strides = or_ones(n.get_ints("strides")), dilations = or_ones(n.get_ints("dilations"));
    Attributes a{{"strides", strides}, {"dilations", dilations}, {"group", n.get_int("group")},
                 {"pads", resolve_pads(n, {s[2], s[3]}, strides, dilations)}};
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = last(inputs[0]);
    replace(id, "ai.lathe::Conv", inputs, a);
  }

  void conv_transpose(NodeId id) {
    const Node& n = g_[id];
    const Value& w = g_[n.inputs[1]];
    const bool bias = n.inputs.size() > 2 && n.inputs[2];
    if (!w.is_constant() || w.dtype != DType::kF32 || w.shape->size() != 4 || g_[n.inputs[0]].dtype != DType::kF32) return;
    if ((bias && !g_[n.inputs[2]].is_constant()) || !image(n.outputs[0]) || n.get_int("group") != 1) return;
    const Shape &s = *w.shape, &x = *g_[n.inputs[0]].shape, &y = *g_[n.outputs[0]].shape;
    const Ints strides = or_ones(n.get_ints("strides")), dilations = or_ones(n.get_ints("dilations"));
    Ints extra = n.get_ints("output_padding"), sizes = n.get_ints("output_shape");
    if (extra.empty()) extra = {0, 0};
    if (sizes.size() == 4) sizes.erase(sizes.begin(), sizes.begin() + 2);
    const ops::Window window = ops::resolve_transposed_window(ops::spatial_of(x), ops::window_attributes(n, {s[2], s[3]}), extra, sizes);
    // As pads and output_padding that give this output, whatever the node said.
    Ints pads(4, 0);
    for (int i = 0; i < 2; ++i) {
      const int64_t whole = (x[i + 2] - 1) * strides[i] + (s[i + 2] - 1) * dilations[i] + 1;
      pads[i] = window.begin[i];
      pads[i + 2] = whole - pads[i] - y[i + 2];
      extra[i] = std::max<int64_t>(0, -pads[i + 2]);
      pads[i + 2] += extra[i];
      if (pads[i] < 0) return;
    }
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = last(inputs[0]);
    replace(id, "ai.lathe::ConvTranspose", inputs, {{"strides", strides}, {"dilations", dilations}, {"pads", pads}, {"output_padding", extra}});
  }

  void pool(NodeId id) {
    const Node& n = g_[id];
    const Ints& kernel = n.get_ints("kernel_shape");
    const Ints dilations = or_ones(n.get_ints("dilations"));
    bool indices = n.outputs.size() > 1 && n.outputs[1];
    if (indices || kernel.size() != 2 || dilations != Ints{1, 1} || g_[n.inputs[0]].dtype != DType::kF32 || !image(n.outputs[0])) return;
    Ints strides = or_ones(n.get_ints("strides"));
    bool average = n.op->name == "AveragePool";
    int64_t include = average ? n.get_int("count_include_pad") : 0;
    // With ceil_mode the last window may leave the padded input; how those are counted differs: leave them.
    if (include && n.get_int("ceil_mode")) return;
    Attributes a{{"kind", std::string(average ? "Average" : "Max")}, {"kernel_shape", kernel}, {"strides", strides},
                 {"pads", resolve_pads(n, kernel, strides, dilations)}, {"count_include_pad", include}};
    replace(id, "ai.lathe::Pool", {last(n.inputs[0])}, a);
  }

  void batch_norm(NodeId id) {
    const Node& n = g_[id];
    for (size_t i = 1; i <= 4; ++i)
      if (!g_[n.inputs[i]].is_constant()) return;
    if (g_[n.inputs[0]].dtype != DType::kF32) return;
    auto at = [&](size_t i) -> const Tensor& { return g_[n.inputs[i]].constant; };
    Tensor scale(DType::kF32, {at(1).size()}), shift(DType::kF32, {at(1).size()});
    for (int64_t c = 0; c < scale.size(); ++c) {
      double factor = at(1).get(c) / std::sqrt(at(4).get(c) + n.get_float("epsilon"));
      scale.set(c, factor);
      shift.set(c, at(2).get(c) - at(3).get(c) * factor);
    }
    ValueId x = last(n.inputs[0]);
    ValueId s = g_.add_constant(scale), b = g_.add_constant(shift);
    replace(id, "ai.lathe::Affine", {x, s, b}, {});
  }

  // Of one group: over all but the batch, whose order does not matter then.
  void sample_norm(NodeId id) {
    const Node& n = g_[id];
    if (!has_twin(n.inputs[0])) return;
    const std::vector<ValueId> inputs{last(n.inputs[0]), n.inputs[1], n.inputs[2]};
    replace(id, "LayerNormalization", inputs, {{"axis", int64_t{1}}, {"epsilon", n.get_float("epsilon")}});
  }

  void replace_reduce(NodeId id) {
    ValueId axes = g_.add_constant(Tensor::of_i64({1, 2}));
    replace(id, "ReduceMean", {last(g_[id].inputs[0]), axes}, {{"keepdims", int64_t{1}}});
  }

  void binary(NodeId id) {
    std::vector<ValueId> inputs = g_[id].inputs;
    for (ValueId v : inputs) {
      const auto& s = g_[v].shape;
      if (!s || !is_static(*s) || s->size() > 4) return;
      if (s->size() < 4 && !g_[v].is_constant() && element_count(*s) != 1) return;
    }
    for (ValueId& v : inputs) {
      const Shape& s = *g_[v].shape;
      if (element_count(s) == 1 && s.size() < 4) continue;
      if (s.size() == 4) { v = last(v); continue; }
      Shape wide(4 - s.size(), 1);
      wide.insert(wide.end(), s.begin(), s.end());
      v = g_.add_constant(transpose(g_[v].constant.reshaped(wide), kToLast));
    }
    Attributes a = g_[id].attributes;
    replace(id, g_[id].op->name, inputs, a);
  }

  void concat(NodeId id) {
    std::vector<ValueId> inputs = g_[id].inputs;
    for (ValueId v : inputs) if (!image(v)) return;
    for (ValueId& v : inputs) v = last(v);
    replace(id, "Concat", inputs, {{"axis", kAxis[normalize_axis(g_[id].get_int("axis"), 4)]}});
  }

  // The twin of an output, which the node makes in its place.
  ValueId twin_output(ValueId v) {
    Value twin;
    twin.name = g_[v].name + "_nhwc";
    twin.dtype = g_[v].dtype;
    const Shape& s = *g_[v].shape;
    twin.shape = Shape{s[0], s[2], s[3], s[1]};
    const ValueId t = g_.add_value(std::move(twin));
    twin_[v.index] = t;
    orphans_.insert(v.index);
    return t;
  }

  // The scale and the zero point do not care about the order of the elements.
  void dynamic_quantize(NodeId id) {
    Node made = g_[id];
    if (!image(made.outputs[0])) return;
    made.inputs[0] = last(made.inputs[0]);
    g_.remove(id);
    made.outputs[0] = twin_output(made.outputs[0]);
    g_.add_node(std::move(made));
  }

  void split(NodeId id) {
    Node n = g_[id];
    for (ValueId v : n.outputs) if (!image(v)) return;
    Attributes a = n.attributes;
    a["axis"] = kAxis[normalize_axis(n.get_int("axis"), 4)];
    Node made;
    made.op = n.op;
    made.name = n.name;
    made.scope = n.scope;
    made.inputs = n.inputs;
    made.inputs[0] = last(n.inputs[0]);
    made.attributes = a;
    g_.remove(id);
    for (ValueId v : n.outputs) made.outputs.push_back(twin_output(v));
    g_.add_node(std::move(made));
  }

  void reduce(NodeId id) {
    const Node& n = g_[id];
    if (n.inputs.size() < 2 || !n.inputs[1] || !g_[n.inputs[1]].is_constant()) return;
    Ints axes = g_[n.inputs[1]].constant.to_i64();
    if (axes.empty()) return;
    for (int64_t& a : axes) a = kAxis[normalize_axis(a, 4)];
    std::sort(axes.begin(), axes.end());
    bool keep = n.get_int("keepdims");
    ValueId x = last(n.inputs[0]), list = g_.add_constant(Tensor::of_i64(axes));
    if (keep) return replace(id, n.op->name, {x, list}, {{"keepdims", int64_t{1}}});
    if (axes != Ints{1, 2}) return;  // only then do the axes left stand in the same order
    g_[id].inputs = {x, list};
  }

  // Along the channels, without them in the result, the other axes keep their order.
  void arg_extreme(NodeId id) {
    const Node& n = g_[id];
    const int64_t axis = normalize_axis(n.get_int("axis"), 4);
    Attributes a = n.attributes;
    a["axis"] = kAxis[axis];
    if (n.get_int("keepdims")) return replace(id, n.op->name, {last(n.inputs[0])}, a);
    if (axis != 1) return;
    ValueId x = last(n.inputs[0]);
    g_[id].inputs = {x};
    g_[id].attributes = a;
  }

  // Pad and Slice: their axes are given as inputs.
  void along_axes(NodeId id) {
    const Node& n = g_[id];
    bool pad = n.op->name == "Pad";
    std::vector<ValueId> inputs = n.inputs;
    inputs[0] = last(inputs[0]);
    size_t axes_at = 3;
    if (pad && (inputs.size() <= axes_at || !inputs[axes_at])) {
      if (!g_[inputs[1]].is_constant()) return;
      Ints p = g_[inputs[1]].constant.to_i64(), moved(8);
      if (p.size() != 8) return;
      for (int i = 0; i < 4; ++i) { moved[kAxis[i]] = p[i]; moved[kAxis[i] + 4] = p[i + 4]; }
      inputs[1] = g_.add_constant(Tensor::of_i64(moved));
    } else {
      Ints axes;
      if (inputs.size() > axes_at && inputs[axes_at]) {
        if (!g_[inputs[axes_at]].is_constant()) return;
        axes = g_[inputs[axes_at]].constant.to_i64();
      } else {
        if (!g_[inputs[1]].shape || !is_static(*g_[inputs[1]].shape)) return;
        for (int64_t i = 0; i < (*g_[inputs[1]].shape)[0]; ++i) axes.push_back(i);
      }
      for (int64_t& a : axes) a = kAxis[normalize_axis(a, 4)];
      if (inputs.size() <= axes_at) inputs.resize(axes_at + 1);
      inputs[axes_at] = g_.add_constant(Tensor::of_i64(axes));
    }
    Attributes a = n.attributes;
    replace(id, n.op->name, inputs, a);
  }

  void resize(NodeId id) {
    const Node& n = g_[id];
    if (!n.get_ints("axes").empty() || n.get_string("coordinate_transformation_mode") == "tf_crop_and_resize") return;
    std::vector<ValueId> inputs = n.inputs;
    for (size_t i : {2, 3}) {
      if (i >= inputs.size() || !inputs[i]) continue;
      const Value& v = g_[inputs[i]];
      if (!v.is_constant() || (v.constant.size() != 4 && v.constant.size() != 0)) return;
    }
    for (size_t i : {2, 3}) {
      if (i >= inputs.size() || !inputs[i] || g_[inputs[i]].constant.size() == 0) continue;
      const Tensor old = g_[inputs[i]].constant;
      Tensor moved(old.dtype(), {4});
      for (int k = 0; k < 4; ++k) moved.set(kAxis[k], old.get(k));
      inputs[i] = g_.add_constant(moved);
    }
    inputs[0] = last(inputs[0]);
    Attributes a = n.attributes;
    replace(id, "Resize", inputs, a);
  }

  // Elements keep their order when at most one of C and H·W is not 1; and flattening H and W keeps them
  // together: [N, C, H·W] is the transpose of [N, H·W, C].
  void reshape(NodeId id) {
    const Node& n = g_[id];
    if (!has_twin(n.inputs[0]) || !g_[n.outputs[0]].shape || !is_static(*g_[n.outputs[0]].shape)) return;
    Shape x = *g_[n.inputs[0]].shape, y = *g_[n.outputs[0]].shape;
    ValueId twin = last(n.inputs[0]);
    if (x[1] == 1 || x[2] * x[3] == 1) {
      ValueId shape = g_.add_constant(Tensor::of_i64(y));
      g_[id].op = &find_op("Reshape");
      g_[id].inputs = {twin, shape};
      g_[id].attributes.clear();
    } else if (y == Shape{x[0], x[1], x[2] * x[3]}) {
      ValueId flat = g_.add("Reshape", {twin, g_.add_constant(Tensor::of_i64({x[0], x[2] * x[3], x[1]}))});
      g_[id].op = &find_op("Transpose");
      g_[id].inputs = {flat};
      g_[id].attributes = {{"perm", Ints{0, 2, 1}}};
    }
  }

  void transpose_node(NodeId id) {
    const Node& n = g_[id];
    if (!has_twin(n.inputs[0])) return;
    Ints perm = n.get_ints("perm");
    if (perm.size() != 4) return;
    for (int64_t& p : perm) p = kAxis[p];  // composed with the transpose back to channels-first
    g_[id].inputs = {last(n.inputs[0])};
    g_[id].attributes["perm"] = perm;
  }

  Graph& g_;
  std::map<int32_t, ValueId> twin_;
  std::set<int32_t> orphans_;  // channels-first values whose producer was replaced
};

// Transpose of a transpose is one transpose, or none.
void merge_transposes(Graph& g) {
  for (NodeId id : g.order()) {
    Node& n = g[id];
    if (n.dead || n.op->name != "Transpose" || !g[n.inputs[0]].producer) continue;
    const Node& before = g[g[n.inputs[0]].producer];
    if (before.dead || before.op->name != "Transpose") continue;
    Ints inner = before.get_ints("perm"), outer = n.get_ints("perm");
    if (inner.size() != outer.size() || inner.empty()) continue;
    for (int64_t& p : outer) p = inner[p];
    n.attributes["perm"] = outer;
    n.inputs[0] = before.inputs[0];
  }
}

}  // namespace

void assign_layout(Graph& graph) {
  LayoutPass(graph).run();
  merge_transposes(graph);
  remove_identities(graph);
  remove_dead(graph);
  graph.compact();
}

}  // namespace lathe
