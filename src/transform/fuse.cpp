// Convolutions and matrix products with constant weights become ai.lathe operators that take bias,
// activation and residual. Only f32, static shapes.
#include <algorithm>
#include <limits>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {
namespace {

struct Activation {
  std::string name;
  float alpha = 0, beta = 0;
};

std::optional<Activation> as_activation(const Graph& g, const Node& n) {
  const std::string& op = n.op->name;
  if (!n.op->domain.empty()) return std::nullopt;
  for (const char* plain : {"Relu", "HardSwish", "Sigmoid", "Tanh", "Mish"})
    if (op == plain) return Activation{op, 0, 0};
  if (op == "LeakyRelu" || op == "Elu") return Activation{op, n.get_float("alpha"), 0};
  if (op == "Swish") return Activation{op, n.get_float("alpha"), 0};
  if (op == "HardSigmoid") return Activation{op, n.get_float("alpha"), n.get_float("beta")};
  if (op == "Gelu") return Activation{n.get_string("approximate") == "tanh" ? "GeluTanh" : "Gelu", 0, 0};
  if (op == "Clip") {
    Activation a{op, -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
    for (size_t i : {1, 2}) {
      if (i >= n.inputs.size() || !n.inputs[i]) continue;
      if (!g[n.inputs[i]].is_constant()) return std::nullopt;
      (i == 1 ? a.alpha : a.beta) = static_cast<float>(g[n.inputs[i]].constant.get(0));
    }
    return a;
  }
  return std::nullopt;
}

bool f32_static(const Graph& g, ValueId v) {
  return v && g[v].dtype == DType::kF32 && g[v].shape && is_static(*g[v].shape) && element_count(*g[v].shape) > 0;
}

// MatMul and Gemm with a constant right factor.
bool to_fused_matmul(Graph& g, NodeId id) {
  const Node& n = g[id];
  bool gemm = n.op->name == "Gemm";
  if (!n.op->domain.empty() || (!gemm && n.op->name != "MatMul")) return false;
  if (!f32_static(g, n.inputs[0]) || !f32_static(g, n.inputs[1]) || !g[n.inputs[1]].is_constant()) return false;
  const Tensor& w = g[n.inputs[1]].constant;
  if (w.rank() != 2 || g[n.inputs[0]].shape->size() < (gemm ? 2u : 1u)) return false;
  ValueId bias;
  if (gemm) {
    if (n.get_int("transA") || n.get_float("alpha") != 1) return false;
    if (n.inputs.size() > 2 && n.inputs[2]) {
      const Value& c = g[n.inputs[2]];
      int64_t width = w.shape()[n.get_int("transB") ? 0 : 1];
      if (!c.is_constant() || c.constant.size() != width || c.constant.shape().back() != width || n.get_float("beta") != 1) return false;
      bias = g.add_constant(c.constant.reshaped({width}));
    }
  }
  const int64_t transposed = gemm ? n.get_int("transB") : 0;
  std::vector<ValueId> inputs{n.inputs[0], n.inputs[1]};
  if (bias) inputs.push_back(bias);
  g[id].op = &find_op("MatMul", "ai.lathe");
  g[id].inputs = inputs;
  g[id].attributes.clear();
  if (transposed) g[id].attributes["transposed"] = int64_t{1};
  return true;
}

}  // namespace

// Products whose weights are codes: what makes numbers of these, a row for each output channel, is input 4.
static bool is_coded_product(const Node& n) {
  return n.op->domain == kLatheDomain && (n.op->name == "CodedMatMul" || n.op->name == "CodedConv" || n.op->name == "BinaryConv");
}

// A constant of one row for all channels, or one each, with the rows multiplied by f.
static Tensor scaled_rows(const Tensor& rows, const Tensor& f) {
  const int64_t channels = f.size(), each = rows.rank() == 1 ? 1 : rows.dim(1), step = rows.dim(0) == 1 ? 0 : each;
  Tensor scaled(DType::kF32, rows.rank() == 1 ? Shape{channels} : Shape{channels, each});
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < each; ++i) scaled.set(c * each + i, rows.get(c * step + i) * f.get(c));
  return scaled;
}

// A factor per output channel goes into the weights and the bias.
static bool scale_columns(Graph& g, NodeId id, const Node& mul, ValueId y) {
  ValueId other = mul.inputs[0] == y ? mul.inputs[1] : mul.inputs[0];
  int64_t channels = g[y].shape->back();
  const Tensor f = g[other].constant;  // a copy: values move when others are added
  if (!g[other].is_constant() || f.size() != channels || f.shape().back() != channels || f.rank() > static_cast<int64_t>(g[y].shape->size())) return false;
  if (is_coded_product(g[id])) {
    ValueId rows = g.add_constant(scaled_rows(g[g[id].inputs[4]].constant, f), g[g[id].inputs[4]].name + "_scaled");
    g[id].inputs[4] = rows;
  } else {
    Tensor w = g[g[id].inputs[1]].constant.clone();
    const bool channel_first = g[id].op->name == "Conv" || g[id].get_int("transposed");
    int64_t each = w.size() / channels;
    float* p = w.data<float>();
    for (int64_t i = 0; i < w.size(); ++i) p[i] *= static_cast<float>(f.get(channel_first ? i / each : i % channels));
    ValueId weights = g.add_constant(std::move(w), g[g[id].inputs[1]].name + "_scaled");
    g[id].inputs[1] = weights;
  }
  if (g[id].inputs.size() > 2 && g[id].inputs[2]) {
    Tensor b = g[g[id].inputs[2]].constant.clone();
    for (int64_t c = 0; c < channels; ++c) b.set(c, b.get(c) * f.get(c));
    ValueId bias = g.add_constant(std::move(b));
    g[id].inputs[2] = bias;
  }
  return true;
}

// What a batch norm became, after a product whose weights are codes, goes into their numbers and the bias.
static bool absorb_affine(Graph& g, NodeId id, const Node& affine) {
  if (affine.op->domain != kLatheDomain || affine.op->name != "Affine" || !is_coded_product(g[id]) || !affine.get_string("activation").empty()) return false;
  auto given = [&](size_t i) { return i < g[id].inputs.size() && g[id].inputs[i]; };
  if (given(3) || !g[id].get_string("activation").empty()) return false;
  for (size_t i : {1, 2})
    if (!g[affine.inputs[i]].is_constant() || g[affine.inputs[i]].dtype != DType::kF32) return false;
  const Tensor scale = g[affine.inputs[1]].constant;
  Tensor bias = g[affine.inputs[2]].constant.clone();
  if (given(2))
    for (int64_t c = 0; c < bias.size(); ++c) bias.set(c, bias.get(c) + g[g[id].inputs[2]].constant.get(c) * scale.get(c));
  const ValueId rows = g.add_constant(scaled_rows(g[g[id].inputs[4]].constant, scale), g[g[id].inputs[4]].name + "_scaled"), shift = g.add_constant(std::move(bias));
  g[id].inputs[4] = rows;
  g[id].inputs[2] = shift;
  return true;
}

// What follows a fused product: bias, activation, residual, in the orders that models use.
static void absorb_epilogue(Graph& g, NodeId id, std::vector<std::vector<NodeId>>& consumers, const std::vector<bool>& is_public,
                            const std::vector<int32_t>& position) {
  auto input = [&](size_t i) { return i < g[id].inputs.size() ? g[id].inputs[i] : ValueId{}; };
  for (;;) {
    ValueId y = g[id].outputs[0];
    if (is_public[y.index] || consumers[y.index].size() != 1) return;
    NodeId next = consumers[y.index][0];
    const Node n = g[next];
    const bool affine_taken = !n.dead && n.inputs[0] == y && absorb_affine(g, id, n);
    if (n.dead || (!n.op->domain.empty() && !affine_taken) || n.outputs.size() != 1) return;
    bool activated = !g[id].get_string("activation").empty();
    bool has_residual = bool(input(3)), affine = g[id].op->name == "Affine" || g[id].op->name == "ConvTranspose";  // activations alone
    const auto a = affine_taken ? std::nullopt : as_activation(g, n);
    const bool activates = a && n.inputs[0] == y && !activated && (!has_residual || g[id].get_int("residual_first"));
    const bool taken = affine_taken || (!activates && n.op->name == "Mul" && !affine && !activated && !has_residual && n.inputs[0] != n.inputs[1] && scale_columns(g, id, n, y));
    if (activates) {
      g[id].attributes["activation"] = a->name;
      g[id].attributes["alpha"] = a->alpha;
      g[id].attributes["beta"] = a->beta;
      if (!has_residual) g[id].attributes["residual_first"] = int64_t{0};
    } else if (!taken && n.op->name == "Add" && !affine && n.inputs[0] != n.inputs[1]) {
      ValueId other = n.inputs[0] == y ? n.inputs[1] : n.inputs[0];
      const auto& shape = g[other].shape;
      int64_t channels = g[y].shape->back();
      bool row = g[other].is_constant() && shape && g[id].op->name != "Conv" && !shape->empty() && shape->back() == channels &&
                 element_count(*shape) == channels && !input(2) && !activated && !has_residual &&
                 shape->size() <= g[y].shape->size();
      if (row) {
        ValueId bias = g.add_constant(g[other].constant.reshaped({channels}));
        if (g[id].inputs.size() < 3) g[id].inputs.resize(3);
        g[id].inputs[2] = bias;
      } else {
        // The other operand must exist before this node runs, or the order would have a cycle.
        bool early = g[other].is_constant() || !g[other].producer || position[g[other].producer.index] < position[id.index];
        if (has_residual || !early || g[other].dtype != DType::kF32 || shape != g[y].shape || g[other].is_constant()) return;
        if (g[id].inputs.size() < 4) g[id].inputs.resize(4);
        g[id].inputs[3] = other;
        g[id].attributes["residual_first"] = int64_t{activated ? 0 : 1};
        for (NodeId& c : consumers[other.index])
          if (c == next) c = id;
      }
    } else if (!taken) {
      return;
    }
    ValueId out = g[next].outputs[0];
    g.remove(next);
    g[id].outputs[0] = out;
    g[out].producer = id;
    g[y].producer = {};
  }
}

// The product of a squeeze-and-excite block goes into the 1×1 convolution that reads it.
static void absorb_scale(Graph& g, NodeId id, const std::vector<std::vector<NodeId>>& consumers, const std::vector<bool>& is_public) {
  const Node& conv = g[id];
  const Shape& w = *g[conv.inputs[1]].shape;
  ValueId x = conv.inputs[0];
  NodeId producer = g[x].producer;
  if (w[2] * w[3] != 1 || conv.get_int("group") != 1 || !producer || is_public[x.index] || consumers[x.index].size() != 1) return;
  const Node& mul = g[producer];
  if (mul.op->name != "Mul" || !mul.op->domain.empty()) return;
  for (size_t i : {0, 1}) {
    ValueId scale = mul.inputs[1 - i], from = mul.inputs[i];
    const Shape& s = *g[x].shape;
    if (g[scale].shape != Shape{s[0], 1, 1, s[3]} || g[from].shape != s || s[1] * s[2] == 1 || g[scale].is_constant() || g[scale].dtype != DType::kF32) continue;
    g[id].inputs.resize(5);
    g[id].inputs[0] = from;
    g[id].inputs[4] = scale;
    return;
  }
}

// Expanded pictures larger than this leave a second-level cache of 1 MiB before they are read again.
constexpr int64_t kExpandedBytes = 768 << 10;

// A 1×1 convolution whose only reader is a depthwise one becomes one node with it, where that keeps a large picture
// out of memory.
static void join_expansion(Graph& g, NodeId id, const std::vector<std::vector<NodeId>>& consumers, const std::vector<bool>& is_public) {
  using Ints = std::vector<int64_t>;
  const Node& depthwise = g[id];
  auto given = [](const Node& n, size_t i) { return i < n.inputs.size() && n.inputs[i]; };
  ValueId between = depthwise.inputs[0];
  NodeId producer = g[between].producer;
  const Shape& w = *g[depthwise.inputs[1]].shape;
  const Ints &pads = depthwise.get_ints("pads"), ones{1, 1};
  if (!producer || is_public[between.index] || consumers[between.index].size() != 1 || given(depthwise, 3) || given(depthwise, 4)) return;
  if (w[1] != 1 || depthwise.get_int("group") != w[0] || depthwise.get_ints("dilations") != ones) return;
  if (std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p < 0; })) return;
  const Node& expand = g[producer];
  if (expand.op->domain != "ai.lathe" || expand.op->name != "Conv" || given(expand, 3) || given(expand, 4)) return;
  const Shape &e = *g[expand.inputs[1]].shape, &x = *g[between].shape;
  if (e[2] * e[3] != 1 || expand.get_int("group") != 1 || expand.get_ints("strides") != ones || expand.get_ints("pads") != Ints{0, 0, 0, 0}) return;
  if (e[0] != w[0] || x[1] * x[2] * x[3] * 4 < kExpandedBytes) return;
  std::vector<ValueId> inputs{expand.inputs[0], expand.inputs[1], given(expand, 2) ? expand.inputs[2] : ValueId{}, depthwise.inputs[1]};
  if (given(depthwise, 2)) inputs.push_back(depthwise.inputs[2]);
  Attributes a{{"strides", depthwise.get_ints("strides")}, {"pads", pads},
               {"activation", depthwise.get_string("activation")}, {"alpha", depthwise.get_float("alpha")}, {"beta", depthwise.get_float("beta")},
               {"expand_activation", expand.get_string("activation")}, {"expand_alpha", expand.get_float("alpha")}, {"expand_beta", expand.get_float("beta")}};
  g[id].op = &find_op("ExpandDepthwise", "ai.lathe");
  g[id].inputs = std::move(inputs);
  g[id].attributes = std::move(a);
}

// A shuffle of two groups that were put together for it takes them apart.
static void take_groups(Graph& g, NodeId id, const std::vector<std::vector<NodeId>>& consumers, const std::vector<bool>& is_public) {
  const Node& n = g[id];
  const ValueId x = n.inputs[0];
  const NodeId from = g[x].producer;
  if (n.inputs.size() != 1 || n.get_int("group") != 2 || !from || is_public[x.index] || consumers[x.index].size() != 1) return;
  const Node& concat = g[from];
  if (!concat.op->domain.empty() || concat.op->name != "Concat" || concat.inputs.size() != 2 || !g[x].shape) return;
  const auto rank = static_cast<int64_t>(g[x].shape->size());
  const int64_t axis = normalize_axis(n.get_int("axis"), rank);
  const auto &a = g[concat.inputs[0]].shape, &b = g[concat.inputs[1]].shape;
  if (axis != rank - 1 || normalize_axis(concat.get_int("axis"), rank) != axis || !a || !b || *a != *b || !is_static(*a)) return;
  const size_t width = size_of(g[x].dtype);
  if (width > 4) return;
  g[id].inputs = concat.inputs;
}

void fuse(Graph& g) {
  for (NodeId id : g.order()) to_fused_matmul(g, id);
  auto consumers = g.consumers();
  std::vector<bool> is_public(g.value_count(), false);
  for (ValueId v : g.outputs) is_public[v.index] = true;
  std::vector<NodeId> order = g.order();
  std::vector<int32_t> position(g.node_count(), 0);
  for (size_t i = 0; i < order.size(); ++i) position[order[i].index] = static_cast<int32_t>(i);
  for (NodeId id : order)
    if (!g[id].dead && g[id].op->domain == "ai.lathe" && (g[id].op->name == "Conv" || g[id].op->name == "MatMul" || g[id].op->name == "Affine" || g[id].op->name == "ConvTranspose" || is_coded_product(g[id])))
      absorb_epilogue(g, id, consumers, is_public, position);
  for (NodeId id : order)
    if (!g[id].dead && g[id].op->domain == "ai.lathe" && g[id].op->name == "Conv") absorb_scale(g, id, consumers, is_public);
  for (NodeId id : order)
    if (!g[id].dead && g[id].op->domain == "ai.lathe" && g[id].op->name == "Conv") join_expansion(g, id, consumers, is_public);
  for (NodeId id : order)
    if (!g[id].dead && g[id].op->domain == "ai.lathe" && g[id].op->name == "ChannelShuffle") take_groups(g, id, consumers, is_public);
  remove_dead(g);
}

}  // namespace lathe
