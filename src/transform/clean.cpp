#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <unordered_map>

#include "graph/op.h"
#include "kernels/reference/reference.h"
#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

bool all_constant(const Graph& g, const Node& n) {
  return std::all_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return !v || g[v].is_constant(); });
}

void infer_node(Graph& g, NodeId id) {
  try {
    InferContext context(g, id);
    g[id].op->infer(context);
  } catch (const Error& e) {
    fail(e.kind(), "node '{}' ({}): {}", g[id].name, g[id].op->name, e.what());
  }
}

// Sizes that no plan could place are refused here, before anyone multiplies them by a width.
void check_sizes(const Graph& g, const Node& n) {
  for (ValueId v : n.outputs) {
    if (!v || !g[v].shape || !is_static(*g[v].shape)) continue;
    auto width = static_cast<int64_t>(std::max<size_t>(size_of(g[v].dtype), 1));
    check_model(element_count(*g[v].shape) <= kMaxTensorBytes / width,
                "node '{}' ({}) makes a tensor of shape {}, larger than the limit of {} GiB", n.name, n.op->name,
                to_string(*g[v].shape), kMaxTensorBytes >> 30);
  }
}

// Shape and Size need no elements of their input, only its shape.
bool fold_shape_query(Graph& g, NodeId id) {
  const Node& n = g[id];
  if (!n.op->domain.empty() || (n.op->name != "Shape" && n.op->name != "Size")) return false;
  const Value& x = g[n.inputs[0]];
  if (!x.shape || !is_static(*x.shape)) return false;
  // Borrowed elements that are never read: only the shape matters.
  static char nothing[1];
  Tensor stand_in(x.dtype == DType::kUndefined ? DType::kF32 : x.dtype, *x.shape, nothing);
  g[n.outputs[0]].constant = reference::run_node(n, {stand_in})[0];
  return true;
}

bool is_identity(const Graph& g, const Node& n) {
  const std::string& op = n.op->name;
  if (op == "DropPath" && n.op->domain == kLatheDomain) return true;
  if (!n.op->domain.empty() || n.inputs.empty() || !n.inputs[0] || n.outputs.empty()) return false;
  if (n.outputs.size() > 1 && n.outputs[1]) return false;
  const Value &x = g[n.inputs[0]], &y = g[n.outputs[0]];
  if (op == "Identity") return true;
  if (op == "Dropout") return n.inputs.size() < 3 || !n.inputs[2] || (g[n.inputs[2]].is_constant() && g[n.inputs[2]].constant.get_int(0) == 0);
  if (op == "Cast") return x.dtype == y.dtype && x.dtype != DType::kUndefined;
  bool same_shape = x.shape && y.shape && is_static(*x.shape) && *x.shape == *y.shape;
  if (op == "Reshape" || op == "Squeeze" || op == "Unsqueeze" || op == "Flatten" || op == "Expand") return same_shape;
  if (op == "Concat" && n.inputs.size() == 1) return true;
  if (op == "Transpose" && same_shape) {
    const auto& perm = n.get_ints("perm");
    return !perm.empty() && std::is_sorted(perm.begin(), perm.end());
  }
  if (op == "Pad" && n.inputs[1] && g[n.inputs[1]].is_constant()) {
    auto pads = g[n.inputs[1]].constant.to_i64();
    return std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p == 0; });
  }
  return false;
}

}  // namespace

const Shape& static_shape(const Graph& graph, ValueId value) {
  const auto& shape = graph[value].shape;
  require(shape && is_static(*shape), "value '{}' has no static shape", graph[value].name);
  return *shape;
}

void specialize(Graph& graph, const std::map<std::string, Shape>& input_shapes, bool keep_quantized) {
  std::map<std::string, int64_t> symbols;
  for (ValueId v : graph.inputs) {
    Value& value = graph[v];
    auto it = input_shapes.find(value.name);
    if (it == input_shapes.end()) continue;
    const Shape& given = it->second;
    if (value.shape) {
      if (value.shape->size() != given.size())
        fail(ErrorKind::kInput, "input '{}' has shape {}, the model expects {}", value.name, to_string(given), to_string(*value.shape));
      for (size_t i = 0; i < given.size(); ++i) {
        if ((*value.shape)[i] >= 0 && (*value.shape)[i] != given[i])
          fail(ErrorKind::kInput, "input '{}' has shape {}, the model expects {}", value.name, to_string(given), to_string(*value.shape));
        if (i < value.dim_names.size() && !value.dim_names[i].empty()) {
          auto [symbol, fresh] = symbols.emplace(value.dim_names[i], given[i]);
          if (!fresh && symbol->second != given[i])
            fail(ErrorKind::kInput, "input '{}': dimension '{}' is {} here and {} in another input", value.name,
                 symbol->first, given[i], symbol->second);
        }
      }
    }
    value.shape = given;
  }
  fold_constants(graph, kLargestGrowth, keep_quantized);
}

void open_batch(Graph& graph, int64_t batch) {
  for (ValueId v : graph.inputs) {
    auto& shape = graph[v].shape;
    if (shape && !shape->empty() && (*shape)[0] == batch) (*shape)[0] = kUnknownDim;
  }
}

static void fold_nodes(Graph& g, int64_t largest_growth, bool keep_quantized) {
  std::vector<std::vector<NodeId>> consumers;
  if (keep_quantized) consumers = g.consumers();
  for (NodeId id : g.order()) {
    infer_node(g, id);
    Node& n = g[id];
    check_sizes(g, n);
    bool folded = fold_shape_query(g, id);
    if (keep_quantized && holds_weights(g, n, consumers)) continue;
    if (!folded && n.op->supported && n.op->deterministic && n.captures.empty() && all_constant(g, n)) {
      int64_t grown = 0;
      for (ValueId v : n.outputs)
        if (v && g[v].shape && is_static(*g[v].shape)) grown += bytes_of(g[v]);
      for (ValueId v : n.inputs)
        if (v) grown -= static_cast<int64_t>(g[v].constant.bytes());
      bool has_subgraph = std::any_of(n.attributes.begin(), n.attributes.end(), [](const auto& a) {
        return std::holds_alternative<std::shared_ptr<Graph>>(a.second);
      });
      // A constant's change of type would be computed in every run, and keep the products from seeing their
      // weights; it grows at most eightfold.
      bool widens = n.op->domain.empty() ? n.op->name == "Cast" || n.op->name == "DequantizeLinear" : n.op->name == "UnpackBits";
      if ((grown > largest_growth && !widens) || has_subgraph || !reference::find(n.op->name, n.op->domain)) continue;
      std::vector<Tensor> inputs;
      for (ValueId v : n.inputs) inputs.push_back(v ? g[v].constant : Tensor());
      std::vector<Tensor> outputs = reference::run_node(n, std::move(inputs));
      for (size_t i = 0; i < outputs.size(); ++i)
        if (n.outputs[i]) g[n.outputs[i]].constant = outputs[i];
      folded = true;
    }
    if (!folded) continue;
    for (ValueId v : n.outputs) {
      if (!v) continue;
      g[v].dtype = g[v].constant.dtype();
      g[v].shape = g[v].constant.shape();
    }
    g.remove(id);
  }
}

void fold_constants(Graph& g, int64_t largest_growth, bool keep_quantized) {
  do fold_nodes(g, largest_growth, keep_quantized);
  while (inline_branches(g));
}

void remove_dead(Graph& g) {
  std::vector<NodeId> order = g.order();
  std::vector<bool> needed(g.value_count(), false);
  for (ValueId v : g.outputs) needed[v.index] = true;
  for (size_t i = order.size(); i-- > 0;) {
    const Node& n = g[order[i]];
    bool live = std::any_of(n.outputs.begin(), n.outputs.end(), [&](ValueId v) { return v && needed[v.index]; });
    if (!live) { g.remove(order[i]); continue; }
    for (const auto* list : {&n.inputs, &n.captures})
      for (ValueId v : *list)
        if (v) needed[v.index] = true;
  }
}

void remove_identities(Graph& g) {
  std::set<int32_t> outputs;
  for (ValueId v : g.outputs) outputs.insert(v.index);
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (!is_identity(g, n)) continue;
    ValueId x = n.inputs[0], y = n.outputs[0];
    if (outputs.contains(y.index)) {
      // The output keeps its name: the value before takes it, unless it is public itself.
      bool is_public = outputs.contains(x.index) || !g[x].producer;
      if (is_public) continue;
      g[x].name = g[y].name;
      outputs.insert(x.index);
    }
    g.remove(id);
    g.replace_uses(y, x);
  }
}

void merge_common(Graph& g) {
  using Key = std::tuple<const Op*, std::vector<ValueId>, std::string>;
  std::map<Key, NodeId> seen;
  std::set<int32_t> outputs;
  for (ValueId v : g.outputs) outputs.insert(v.index);
  auto simple = [](const Node& n, std::string* text) {
    for (const auto& [name, a] : n.attributes) {
      if (auto* i = std::get_if<int64_t>(&a)) *text += fmt::format("{}={};", name, *i);
      else if (auto* f = std::get_if<float>(&a)) *text += fmt::format("{}={:a};", name, *f);
      else if (auto* s = std::get_if<std::string>(&a)) *text += fmt::format("{}={};", name, *s);
      else if (auto* v = std::get_if<std::vector<int64_t>>(&a)) {
        *text += name + "=";
        for (int64_t x : *v) *text += std::to_string(x) + ",";
        *text += ";";
      } else return false;
    }
    return true;
  };
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    std::string text;
    if (!n.op->deterministic || !n.captures.empty() || !simple(n, &text)) continue;
    bool is_public = std::any_of(n.outputs.begin(), n.outputs.end(), [&](ValueId v) { return outputs.contains(v.index); });
    auto [it, fresh] = seen.emplace(Key{n.op, n.inputs, text}, id);
    if (fresh || is_public || g[it->second].outputs.size() != n.outputs.size()) continue;
    bool matches = true;
    for (size_t i = 0; i < n.outputs.size(); ++i) matches &= bool(n.outputs[i]) == bool(g[it->second].outputs[i]);
    if (!matches) continue;
    std::vector<ValueId> from = n.outputs;
    std::vector<ValueId> to = g[it->second].outputs;
    g.remove(id);
    for (size_t i = 0; i < from.size(); ++i)
      if (from[i]) g.replace_uses(from[i], to[i]);
  }
}

void clean_up(Graph& g, bool keep_quantized) {
  fold_constants(g, kLargestGrowth, keep_quantized);
  remove_identities(g);
  fold_batch_norm(g);
  merge_common(g);
  remove_dead(g);
  g.compact();
}

void replace_readers(Graph& g, ValueId from, ValueId to, NodeId except) {
  const std::vector<ValueId> outputs = g.outputs, read = g[except].inputs;
  g.replace_uses(from, to);
  g[except].inputs = read;
  g.outputs = outputs;
}

}  // namespace lathe
