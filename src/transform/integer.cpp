// DequantizeLinear → operator → QuantizeLinear becomes one operator of ai.lathe on codes (graph/ops/integer.cpp), as
// exporters of quantized networks mean it. What has no such form stays as it is, in float. Pictures are channels-last
// by now (transform/layout.cpp), and their weights still have their codes (fold_constants).
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "graph/ops/attention.h"
#include "kernels/reference/reference.h"
#include "kernels/requantize.h"
#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

// Functions of one element: any chain of these is a table of 256 entries. With two operands, the other is a constant
// of one element.
const std::set<std::string> kUnary = {"Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish",
                                      "Mish", "Gelu", "Softplus", "Softsign", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Ceil",
                                      "Floor", "Round", "Sign", "ThresholdedRelu", "Identity"};
const std::set<std::string> kBinary = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"};

class IntegerPass {
 public:
  IntegerPass(Graph& g, bool tokens) : g_(g), tokens_(tokens), readers_(g.value_count(), 0) {
    auto consumers = g.consumers();
    for (size_t i = 0; i < consumers.size(); ++i) readers_[i] = static_cast<int>(consumers[i].size());
    for (ValueId v : g.outputs) readers_[v.index] += 2;
  }

  void run() {
    for (NodeId id : g_.order())
      if (!g_[id].dead && g_[id].op->domain.empty() && g_[id].op->name == "QuantizeLinear") island(id);
    remove_dead(g_);
    // What follows a product first: it may be part of it.
    const std::vector<NodeId> order = g_.order();
    for (size_t i = order.size(); i-- > 0;)
      if (!g_[order[i]].dead) real(order[i]);
    remove_dead(g_);
    for (NodeId id : order)
      if (!g_[id].dead && g_[id].op->domain == "ai.lathe" && g_[id].op->name == "Table") look_up_in_product(id);
    remove_dead(g_);
  }

 private:
  // What stands before a QuantizeLinear: its own meaning, narrowed by a Relu or Clip before it.
  struct Target {
    NodeId node;
    TensorScale scale;
    Requantize out;
    ValueId value;  // what is rounded, before the limits
  };

  // The node that makes a value for one reader alone.
  const Node* sole(ValueId v) const {
    if (v.index >= static_cast<int32_t>(readers_.size()) || readers_[v.index] != 1 || !g_[v].producer) return nullptr;
    const Node& n = g_[g_[v].producer];
    return n.dead ? nullptr : &n;
  }
  bool is(const Node* n, std::string_view op, std::string_view domain = "") const { return n && n->op->name == op && n->op->domain == domain; }

  void island(NodeId id) {
    auto scale = tensor_scale(g_, g_[id]);
    if (!scale) return;
    Target t{id, *scale, Requantize::all(scale->type, scale->zero), g_[id].inputs[0]};
    if (table(t)) return;
    narrow(t);
    const Node* n = sole(t.value);
    if (!n) return;
    const std::string& op = n->op->name;
    if (n->op->domain == "ai.lathe") {
      if (op == "Conv") conv(t, *n);
      if (op == "Pool") pool(t, *n);
      if (tokens_ && op == "Attention") attention(t, *n);
      return;
    }
    if (!n->op->domain.empty()) return;
    if (op == "MatMul" || op == "Gemm" || op == "Add" || op == "Mul") {
      if (product(t, *n)) return;
    }
    if (op == "Add" || op == "Mul") return binary(t, *n);
    if (op == "ReduceMean") return mean(t, *n);
    if (op == "Softmax") return softmax(t, *n);
    if (tokens_ && op == "LayerNormalization") return layer_norm(t, *n);
    if (tokens_ && op == "Attention") return attention(t, *n);
    if (op == "Concat") return concat(t, *n);
  }

  // A product of codes whose result is not rounded to codes: sums of codes, scaled to f32.
  void real(NodeId id) {
    const Node& n = g_[id];
    const std::string& op = n.op->name;
    if (g_[n.outputs[0]].dtype != DType::kF32) return;
    const Target t{id, {}, Requantize{DType::kF32}, n.outputs[0]};
    if (n.op->domain == "ai.lathe" && op == "Conv") {
      // Of one input each, f32 is as fast where the result is f32.
      const auto& w = g_[n.inputs[1]].shape;
      if (w && ((*w)[1] > 1 || n.get_int("group") == 1)) conv(t, n);
    } else if (n.op->domain.empty() && (op == "MatMul" || op == "Gemm" || op == "Add" || op == "Mul")) {
      product(t, n);
    }
  }

  // A table that alone reads a product's codes becomes part of it.
  void look_up_in_product(NodeId table) {
    const ValueId codes = g_[table].inputs[0];
    const NodeId product = g_[codes].producer;
    if (!product || count_readers(codes) != 1) return;
    const Node& n = g_[product];
    if (n.op->domain != "ai.lathe" || (n.op->name != "IntegerConv" && n.op->name != "IntegerMatMul") || n.inputs.size() > 5) return;
    std::vector<ValueId> inputs = n.inputs;
    inputs.resize(6);
    inputs[5] = g_[table].inputs[1];
    g_[table].op = n.op;
    g_[table].attributes = n.attributes;
    g_[table].inputs = std::move(inputs);
  }
  int count_readers(ValueId v) const {
    int count = 0;
    for (ValueId out : g_.outputs) count += out == v ? 2 : 0;
    for (NodeId id : g_.order())
      for (ValueId in : g_[id].inputs) count += in == v;
    return count;
  }

  // Relu and Clip before the rounding are limits of the codes: rounding keeps the order.
  void narrow(Target& t) const {
    float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
    for (const Node* n = sole(t.value); n && n->op->domain.empty(); n = sole(t.value)) {
      float least = -std::numeric_limits<float>::infinity(), most = std::numeric_limits<float>::infinity();
      if (n->op->name == "Relu") {
        least = 0;
      } else if (n->op->name == "Clip") {
        for (size_t i : {1, 2}) {
          if (!has_input(*n, i)) continue;
          if (!g_[n->inputs[i]].is_constant()) return finish_narrow(t, low, high);
          (i == 1 ? least : most) = static_cast<float>(g_[n->inputs[i]].constant.get(0));
        }
        if (!(least <= most)) break;
      } else {
        break;
      }
      const float inner_low = std::min(std::max(least, low), high), inner_high = std::min(std::max(most, low), high);
      low = inner_low;
      high = inner_high;
      t.value = n->inputs[0];
    }
    finish_narrow(t, low, high);
  }
  static void finish_narrow(Target& t, float low, float high) {
    const Requantize all = t.out;
    t.out.low = all.code(low / t.scale.scale);
    t.out.high = all.code(high / t.scale.scale);
  }

  Attributes attributes(const Target& t) const {
    return {{"output_dtype", static_cast<int64_t>(t.out.type)}, {"y_zero_point", int64_t{t.out.zero}}, {"low", int64_t{t.out.low}}, {"high", int64_t{t.out.high}}};
  }

  // The QuantizeLinear node becomes `op`.
  void become(const Target& t, std::string_view op, std::vector<ValueId> inputs, Attributes a, std::string_view domain = "ai.lathe") {
    Node& n = g_[t.node];
    n.op = &find_op(op, domain);
    n.inputs = std::move(inputs);
    n.attributes = std::move(a);
  }

  // ---- functions of one element

  bool table(const Target& t) {
    std::vector<const Node*> chain;
    ValueId v = t.value;
    auto codes = codes_of(g_, v);
    while (!codes) {
      if (!v || !g_[v].producer) return false;
      const Node& n = g_[g_[v].producer];
      if (n.dead || !n.op->domain.empty()) return false;
      size_t from = 0;
      if (kBinary.contains(n.op->name)) {
        from = g_[n.inputs[0]].is_constant() ? 1 : 0;
        if (!scalar(n.inputs[1 - from])) return false;
      } else if (!kUnary.contains(n.op->name)) {
        return false;
      }
      for (size_t i = 0; i < n.inputs.size(); ++i)
        if (i != from && n.inputs[i] && !scalar(n.inputs[i])) return false;
      if (g_[n.inputs[from]].dtype != DType::kF32) return false;
      chain.push_back(&n);
      v = n.inputs[from];
      codes = codes_of(g_, v);
    }
    if (chain.empty() && codes->scale == t.scale) {
      become(t, "Identity", {codes->value}, {}, "");
      return true;
    }
    // The source's codes in the order of their bits, through each node's reference kernel.
    Tensor x(codes->scale.type, {256});
    for (int i = 0; i < 256; ++i) x.data<uint8_t>()[i] = static_cast<uint8_t>(i);
    auto run = [&](const Node& n, const Tensor& varying, size_t at) {
      std::vector<Tensor> inputs;
      for (size_t i = 0; i < n.inputs.size(); ++i) inputs.push_back(i == at ? varying : n.inputs[i] ? g_[n.inputs[i]].constant : Tensor());
      return reference::run_node(n, std::move(inputs)).at(0);
    };
    Tensor y = run(g_[g_[v].producer], x, 0);
    for (size_t i = chain.size(); i-- > 0;) {
      size_t from = kBinary.contains(chain[i]->op->name) && g_[chain[i]->inputs[0]].is_constant() ? 1 : 0;
      y = run(*chain[i], y, from);
    }
    y = run(g_[t.node], y, 0);
    if (y.shape() != Shape{256}) return false;
    ValueId entries = g_.add_constant(y, g_[t.node].name + "_table");
    become(t, "Table", {codes->value, entries}, {});
    return true;
  }
  bool scalar(ValueId v) const { return g_[v].is_constant() && g_[v].constant.has_elements() && g_[v].constant.size() == 1 && g_[v].constant.rank() <= 1; }

  // ---- products

  // Weights as a product takes them: where i8 codes without a zero point can say the same, these.
  struct Factors {
    Tensor codes, zeros;  // zeros: undefined when there are none
  };
  static Factors centred(const Weights& w, int64_t axis) {
    if (std::all_of(w.zeros.begin(), w.zeros.end(), [](int z) { return z == 0; }) && w.codes.dtype() == DType::kI8) return {w.codes, {}};
    const int64_t inner = product_of(w.codes.shape(), axis + 1), count = w.codes.dim(axis);
    Tensor moved(DType::kI8, w.codes.shape());
    for (int64_t i = 0; i < moved.size(); ++i) {
      int64_t value = w.codes.get_int(i) - w.zeros[i / inner % count];
      if (value < -128 || value > 127) {
        Tensor zeros(w.codes.dtype(), {count});
        for (int64_t k = 0; k < count; ++k) zeros.set_int(k, w.zeros[k]);
        return {w.codes, zeros};
      }
      moved.set_int(i, value);
    }
    return {moved, {}};
  }
  static int64_t product_of(const Shape& s, int64_t from) { return lathe::product(s, static_cast<size_t>(from), s.size()); }

  // A bias in units of x_scale·w_scale, the unit of the sums: its codes where it is quantized so, else rounded to it.
  // Nothing when a unit is too small for it.
  std::optional<Tensor> bias_codes(ValueId v, float x_scale, const std::vector<float>& w_scales) const {
    const auto channels = static_cast<int64_t>(w_scales.size());
    Tensor codes(DType::kI32, {channels});
    auto quantized = g_[v].is_constant() || g_[v].shape != Shape{channels} ? std::nullopt : weights_of(g_, v, 0);
    for (int64_t i = 0; i < channels; ++i) {
      const double unit = static_cast<double>(x_scale) * w_scales[i];
      double value;
      if (quantized) {
        if (quantized->codes.dtype() != DType::kI32) return std::nullopt;
        value = static_cast<double>(quantized->codes.get_int(i) - quantized->zeros[i]);
        // Exporters round x_scale·w_scale once: to within 2⁻²³.
        if (std::fabs(quantized->scales[i] / unit - 1) > 4e-7) value = std::nearbyint(value * quantized->scales[i] / unit);
      } else {
        if (!g_[v].is_constant() || g_[v].dtype != DType::kF32 || g_[v].constant.size() != channels) return std::nullopt;
        value = std::nearbyint(g_[v].constant.get(i) / unit);
      }
      if (!(std::fabs(value) < 2147483648.0)) return std::nullopt;
      codes.set_int(i, static_cast<int64_t>(value));
    }
    return codes;
  }

  // Weights of a channel that are nothing beside its bias take a larger scale, so that the bias is a number of units: of a
  // channel that training has given up weights are next to zero.
  void widen_scales(Weights& w, int64_t axis, float x_scale, ValueId bias) const {
    const auto channels = static_cast<int64_t>(w.scales.size());
    if (!bias || !g_[bias].is_constant() || g_[bias].dtype != DType::kF32 || g_[bias].constant.size() != channels) return;
    constexpr double kMostUnits = 1 << 30;
    const int64_t inner = product_of(w.codes.shape(), axis + 1);
    bool copied = false;
    for (int64_t c = 0; c < channels; ++c) {
      const double least = std::fabs(g_[bias].constant.get(c)) / kMostUnits / x_scale;
      if (!std::isfinite(least) || w.scales[c] >= least) continue;
      const auto wider = std::nextafter(static_cast<float>(least), std::numeric_limits<float>::infinity());
      if (!copied) w.codes = w.codes.clone();
      copied = true;
      for (int64_t i = 0; i < w.codes.size(); ++i)
        if (i / inner % channels == c) w.codes.set_int(i, w.zeros[c] + static_cast<int64_t>(std::nearbyint(static_cast<double>(w.codes.get_int(i) - w.zeros[c]) * w.scales[c] / wider)));
      w.scales[c] = wider;
    }
  }

  // Codes of few levels times a power of two that i8 has room for, scales divided by it: sums in finer units. A bias in f32 is
  // rounded to those; in units of two-bit codes it would be off by as much as an output's step.
  void refine_units(Weights& w, ValueId bias) const {
    if (!bias || !g_[bias].is_constant() || g_[bias].dtype != DType::kF32 || w.codes.dtype() != DType::kI8) return;
    if (std::any_of(w.zeros.begin(), w.zeros.end(), [](int zero) { return zero != 0; })) return;
    int64_t largest = 0, times = 1;
    for (int64_t i = 0; i < w.codes.size(); ++i) largest = std::max(largest, std::abs(w.codes.get_int(i)));
    while (largest > 0 && 2 * times * largest <= 127) times *= 2;
    if (times == 1) return;
    Tensor finer(DType::kI8, w.codes.shape());
    for (int64_t i = 0; i < finer.size(); ++i) finer.set_int(i, times * w.codes.get_int(i));
    w.codes = std::move(finer);
    for (float& scale : w.scales) scale /= static_cast<float>(times);
  }

  // Inputs of IntegerConv and IntegerMatMul.
  std::optional<std::vector<ValueId>> product_inputs(const Target& t, const Codes& x, Weights w, int64_t axis, ValueId bias, const Tensor* factor = nullptr) {
    if (w.codes.dtype() == DType::kI32) return std::nullopt;
    refine_units(w, bias);
    widen_scales(w, axis, x.scale.scale, bias);
    std::optional<Tensor> sums;
    if (bias) {
      sums = bias_codes(bias, x.scale.scale, w.scales);
      if (!sums) return std::nullopt;
    }
    const auto channels = static_cast<int64_t>(w.scales.size());
    Tensor multipliers(DType::kF32, {channels});
    for (int64_t i = 0; i < channels; ++i) {
      float multiplier = x.scale.scale * w.scales[i] / t.scale.scale;
      if (factor) multiplier *= factor->data<float>()[i];
      if (!std::isfinite(multiplier)) return std::nullopt;
      multipliers.data<float>()[i] = multiplier;
    }
    Factors f = centred(w, axis);
    const std::string& name = g_[t.node].name;
    std::vector<ValueId> inputs{x.value, g_.add_constant(f.codes, name + "_weights"), g_.add_constant(multipliers, name + "_multipliers")};
    if (sums || f.zeros.defined()) inputs.push_back(sums ? g_.add_constant(*sums, name + "_bias") : ValueId{});
    if (f.zeros.defined()) inputs.push_back(g_.add_constant(f.zeros, name + "_zeros"));
    return inputs;
  }

  void conv(const Target& t, const Node& n) {
    if (has_input(n, 3) || has_input(n, 4) || !n.get_string("activation").empty()) return;
    auto x = codes_of(g_, n.inputs[0]);
    auto w = weights_of(g_, n.inputs[1], 0);
    if (!x || !w) return;
    Attributes a = attributes(t);
    for (const char* name : {"strides", "pads", "dilations"}) a[name] = n.get_ints(name);
    a["group"] = n.get_int("group");
    a["x_zero_point"] = int64_t{x->scale.zero};
    const ValueId bias = has_input(n, 2) ? n.inputs[2] : ValueId{};
    a["pads"] = absorb_pads(*x, n.get_ints("pads"));  // may add a node: `n` is not there any more
    auto inputs = product_inputs(t, *x, *w, 0, bias);
    if (inputs) become(t, "IntegerConv", *inputs, std::move(a));
  }

  // Zeros put around a picture before a convolution are its own padding: its pads with them, and x without.
  Ints absorb_pads(Codes& x, Ints pads) {
    if (std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p < 0; })) return pads;
    const Node* n = sole(x.value);
    const Node* turn = is(n, "Transpose") && n->get_ints("perm") == Ints{0, 2, 3, 1} ? n : nullptr;
    const Node* pad = turn ? sole(turn->inputs[0]) : n;
    if (!is(pad, "Pad") || pad->get_string("mode") != "constant" || !g_[pad->inputs[1]].is_constant() || has_input(*pad, 3)) return pads;
    const Ints given = g_[pad->inputs[1]].constant.to_i64();
    const int64_t code = has_input(*pad, 2) && g_[pad->inputs[2]].is_constant() ? g_[pad->inputs[2]].constant.get_int(0) : x.scale.zero + 1;
    const size_t height = turn ? 2 : 1, others[] = {0, turn ? size_t{1} : size_t{3}};
    if (given.size() != 8 || code != x.scale.zero || std::any_of(given.begin(), given.end(), [](int64_t p) { return p < 0; })) return pads;
    for (size_t axis : others)
      if (given[axis] != 0 || given[axis + 4] != 0) return pads;
    for (size_t i = 0; i < 2; ++i) {
      pads[i] += given[height + i];
      pads[i + 2] += given[height + i + 4];
    }
    x.value = turn ? g_.add("Transpose", {pad->inputs[0]}, {{"perm", Ints{0, 2, 3, 1}}}) : pad->inputs[0];
    return pads;
  }

  // The node that makes the operand of a sum or product with a constant row, which `row` becomes.
  const Node* before_row(const Node& n, ValueId& row) const {
    const size_t at = g_[n.inputs[0]].is_constant() ? 1 : 0;
    const Node* from = sole(n.inputs[at]);
    row = n.inputs[1 - at];
    if (!from || !g_[row].is_constant() || g_[row].shape->empty() || g_[row].shape->back() != g_[row].constant.size()) return nullptr;
    return g_[n.outputs[0]].shape == g_[n.inputs[at]].shape ? from : nullptr;
  }

  // MatMul, Gemm, or the sum of either and a constant row, times another.
  bool product(const Target& t, const Node& last) {
    const Node* n = &last;
    ValueId bias, factor;
    if (is(n, "Mul") && !(n = before_row(*n, factor))) return false;
    if (is(n, "Add") && !(n = before_row(*n, bias))) return false;
    if (!is(n, "MatMul") && !is(n, "Gemm")) return false;
    const bool gemm = n->op->name == "Gemm";
    if (gemm && (n->get_int("transA") || n->get_float("alpha") != 1)) return false;
    if (gemm && has_input(*n, 2)) {
      if (bias || n->get_float("beta") != 1) return false;
      bias = n->inputs[2];
    }
    auto x = codes_of(g_, n->inputs[0]);
    if (!x || !g_[n->inputs[1]].shape || g_[n->inputs[1]].shape->size() != 2 || !g_[x->value].shape || g_[x->value].shape->empty()) return false;
    const int64_t transposed = gemm ? n->get_int("transB") : 0;
    auto w = weights_of(g_, n->inputs[1], transposed ? 0 : 1);
    if (!w) return false;
    const auto columns = static_cast<int64_t>(w->scales.size());
    if (bias && (!g_[bias].shape || g_[bias].shape->empty() || g_[bias].shape->back() != columns)) return false;
    if (transposed) w->codes = transpose(w->codes, {1, 0});
    Attributes a = attributes(t);
    a["x_zero_point"] = int64_t{x->scale.zero};
    if (factor && (g_[factor].constant.size() != columns || g_[factor].dtype != DType::kF32)) return false;
    auto inputs = product_inputs(t, *x, *w, 1, bias, factor ? &g_[factor].constant : nullptr);
    if (!inputs) return false;
    become(t, "IntegerMatMul", *inputs, std::move(a));
    return true;
  }

  // ---- the rest

  // γ and β in units of the output's step, with 12 and 42 bits behind the point: small enough that no product of 64 bits overflows.
  void layer_norm(const Target& t, const Node& n) {
    const auto x = codes_of(g_, n.inputs[0]);
    const auto& shape = g_[n.inputs[0]].shape;
    if (!x || !shape || shape->empty() || normalize_axis(n.get_int("axis"), static_cast<int64_t>(shape->size())) != static_cast<int64_t>(shape->size()) - 1) return;
    const int64_t count = shape->back();
    if (count < 1 || count > 4096 || (n.outputs.size() > 1 && (n.outputs[1] || (n.outputs.size() > 2 && n.outputs[2])))) return;
    const double most_weight = std::ldexp(1, 31) / std::sqrt(static_cast<double>(count)) / 2, step = t.scale.scale;
    Tensor weight(DType::kI32, {count}), bias(DType::kI64, {count});
    for (int64_t i = 0; i < count; ++i) {
      double factor = 1, shift = 0;
      for (size_t k : {1, 2}) {
        if (!has_input(n, k)) continue;
        const Value& v = g_[n.inputs[k]];
        if (!v.is_constant() || v.dtype != DType::kF32 || (v.constant.size() != count && v.constant.size() != 1)) return;
        (k == 1 ? factor : shift) = v.constant.get(v.constant.size() == 1 ? 0 : i);
      }
      const double w = factor / step * (1 << 12), b = shift / step * std::ldexp(1, 42);
      if (!(std::fabs(w) < most_weight) || !(std::fabs(b) < std::ldexp(1, 60))) return;
      weight.set_int(i, std::llround(w));
      bias.set_int(i, std::llround(b));
    }
    const double epsilon = std::nearbyint(static_cast<double>(n.get_float("epsilon")) * static_cast<double>(count * count) / (static_cast<double>(x->scale.scale) * static_cast<double>(x->scale.scale)) * (1 << 16));
    if (!(epsilon >= 0 && epsilon < std::ldexp(1, 61))) return;
    Attributes a = attributes(t);
    a["epsilon"] = static_cast<int64_t>(epsilon);
    const std::string name = g_[t.node].name;
    become(t, "IntegerLayerNorm", {x->value, g_.add_constant(weight, name + "_weights"), g_.add_constant(bias, name + "_bias")}, std::move(a));
  }

  void attention(const Target& t, const Node& n) {
    const auto q = codes_of(g_, n.inputs[0]), k = codes_of(g_, n.inputs[1]), v = codes_of(g_, n.inputs[2]);
    if (!q || !k || !v || has_input(n, 3) || n.get_int("is_causal") || n.get_int("left_window_size") >= 0 || n.get_int("right_window_size") >= 0 || n.get_float("softcap") != 0) return;
    // Placed in what makes and reads the heads (place_heads), or [batch, heads, rows, columns].
    const bool placed = !n.op->domain.empty();
    std::optional<ops::AttentionSizes> sizes;
    if (placed) {
      sizes = ops::fused_attention_sizes(n);
    } else {
      for (ValueId value : {n.inputs[0], n.inputs[1], n.inputs[2], n.outputs[0]})
        if (!g_[value].shape || !is_static(*g_[value].shape) || g_[value].shape->size() != 4) return;
      for (size_t i = 1; i < n.outputs.size(); ++i)
        if (n.outputs[i]) return;
      sizes = ops::attention_sizes(n, *g_[n.inputs[0]].shape, *g_[n.inputs[1]].shape, *g_[n.inputs[2]].shape, nullptr, nullptr);
    }
    const double scale = n.has("scale") ? static_cast<double>(n.get_float("scale")) : 1 / std::sqrt(static_cast<double>(sizes->head_size));
    const double unit = static_cast<double>(q->scale.scale) * static_cast<double>(k->scale.scale) * scale, ratio = static_cast<double>(v->scale.scale) / static_cast<double>(t.scale.scale);
    // Between them fixed point has all its bits.
    if (!(unit > 1e-12 && unit < 1) || !(ratio > 1e-6 && ratio < 1 << 12) || sizes->keys > 4096 || sizes->head_size > 1024) return;
    Attributes a = attributes(t);
    const std::pair<const char*, int64_t> named[] = {{"batch", sizes->batch}, {"q_num_heads", sizes->query_heads}, {"kv_num_heads", sizes->kv_heads}, {"queries", sizes->queries},
                                                     {"keys", sizes->keys}, {"head_size", sizes->head_size}, {"value_size", sizes->value_size}};
    for (const auto& [name, size] : named) a[name] = size;
    for (const char* name : {"q_view", "k_view", "v_view", "y_view", "y_shape"})
      if (placed) a[name] = n.get_ints(name);
    if (!placed) {
      a["q_view"] = ops::view_by_head(sizes->query_heads, sizes->queries, sizes->head_size).numbers();
      a["k_view"] = ops::view_by_head(sizes->kv_heads, sizes->keys, sizes->head_size).numbers();
      a["v_view"] = ops::view_by_head(sizes->kv_heads, sizes->keys, sizes->value_size).numbers();
      a["y_view"] = ops::view_by_head(sizes->query_heads, sizes->queries, sizes->value_size).numbers();
      a["y_shape"] = *g_[n.outputs[0]].shape;
    }
    a["q_zero_point"] = int64_t{q->scale.zero};
    a["k_zero_point"] = int64_t{k->scale.zero};
    a["v_zero_point"] = int64_t{v->scale.zero};
    a["score_unit"] = static_cast<float>(unit);
    a["value_ratio"] = static_cast<int64_t>(std::llround(std::ldexp(ratio, 30)));
    become(t, "IntegerAttention", {q->value, k->value, v->value}, std::move(a));
  }

  // A constant in f32 as codes of its own range.
  std::optional<Codes> coded_constant(ValueId v) {
    if (!g_[v].is_constant() || g_[v].dtype != DType::kF32 || g_[v].constant.size() < 1) return std::nullopt;
    const Tensor& values = g_[v].constant;
    double least = 0, most = 0;
    for (int64_t i = 0; i < values.size(); ++i) least = std::min(least, values.get(i)), most = std::max(most, values.get(i));
    if (!std::isfinite(most - least)) return std::nullopt;
    TensorScale s{most > least ? static_cast<float>((most - least) / 255) : 1.0f, 0, DType::kU8};
    s.zero = static_cast<int>(std::nearbyint(-least / static_cast<double>(s.scale)));
    Tensor codes(DType::kU8, values.shape());
    for (int64_t i = 0; i < values.size(); ++i) codes.set_int(i, std::clamp<int64_t>(std::llround(values.get(i) / static_cast<double>(s.scale)) + s.zero, 0, 255));
    return Codes{g_.add_constant(codes, g_[v].name + "_codes"), s};
  }

  void binary(const Target& t, const Node& n) {
    auto a = codes_of(g_, n.inputs[0]), b = codes_of(g_, n.inputs[1]);
    if (tokens_ && n.op->name == "Add" && a.has_value() != b.has_value()) {
      const ValueId constant = n.inputs[a ? 1 : 0];
      (a ? b : a) = coded_constant(constant);
    }
    if (!a || !b) return;
    Attributes attrs = attributes(t);
    attrs["a_scale"] = a->scale.scale;
    attrs["a_zero_point"] = int64_t{a->scale.zero};
    attrs["b_scale"] = b->scale.scale;
    attrs["b_zero_point"] = int64_t{b->scale.zero};
    attrs["y_scale"] = t.scale.scale;
    become(t, n.op->name == "Add" ? "IntegerAdd" : "IntegerMul", {a->value, b->value}, std::move(attrs));
  }

  Attributes unary(const Target& t, const Codes& x) const {
    Attributes a = attributes(t);
    a["x_scale"] = x.scale.scale;
    a["x_zero_point"] = int64_t{x.scale.zero};
    a["y_scale"] = t.scale.scale;
    return a;
  }

  void pool(const Target& t, const Node& n) {
    auto x = codes_of(g_, n.inputs[0]);
    if (!x || n.get_string("kind") != "Average") return;
    Attributes a = unary(t, *x);
    a["kind"] = std::string("Average");
    for (const char* name : {"kernel_shape", "strides", "pads"}) a[name] = n.get_ints(name);
    a["count_include_pad"] = n.get_int("count_include_pad");
    become(t, "IntegerPool", {x->value}, std::move(a));
  }

  // Axes that follow each other are one window over [before, axes, 1, behind].
  void mean(const Target& t, const Node& n) {
    auto x = codes_of(g_, n.inputs[0]);
    const auto& y = g_[g_[t.node].outputs[0]].shape;
    if (!x || !has_input(n, 1) || !g_[n.inputs[1]].is_constant() || !g_[x->value].shape || !is_static(*g_[x->value].shape) || !y || !is_static(*y)) return;
    const Shape s = *g_[x->value].shape;
    Ints axes = g_[n.inputs[1]].constant.to_i64();
    if (axes.empty() || element_count(s) == 0) return;
    for (int64_t& axis : axes) axis = normalize_axis(axis, static_cast<int64_t>(s.size()));
    std::sort(axes.begin(), axes.end());
    const auto first = static_cast<size_t>(axes.front()), count = axes.size();
    if (axes.back() - axes.front() + 1 != static_cast<int64_t>(count)) return;
    const int64_t window = lathe::product(s, first, first + count);
    const Shape wide{lathe::product(s, 0, first), window, 1, lathe::product(s, first + count, s.size())};
    const Shape shape = *y;
    Attributes a = unary(t, *x);
    a["kind"] = std::string("Mean");
    a["kernel_shape"] = Ints{window, 1};
    a["strides"] = Ints{1, 1};
    a["pads"] = Ints{0, 0, 0, 0};
    ValueId from = g_.add("Reshape", {x->value, g_.add_constant(Tensor::of_i64(wide))});
    ValueId pooled = g_.add("ai.lathe::IntegerPool", {from}, std::move(a));
    become(t, "Reshape", {pooled, g_.add_constant(Tensor::of_i64(shape))}, {}, "");
  }

  void softmax(const Target& t, const Node& n) {
    auto x = codes_of(g_, n.inputs[0]);
    if (!x || !g_[x->value].shape || g_[x->value].shape->empty()) return;
    const auto rank = static_cast<int64_t>(g_[x->value].shape->size());
    if (normalize_axis(n.get_int("axis"), rank) != rank - 1) return;
    become(t, "IntegerSoftmax", {x->value}, unary(t, *x));
  }

  // Each part is brought to the scale of the whole.
  void concat(const Target& t, const Node& n) {
    std::vector<Codes> parts;
    for (ValueId v : n.inputs) {
      auto codes = codes_of(g_, v);
      if (!codes) return;
      parts.push_back(*codes);
    }
    Attributes a{{"axis", n.get_int("axis")}};
    std::vector<ValueId> inputs;
    const Requantize all = Requantize::all(t.out.type, t.out.zero);
    const bool limited = t.out.low != all.low || t.out.high != all.high;
    for (const Codes& part : parts) {
      ValueId codes = part.value;
      if (part.scale != t.scale || limited)
        codes = g_.add("ai.lathe::Table", {codes, g_.add_constant(requantized(part.scale, t))});
      inputs.push_back(codes);
    }
    become(t, "Concat", inputs, std::move(a), "");
  }
  static Tensor requantized(const TensorScale& from, const Target& t) {
    Tensor entries(t.out.type, {256});
    for (int bits = 0; bits < 256; ++bits) {
      const int code = from.type == DType::kI8 ? static_cast<int8_t>(bits) : bits;
      const float real = from.scale * static_cast<float>(code - from.zero);
      entries.set_int(bits, t.out.code(real / t.scale.scale));
    }
    return entries;
  }

  Graph& g_;
  const bool tokens_;  // norms and attention too
  std::vector<int> readers_;  // of each value; graph outputs count for more than one
};

// QLinearConv and QLinearMatMul of constant weights are DequantizeLinear, Conv or MatMul, QuantizeLinear.
void expand(Graph& g, NodeId id) {
  const Node n = g[id];
  const bool conv = n.op->name == "QLinearConv";
  if (!n.op->domain.empty() || (!conv && n.op->name != "QLinearMatMul")) return;
  for (size_t i : {1, 2, 3, 4, 5, 6, 7})
    if (!g[n.inputs[i]].is_constant()) return;
  if (g[n.inputs[1]].constant.size() != 1 || g[n.inputs[6]].constant.size() != 1 || g[n.inputs[1]].dtype != DType::kF32) return;
  if (!conv && (!g[n.inputs[3]].shape || g[n.inputs[3]].shape->size() != 2)) return;
  const std::string& name = n.name;
  ValueId x = g.add("DequantizeLinear", {n.inputs[0], n.inputs[1], n.inputs[2]}, {}, name + "_x");
  ValueId w = g.add("DequantizeLinear", {n.inputs[3], n.inputs[4], n.inputs[5]}, {{"axis", int64_t{conv ? 0 : 1}}}, name + "_w");
  std::vector<ValueId> inputs{x, w};
  if (has_input(n, 8)) {
    if (!g[n.inputs[8]].is_constant()) return;
    const Tensor &x_scale = g[n.inputs[1]].constant, &w_scale = g[n.inputs[4]].constant;
    Tensor scale(DType::kF32, w_scale.size() == 1 ? Shape{} : Shape{w_scale.size()});
    for (int64_t i = 0; i < scale.size(); ++i) scale.set(i, x_scale.data<float>()[0] * w_scale.get(i));
    inputs.push_back(g.add("DequantizeLinear", {n.inputs[8], g.add_constant(scale)}, {{"axis", int64_t{0}}}, name + "_b"));
  }
  ValueId y = g.add(conv ? "Conv" : "MatMul", inputs, n.attributes, name + "_real");
  g[id].op = &find_op("QuantizeLinear");
  g[id].inputs = {y, n.inputs[6], n.inputs[7]};
  g[id].attributes.clear();
}

// Why `reader`, which takes a dequantized value, is not an operator on codes.
std::string reason_of(const Graph& g, const Node& reader) {
  static const std::set<std::string> known = {"Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "Pool", "ReduceMean", "Softmax", "ExpandDepthwise", "PlanarConv"};
  const std::string& op = reader.op->name;
  if (!known.contains(op) && !kUnary.contains(op)) return "has no form on codes";
  for (ValueId v : reader.inputs) {
    if (!v || g[v].is_constant()) continue;
    const NodeId from = g[v].producer;
    if (!from || g[from].op->name != "DequantizeLinear") return "other operands are not codes";
    if (!tensor_scale(g, g[from])) return "its codes have several scales, or more than 8 bits";
  }
  return "nothing rounds its result to codes, or others read it before";
}

}  // namespace

std::vector<std::string> real_operators(const Graph& graph) {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> kinds;
  for (NodeId id : graph.order()) {
    const Node& n = graph[id];
    const bool reads = std::any_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) {
      return v && graph[v].producer && graph[graph[v].producer].op->domain.empty() && graph[graph[v].producer].op->name == "DequantizeLinear";
    });
    if (reads) kinds[{n.op->name, reason_of(graph, n)}].push_back(n.name);
  }
  std::vector<std::string> lines;
  lines.reserve(kinds.size());
  for (const auto& [kind, names] : kinds) lines.push_back(fmt::format("{} {} in float (first {}): {}", names.size(), kind.first, names.front(), kind.second));
  return lines;
}

void expand_quantized(Graph& graph) {
  for (NodeId id : graph.order()) expand(graph, id);
}

void to_integer(Graph& graph) { to_integer(graph, {}); }
void to_integer(Graph& graph, const IntegerOptions& options) {
  sink_dequantize(graph);
  fold_constants(graph, kLargestGrowth, true);
  IntegerPass(graph, options.tokens).run();
}

}  // namespace lathe
