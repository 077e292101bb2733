// Products whose weights are stored in few bits (transform/quantize/weight_forms.h) become operators of ai.lathe that keep
// them so (graph/ops/coded.cpp). Pictures are channels-last by now, and the decoding stands as it came
// (fold_constants). What has no such operator is for clean_up() to decode, and runs in f32.
#include <algorithm>

#include "transform/passes.h"
#include "transform/quantize/weight_forms.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

// Weights of 8 bits save memory traffic, which is what products of few rows wait for; with more rows f32 is faster.
constexpr int64_t kMostRowsOf8Bits = 16;
// Kernels decode this many weights of one group at once (kernels/cpu/coded_gemm.cpp).
constexpr int64_t kGroupStep = 16;

class CodedPass {
 public:
  explicit CodedPass(Graph& g) : g_(g) {}

  void run() {
    for (NodeId id : g_.order()) {
      if (g_[id].dead || g_[id].inputs.size() < 2 || !g_[id].inputs[1] || !f32_static(g_[id].inputs[0]) || !is_coded(g_, g_[id].inputs[1])) continue;
      const std::string& op = g_[id].op->name;
      if (g_[id].op->domain == kLatheDomain) {
        if (op == "Conv") conv(id);
      } else if (g_[id].op->domain.empty()) {
        if (op == "MatMul" || op == "Gemm") product(id);
      }
    }
    remove_dead(g_);
  }

 private:
  bool f32_static(ValueId v) const { return v && g_[v].dtype == DType::kF32 && g_[v].shape && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0; }

  // Whether kernels take them, for a product of so many rows.
  static bool suits(const CodedWeights& w, int64_t rows) {
    if (w.codebook.defined()) return true;
    const bool whole_groups = w.group % kGroupStep == 0 || w.group >= w.codes.dim(1);
    return whole_groups && (w.bits < 8 || rows <= kMostRowsOf8Bits);
  }

  // Inputs of CodedMatMul and CodedConv.
  std::vector<ValueId> inputs(NodeId id, ValueId x, const CodedWeights& w, ValueId bias) {
    const std::string name = g_[g_[id].inputs[1]].name;
    const ValueId codes = g_.add_constant(w.codes, name + "_codes");
    std::vector<ValueId> list{x, codes, bias, {}, g_.add_constant(w.codebook.defined() ? w.codebook : w.scales, name + (w.codebook.defined() ? "_codebook" : "_scales"))};
    if (w.zeros.defined()) list.push_back(g_.add_constant(w.zeros, name + "_zeros"));
    return list;
  }

  void become(NodeId id, std::string_view op, std::vector<ValueId> inputs, Attributes attributes) {
    Node& n = g_[id];
    n.op = &find_op(op, kLatheDomain);
    n.inputs = std::move(inputs);
    n.attributes = std::move(attributes);
  }

  static Attributes block_of(const CodedWeights& w) {
    Attributes a;
    if (!w.codebook.defined()) a["block_size"] = w.group;
    return a;
  }

  void product(NodeId id) {
    const Node n = g_[id];
    const bool gemm = n.op->name == "Gemm", transposed = gemm && n.get_int("transB");
    if (g_[n.inputs[0]].shape->size() < (gemm ? 2u : 1u) || g_[n.inputs[1]].shape->size() != 2) return;
    if (gemm && (n.get_int("transA") || n.get_float("alpha") != 1)) return;
    ValueId bias;
    if (gemm && has_input(n, 2)) {
      const Value& c = g_[n.inputs[2]];
      const int64_t width = (*g_[n.inputs[1]].shape)[transposed ? 0 : 1];
      if (!c.is_constant() || c.dtype != DType::kF32 || c.constant.size() != width || c.constant.shape().back() != width || n.get_float("beta") != 1) return;
      bias = g_.add_constant(c.constant.reshaped({width}));
    }
    const int64_t rows = element_count(*g_[n.inputs[0]].shape) / g_[n.inputs[0]].shape->back();
    auto w = coded_weights_of(g_, n.inputs[1], transposed ? Ints{0, 1} : Ints{1, 0});
    if (!w || !suits(*w, rows)) return;
    become(id, "CodedMatMul", inputs(id, n.inputs[0], *w, bias), block_of(*w));
  }

  void conv(NodeId id) {
    const Node n = g_[id];
    const Ints pads = n.get_ints("pads"), strides = n.get_ints("strides"), none{0, 0, 0, 0}, ones{1, 1};
    const ValueId bias = has_input(n, 2) ? n.inputs[2] : ValueId{};
    if (n.get_int("group") != 1 || (bias && (!g_[bias].is_constant() || g_[bias].dtype != DType::kF32)) || !f32_static(n.outputs[0])) return;
    if (std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p < 0; })) return;
    const Shape weight = *g_[n.inputs[1]].shape, y = *g_[n.outputs[0]].shape;
    auto w = coded_weights_of(g_, n.inputs[1], {0, 2, 3, 1});
    if (!w) return;
    Attributes a{{"kernel_shape", Ints{weight[2], weight[3]}}, {"strides", strides}, {"pads", pads}, {"dilations", n.get_ints("dilations")}};
    if (auto alphas = factors_of_signs(*w))
      if (ValueId x = source_of_signs(n.inputs[0])) {
        const ValueId signs = g_.add_constant(w->codes, g_[n.inputs[1]].name + "_signs"), factors = g_.add_constant(*alphas, g_[n.inputs[1]].name + "_factors");
        return become(id, "BinaryConv", {x, signs, bias, {}, factors}, std::move(a));
      }
    if (!suits(*w, y[0] * y[1] * y[2])) return;
    if (weight[2] * weight[3] == 1 && strides == ones && pads == none) return become(id, "CodedMatMul", inputs(id, n.inputs[0], *w, bias), block_of(*w));
    a.merge(block_of(*w));
    become(id, "CodedConv", inputs(id, n.inputs[0], *w, bias), std::move(a));
  }

  // Of codes 0 for −a and 1 for +a, a of each row; the codes are turned where they say the opposite.
  static std::optional<Tensor> factors_of_signs(const CodedWeights& w) {
    if (!w.codebook.defined() || w.codebook.dim(1) != 2) return std::nullopt;
    const int64_t rows = w.codes.dim(0);
    Tensor factors(DType::kF32, {rows});
    for (int64_t r = 0; r < rows; ++r) {
      const float* book = w.codebook.data<float>() + (w.codebook.dim(0) == 1 ? 0 : r * 2);
      if (book[0] != -book[1]) return std::nullopt;
      factors.data<float>()[r] = book[1];
    }
    return factors;
  }

  bool scalar(ValueId v, double value) const { return g_[v].is_constant() && g_[v].constant.size() == 1 && g_[v].constant.get(0) == value; }

  // x where `v` is 1 for x ≥ 0 and −1 for all else.
  ValueId source_of_signs(ValueId v) {
    if (!g_[v].producer) return {};
    const Node n = g_[g_[v].producer];
    if (!n.op->domain.empty()) return {};
    if (n.op->name == "Transpose" || n.op->name == "Reshape") {  // that brings the picture to channels-last
      const ValueId x = source_of_signs(n.inputs[0]);
      if (!x || g_[x].shape != g_[n.inputs[0]].shape) return {};
      std::vector<ValueId> list = n.inputs;
      list[0] = x;
      return g_.add(n.op->name, std::move(list), n.attributes);
    }
    if (n.op->name != "Where" || !scalar(n.inputs[1], 1) || !scalar(n.inputs[2], -1) || !g_[n.inputs[0]].producer) return {};
    const Node& compare = g_[g_[n.inputs[0]].producer];
    if (!compare.op->domain.empty()) return {};
    ValueId x;
    if (compare.op->name == "GreaterOrEqual" && scalar(compare.inputs[1], 0)) x = compare.inputs[0];
    if (compare.op->name == "LessOrEqual" && scalar(compare.inputs[0], 0)) x = compare.inputs[1];
    return x && f32_static(x) && g_[x].shape == g_[v].shape ? x : ValueId{};
  }

  Graph& g_;
};

}  // namespace

void to_coded(Graph& graph) { CodedPass(graph).run(); }

}  // namespace lathe
