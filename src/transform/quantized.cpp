#include "transform/quantized.h"

#include <cmath>
#include <set>

namespace lathe {
namespace {

bool is_node(const Graph& g, ValueId v, std::string_view op) {
  if (!v || !g[v].producer) return false;
  const Node& n = g[g[v].producer];
  return !n.dead && n.op->domain.empty() && n.op->name == op;
}

bool constant(const Graph& g, ValueId v) { return g[v].is_constant() && g[v].constant.has_elements(); }

}  // namespace

std::optional<TensorScale> tensor_scale(const Graph& g, const Node& n) {
  const bool quantizes = n.op->name == "QuantizeLinear";
  if (!n.op->domain.empty() || (!quantizes && n.op->name != "DequantizeLinear") || n.get_int("block_size") != 0) return std::nullopt;
  if (n.has("precision") && n.get_int("precision") != 0) return std::nullopt;
  const Value &codes = g[quantizes ? n.outputs[0] : n.inputs[0]], &real = g[quantizes ? n.inputs[0] : n.outputs[0]];
  if ((codes.dtype != DType::kU8 && codes.dtype != DType::kI8) || real.dtype != DType::kF32) return std::nullopt;
  if (!constant(g, n.inputs[1]) || g[n.inputs[1]].dtype != DType::kF32 || g[n.inputs[1]].constant.size() != 1) return std::nullopt;
  TensorScale s{g[n.inputs[1]].constant.data<float>()[0], 0, codes.dtype};
  if (!std::isfinite(s.scale) || s.scale <= 0) return std::nullopt;
  if (has_input(n, 2)) {
    if (!constant(g, n.inputs[2]) || g[n.inputs[2]].constant.size() != 1) return std::nullopt;
    s.zero = static_cast<int>(g[n.inputs[2]].constant.get_int(0));
  }
  return s;
}

std::optional<Codes> codes_of(const Graph& g, ValueId v) {
  if (!is_node(g, v, "DequantizeLinear")) return std::nullopt;
  const Node& n = g[g[v].producer];
  auto scale = tensor_scale(g, n);
  if (!scale) return std::nullopt;
  return Codes{n.inputs[0], *scale};
}

std::optional<Weights> weights_of(const Graph& g, ValueId v, int64_t axis) {
  if (!is_node(g, v, "DequantizeLinear")) return std::nullopt;
  const Node& n = g[g[v].producer];
  if (n.get_int("block_size") != 0 || !constant(g, n.inputs[0]) || !constant(g, n.inputs[1]) || g[n.inputs[1]].dtype != DType::kF32) return std::nullopt;
  const DType type = g[n.inputs[0]].dtype;
  // Four bits take a byte each in memory: kernels for eight take them as they are.
  const Tensor codes = type == DType::kI4 || type == DType::kU4 ? cast(g[n.inputs[0]].constant, type == DType::kI4 ? DType::kI8 : DType::kU8) : g[n.inputs[0]].constant;
  const Tensor& scales = g[n.inputs[1]].constant;
  if (codes.dtype() != DType::kU8 && codes.dtype() != DType::kI8 && codes.dtype() != DType::kI32) return std::nullopt;
  const int64_t count = codes.dim(axis);
  if (scales.size() != 1 && (scales.rank() != 1 || scales.size() != count || normalize_axis(n.get_int("axis"), codes.rank()) != axis)) return std::nullopt;
  Weights w{codes, std::vector<float>(count), std::vector<int>(count, 0)};
  const bool zeros = has_input(n, 2);
  if (zeros && !constant(g, n.inputs[2])) return std::nullopt;
  for (int64_t i = 0; i < count; ++i) {
    w.scales[i] = scales.data<float>()[scales.size() == 1 ? 0 : i];
    if (!std::isfinite(w.scales[i]) || w.scales[i] <= 0) return std::nullopt;
    if (!zeros) continue;
    const Tensor& zero = g[n.inputs[2]].constant;
    if (zero.size() != 1 && zero.size() != count) return std::nullopt;
    w.zeros[i] = static_cast<int>(zero.get_int(zero.size() == 1 ? 0 : i));
  }
  return w;
}

bool holds_weights(const Graph& g, const Node& n, const std::vector<std::vector<NodeId>>& consumers) {
  static const std::set<std::string> products = {"Conv", "Gemm", "MatMul"}, moves = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"};
  if (n.op->domain == kLatheDomain && n.op->name == "UnpackBits") return g[n.inputs[0]].is_constant();
  if (!n.op->domain.empty() || n.op->name != "DequantizeLinear" || !g[n.inputs[0]].is_constant()) return false;
  DType type = g[n.inputs[0]].dtype;
  if (type != DType::kI8 && type != DType::kU8 && type != DType::kI32 && type != DType::kI4 && type != DType::kU4) return false;
  for (NodeId id : consumers[n.outputs[0].index]) {
    const Node& reader = g[id];
    if (products.contains(reader.op->name)) return true;  // of ai.lathe too: after assign_layout()
    if (!reader.op->domain.empty() || !moves.contains(reader.op->name)) continue;
    for (NodeId next : consumers[reader.outputs[0].index])
      if (g[next].op->domain.empty() && products.contains(g[next].op->name)) return true;
  }
  return false;
}

}  // namespace lathe
