// bf16 where it pays: products with constant weights, and what stands between them. As in layout.cpp a
// value has a twin, here of the other precision, and a cast is made only where a value is wanted in the
// precision that nobody makes. Accumulation stays in f32 inside the kernels; graph inputs and outputs keep
// their type. What stays in f32, since there bf16 costs answers and wins no time:
//
// - What the last product makes, and all that follows: scores that are nearly equal would be equal in bf16.
// - What only depthwise convolutions read, and their weights: a window of nine taps takes differences of neighbours that
//   are nearly the same, and errors of so few terms do not average out. The product before writes f32, the
//   depthwise convolution bf16; between the two of an ExpandDepthwise it is so in any case.
// - The first convolution of a network that goes on with a depthwise one, that one, and the product behind it, which
//   writes bf16: few channels, whose errors all that follows sees. Where that product has few inputs too and a depthwise
//   convolution behind it, so has the next (MobileNet V1 at a quarter of its width: half the error for a tenth of the time).
// - Convolutions in groups of two or four channels, which have a kernel in f32 alone.
//
// Weights are rounded so that their errors cancel (transform/round_weights.h).
#include <algorithm>
#include <numeric>
#include <set>
#include <span>

#include "graph/op.h"
#include "kernels/kernel.h"
#include "transform/passes.h"
#include "transform/round_weights.h"

namespace lathe {
namespace {

// What only moves elements, and follows whatever precision they are made in.
const std::set<std::string> kMoves = {"Reshape", "Flatten", "Transpose", "Concat", "Slice", "Squeeze", "Unsqueeze", "Gather", "Split", "Identity", "Expand"};
// Kernels of these compute in f32 inside and read and write bf16.
const std::set<std::string> kElementwise = {"Relu", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Swish", "Mish", "Gelu", "Clip", "Abs", "Neg",
                                            "Sqrt", "Reciprocal", "Exp", "Floor", "Ceil", "Round", "Erf", "Add", "Sum", "Sub", "Mul", "Div", "Max", "Min",
                                            "Softmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"};
const std::set<std::string> kPairs = {"Add", "Sum", "Sub", "Mul", "Div", "Max", "Min", "RMSNormalization"};  // two inputs of the result's type

const std::set<std::string> kReductions = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"};

bool is_product(const Node& n) { return n.op->domain == kLatheDomain && (n.op->name == "Conv" || n.op->name == "MatMul" || n.op->name == "ExpandDepthwise" || n.op->name == "PlanarConv"); }

// A network's first convolution reads a picture of so many channels at most.
constexpr int64_t kPictureChannels = 4;

bool is_depthwise(const Graph& g, const Node& n) {
  return n.op->domain == kLatheDomain && n.op->name == "Conv" && n.get_int("group") > 1 && (*g[n.inputs[1]].shape)[1] == 1 &&
         n.get_int("group") == (*g[n.inputs[1]].shape)[0] && !(n.inputs.size() > 4 && n.inputs[4]);
}

// Two or four channels a group: the kernel for these is one of f32 (kernels/cpu/grouped_conv.cpp).
bool in_small_groups(const Graph& g, const Node& n) {
  if (n.op->name != "Conv" || n.get_int("group") == 1) return false;
  const Shape& w = *g[n.inputs[1]].shape;
  return (w[1] == 2 || w[1] == 4) && w[0] == w[1] * n.get_int("group");
}

class HalfPass {
 public:
  HalfPass(Graph& g, bool marked_only) : g_(g), marked_only_(marked_only), moments_(expected_moments(g)), consumers_(g.consumers()), before_product_(g.value_count(), false) {
    for (ValueId v : g.outputs) public_.insert(v.index);
    std::vector<NodeId> order = g.order();
    for (size_t i = order.size(); i-- > 0;) {
      const Node& n = g[order[i]];
      bool before = is_product(n);
      for (ValueId v : n.outputs) before = before || (v && before_product_[v.index]);
      if (!before) continue;
      for (ValueId v : n.inputs)
        if (v) before_product_[v.index] = true;
    }
  }

  void run() {
    for (NodeId id : g_.order()) {
      const Node& n = g_[id];
      const std::string& op = n.op->name;
      const bool fused = n.op->domain == kLatheDomain, standard = n.op->domain.empty();
      if (fused && (op == "Conv" || op == "MatMul")) product(id);
      else if (fused && op == "ExpandDepthwise") expansion(id);
      else if (fused && op == "PlanarConv") planes(id);
      else if ((fused && (op == "Pool" || op == "Affine" || op == "StarRelu" || op == "ConvTranspose")) || (standard && (kReductions.contains(op) || op == "Resize"))) half_kernel(id, {0});
      else if (op == "Attention") half_kernel(id, {0, 1, 2});
      else if (standard && op == "Pad") half_kernel(id, n.inputs.size() > 2 && n.inputs[2] ? std::vector<size_t>{0, 2} : std::vector<size_t>{0});
      // What follows the last product (boxes, probabilities) keeps its precision: nothing would be won by less.
      else if (standard && kElementwise.contains(op) && before_product_[n.outputs[0].index]) half_kernel(id, kPairs.contains(op) ? first_inputs(n.inputs.size()) : std::vector<size_t>{0});
      else if ((fused && op == "ChannelShuffle") || (standard && kMoves.contains(op))) move(id);
    }
    for (auto& [wide, half] : twin_) {
      if (!orphans_.contains(wide)) continue;
      Node n;
      n.op = &find_op("Cast");
      n.name = g_[ValueId{wide}].name + "_f32";
      n.inputs = {half};
      n.attributes["to"] = static_cast<int64_t>(DType::kF32);
      n.outputs = {{wide}};
      g_.add_node(std::move(n));
    }
    remove_dead(g_);
    g_.compact();
  }

 private:
  ValueId half(ValueId v) {
    if (auto it = twin_.find(v.index); it != twin_.end()) return it->second;
    ValueId t = g_[v].is_constant() ? g_.add_constant(cast(g_[v].constant, DType::kBF16), g_[v].name + "_bf16")
                                    : g_.add("Cast", {v}, {{"to", static_cast<int64_t>(DType::kBF16)}});
    twin_[v.index] = t;
    return t;
  }

  // With `wide` the node makes f32, as it did, of bf16.
  NodeId replace(NodeId id, std::vector<ValueId> inputs, bool wide = false) {
    Node n = g_[id];
    g_.remove(id);
    n.inputs = std::move(inputs);
    if (wide) {
      n.attributes["output_type"] = static_cast<int64_t>(DType::kF32);
      return g_.add_node(std::move(n));
    }
    for (ValueId& out : n.outputs) {
      if (!out) continue;
      const ValueId old = out;
      Value made;
      made.name = g_[old].name + "_bf16";
      made.dtype = DType::kBF16;
      made.shape = g_[old].shape;
      out = g_.add_value(std::move(made));
      twin_[old.index] = out;
      orphans_.insert(old.index);
    }
    return g_.add_node(std::move(n));
  }

  bool only_depthwise_reads(ValueId v) const {
    const auto& readers = consumers_[v.index];
    return !readers.empty() && !public_.contains(v.index) &&
           std::all_of(readers.begin(), readers.end(), [&](NodeId id) {
             const std::vector<ValueId>& inputs = g_[id].inputs;
             return is_depthwise(g_, g_[id]) && inputs[0] == v && std::count(inputs.begin(), inputs.end(), v) == 1;
           });
  }

  // Of a 1×1 convolution with these weights: errors of so few terms do not average out, and their products are few.
  bool few_inputs(ValueId weights) const {
    const Shape& w = *g_[weights].shape;
    return w[1] * w[2] * w[3] <= 32;
  }

  // Reads f32 and writes bf16.
  void narrowing(NodeId id, std::vector<ValueId> inputs) {
    g_[id].attributes["output_type"] = static_cast<int64_t>(DType::kBF16);
    replace(id, std::move(inputs));
  }

  void product(NodeId id) {
    const Node& n = g_[id];
    const ValueId read = n.inputs[0], result = n.outputs[0];
    if (g_[read].dtype != DType::kF32) return;
    if (in_small_groups(g_, n)) return;
    const bool depthwise = is_depthwise(g_, n), made_wide = !made_in_half(read), last = !before_product_[result.index];
    // A depthwise convolution keeps its weights and follows what stands around it.
    if (!depthwise && !marked(n.inputs[1])) return;
    // The beginning of a network of depthwise convolutions, up to the first product behind one.
    if (n.op->name == "Conv" && made_wide && g_[read].shape->back() <= kPictureChannels && only_depthwise_reads(result)) {
      beginning_.insert(result.index);
      return;
    }
    std::vector<ValueId> inputs = n.inputs;
    if (beginning_.contains(read.index)) {
      if (depthwise) {
        beginning_.insert(result.index);
        return;
      }
      if (last) return;
      if (n.op->name == "Conv" && few_inputs(inputs[1]) && only_depthwise_reads(result)) {
        beginning_.insert(result.index);
        return;
      }
      if (inputs.size() > 3 && inputs[3]) inputs[3] = half(inputs[3]);
      return narrowing(id, std::move(inputs));
    }
    const bool half_residual = inputs.size() > 3 && inputs[3] && made_in_half(inputs[3]);
    for (size_t i = 3; i < inputs.size(); ++i)
      if (inputs[i] && !(depthwise && made_wide && last)) inputs[i] = half(inputs[i]);
    if (depthwise && made_wide) {
      if (!last && wanted_half(result)) narrowing(id, std::move(inputs));
      return;
    }
    inputs[0] = half(inputs[0]);
    const bool wide = !depthwise && (last || (!half_residual && only_depthwise_reads(result)));
    if (wide && inputs.size() > 3 && inputs[3]) inputs[3] = n.inputs[3];
    NodeId made = replace(id, inputs, wide);
    // Kernels that compute in f32 whatever the pictures are (depthwise, Winograd) keep exact weights.
    const Node& half_node = g_[made];
    if (half_node.op->name == "Conv" && !kernels_for({g_, half_node}).empty()) return;
    ValueId weights = half_weights(half_node, half_node.inputs[1], read);
    g_[made].inputs[1] = weights;
  }

  // Of a product, or of the first of an ExpandDepthwise. Weights that several products share are rounded for the first.
  ValueId half_weights(const Node& n, ValueId weights, ValueId read) {
    const Tensor& w = g_[weights].constant;
    if (twin_.contains(weights.index) || w.dtype() != DType::kF32 || !w.has_elements()) return half(weights);
    const bool columns = n.op->name == "MatMul" && n.get_int("transposed") == 0;
    const int64_t group = n.op->name == "Conv" ? n.get_int("group") : 1;
    auto expected = moments_.find(read.index);
    Tensor rounded = round_weights(w, columns, group, expected == moments_.end() ? std::vector<float>{} : expected->second.mean);
    return twin_[weights.index] = g_.add_constant(std::move(rounded), g_[weights].name + "_bf16");
  }

  // The depthwise weights are few: they stay exact.
  void expansion(NodeId id) {
    const Node& n = g_[id];
    if (g_[n.inputs[0]].dtype != DType::kF32) return;
    if (beginning_.contains(n.inputs[0].index)) {
      if (few_inputs(n.inputs[1])) beginning_.insert(n.outputs[0].index);
      else if (before_product_[n.outputs[0].index] && wanted_half(n.outputs[0])) narrowing(id, n.inputs);
      return;
    }
    if (!has_bf16_instructions() || g_[n.inputs[0]].shape->back() % 2 != 0 || !marked(n.inputs[1])) return;
    std::vector<ValueId> inputs = n.inputs;
    inputs[1] = half_weights(n, inputs[1], inputs[0]);
    inputs[0] = half(inputs[0]);
    replace(id, inputs);
  }

  // Reads f32, as inputs are, and is exact up to the rounding of its result.
  void planes(NodeId id) {
    const ValueId result = g_[id].outputs[0];
    if (only_depthwise_reads(result)) {
      beginning_.insert(result.index);
      return;
    }
    if (!before_product_[result.index] || !marked(g_[id].inputs[1]) || !wanted_half(result)) return;
    narrowing(id, g_[id].inputs);
  }

  bool marked(ValueId weights) const {
    const Tensor& w = g_[weights].constant;
    return !marked_only_ || w.dtype() == DType::kBF16 || (w.defined() && w.dtype() == DType::kF32 && w.has_elements() && holds_bf16(w));
  }

  // Where layers are marked one by one, what is made in f32 is written in bf16 only for a product that is marked.
  bool wanted_half(ValueId v) const {
    const auto& readers = consumers_[v.index];
    return !marked_only_ || std::any_of(readers.begin(), readers.end(), [&](NodeId id) { return is_product(g_[id]) && !is_depthwise(g_, g_[id]) && marked(g_[id].inputs[1]); });
  }

  bool made_in_half(ValueId v) const { return twin_.contains(v.index) && !g_[v].is_constant(); }

  static std::vector<size_t> first_inputs(size_t count) {
    std::vector<size_t> all(count);
    std::iota(all.begin(), all.end(), size_t{0});
    return all;
  }

  // What reads something that is made in bf16 stays there, where a kernel computes on it in f32 inside. The inputs
  // `data` are of the result's type; others (scales, axes, masks) stay as they are.
  void half_kernel(NodeId id, const std::vector<size_t>& data) {
    const Node& n = g_[id];
    if (n.outputs.size() != 1 || !g_[n.outputs[0]].shape || n.inputs.size() <= data.back()) return;
    bool any = false;
    for (size_t i : data) {
      const ValueId v = n.inputs[i];
      if (!v || g_[v].dtype != DType::kF32) return;
      if (made_in_half(v)) any = true;
      else if (!g_[v].is_constant() || !g_[v].constant.has_elements()) return;
    }
    if (!any) return;
    // Asked with values of the types that there would be.
    for (size_t i : data) g_[n.inputs[i]].dtype = DType::kBF16;
    g_[n.outputs[0]].dtype = DType::kBF16;
    const bool fits = !kernels_for({g_, n}).empty();
    for (size_t i : data) g_[n.inputs[i]].dtype = DType::kF32;
    g_[n.outputs[0]].dtype = DType::kF32;
    if (!fits) return;
    std::vector<ValueId> inputs = n.inputs;
    for (size_t i : data) inputs[i] = half(inputs[i]);
    replace(id, inputs);
  }

  void move(NodeId id) {
    const Node& n = g_[id];
    std::vector<ValueId> inputs = n.inputs;
    const size_t data = n.op->name == "Concat" || n.op->name == "ChannelShuffle" ? inputs.size() : 1;
    bool any = false;
    for (size_t i = 0; i < data; ++i) {
      if (made_in_half(inputs[i])) any = true;
      else if (!g_[inputs[i]].is_constant() || g_[inputs[i]].dtype != DType::kF32 || !before_product_[n.outputs[0].index]) return;
    }
    for (ValueId v : n.outputs)
      if (!v || !g_[v].shape) return;
    if (!any) return;
    for (size_t i = 0; i < data; ++i) inputs[i] = half(inputs[i]);
    replace(id, inputs);
  }

  Graph& g_;
  const bool marked_only_;
  std::map<int32_t, Moments> moments_;  // by f32 value
  std::vector<std::vector<NodeId>> consumers_;  // by f32 value, before anything changed
  std::set<int32_t> public_;
  std::set<int32_t> beginning_;  // f32 values of the first convolutions
  std::map<int32_t, ValueId> twin_;
  std::vector<bool> before_product_;  // by value: a product follows somewhere
  std::set<int32_t> orphans_;         // f32 values whose producer now makes the bf16 twin
};

}  // namespace

void to_bf16(Graph& graph, bool marked_only) { HalfPass(graph, marked_only).run(); }

bool holds_bf16(const Tensor& constant) {
  std::span<const uint32_t> bits(reinterpret_cast<const uint32_t*>(constant.data<float>()), static_cast<size_t>(constant.size()));
  return std::all_of(bits.begin(), bits.end(), [](uint32_t b) { return (b & 0xffffu) == 0; });
}

}  // namespace lathe
