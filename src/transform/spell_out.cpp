// Operators that are others in disguise become those, which have fast kernels: Einsum of one or two operands, DepthToSpace,
// SpaceToDepth and GlobalMaxPool.
#include <algorithm>
#include <set>

#include "graph/op.h"
#include "graph/ops/axes.h"
#include "graph/ops/einsum.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;
using Labels = std::vector<int>;

class SpellOut {
 public:
  explicit SpellOut(Graph& g) : g_(g) {}

  void run() {
    for (NodeId id : g_.order()) {
      const Node& n = g_[id];
      if (!n.op->domain.empty() || n.outputs.size() != 1 || !is_known(n.outputs[0])) continue;
      if (!std::all_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return is_known(v); })) continue;
      if (n.op->name == "Einsum") einsum(id);
      else if (n.op->name == "DepthToSpace") depth_to_space(id);
      else if (n.op->name == "SpaceToDepth") space_to_depth(id);
      else if (n.op->name == "GlobalMaxPool") global_max_pool(id);
    }
    remove_identities(g_);
    remove_dead(g_);
  }

 private:
  bool is_known(ValueId v) const { return v && g_[v].shape && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0; }
  const Shape& shape(ValueId v) const { return *g_[v].shape; }

  ValueId moved(ValueId v, const Ints& perm) {
    if (std::is_sorted(perm.begin(), perm.end())) return v;
    if (g_[v].is_constant()) return g_.add_constant(transpose(g_[v].constant, perm), g_[v].name + "_moved");
    return g_.add("Transpose", {v}, {{"perm", perm}});
  }
  ValueId reshaped(ValueId v, const Shape& to) {
    if (shape(v) == to) return v;
    if (g_[v].is_constant()) return g_.add_constant(g_[v].constant.reshaped(to), g_[v].name + "_shaped");
    return g_.add("Reshape", {v, g_.add_constant(Tensor::of_i64(to))});
  }
  // `v` takes the place of the node's output, which keeps its name.
  void replace(NodeId id, ValueId v) {
    Node same;
    same.op = &find_op("Identity");
    same.name = g_[id].name;
    same.scope = g_[id].scope;
    same.inputs = {v};
    same.outputs = g_[id].outputs;
    g_.remove(id);
    g_.add_node(std::move(same));
  }

  void global_max_pool(NodeId id) {
    if (g_[id].inputs.empty() || g_[g_[id].inputs[0]].dtype != DType::kF32) return;
    Ints axes;
    for (int64_t i = 2; i < static_cast<int64_t>(shape(g_[id].inputs[0]).size()); ++i) axes.push_back(i);
    if (axes.empty()) return;
    g_[id].op = &find_op("ReduceMax");
    g_[id].inputs.push_back(g_.add_constant(Tensor::of_i64(axes)));
    g_[id].attributes = {{"keepdims", int64_t{1}}};
  }

  void depth_to_space(NodeId id) {
    const Node n = g_[id];
    const Shape& x = shape(n.inputs[0]);
    const int64_t b = n.get_int("blocksize"), channels = x[1] / (b * b);
    const bool depth_first = n.get_string("mode") == "DCR";
    ValueId v = reshaped(n.inputs[0], depth_first ? Shape{x[0], b, b, channels, x[2], x[3]} : Shape{x[0], channels, b, b, x[2], x[3]});
    v = moved(v, depth_first ? Ints{0, 3, 4, 1, 5, 2} : Ints{0, 1, 4, 2, 5, 3});
    replace(id, reshaped(v, shape(n.outputs[0])));
  }

  void space_to_depth(NodeId id) {
    const Node n = g_[id];
    if (n.get_string("mode") != "DCR") return;
    const Shape& x = shape(n.inputs[0]);
    const int64_t b = n.get_int("blocksize");
    const ValueId v = moved(reshaped(n.inputs[0], {x[0], x[1], x[2] / b, b, x[3] / b, b}), {0, 3, 5, 1, 2, 4});
    replace(id, reshaped(v, shape(n.outputs[0])));
  }

  // ---- Einsum

  static bool contains(const Labels& list, int label) { return std::find(list.begin(), list.end(), label) != list.end(); }
  static bool distinct(const Labels& list) { return std::set<int>(list.begin(), list.end()).size() == list.size(); }

  // Axes in the order of `to`, all of which are there.
  ValueId ordered(ValueId v, const Labels& from, const Labels& to) {
    Ints perm;
    for (int label : to) perm.push_back(std::find(from.begin(), from.end(), label) - from.begin());
    return moved(v, perm);
  }

  void einsum(NodeId id) {
    const Node n = g_[id];
    std::vector<size_t> ranks;
    std::vector<Shape> shapes;
    for (ValueId v : n.inputs) {
      if (g_[v].dtype != DType::kF32) return;
      ranks.push_back(shape(v).size());
      shapes.push_back(shape(v));
    }
    const ops::EinsumPlan plan = ops::parse_einsum(n.get_string("equation"), ranks);
    const auto sizes = ops::einsum_sizes(plan, shapes);
    for (size_t i = 0; i < shapes.size(); ++i) {
      if (!distinct(plan.inputs[i])) return;  // a diagonal
      for (size_t d = 0; d < shapes[i].size(); ++d)
        if (shapes[i][d] != sizes.at(plan.inputs[i][d])) return;  // a broadcast
    }
    if (shapes.size() == 1 && plan.inputs[0].size() == plan.output.size()) return replace(id, ordered(n.inputs[0], plan.inputs[0], plan.output));
    if (shapes.size() == 2) product(id, plan, sizes);
  }

  // Labels of both operands and the output are a batch; of both alone, what the product sums over.
  void product(NodeId id, const ops::EinsumPlan& plan, const std::map<int, int64_t>& sizes) {
    const Node n = g_[id];
    const Labels &a = plan.inputs[0], &b = plan.inputs[1];
    Labels batch, left, right, summed;
    for (int label : plan.output) {
      if (contains(a, label) && contains(b, label)) batch.push_back(label);
      else (contains(a, label) ? left : right).push_back(label);
    }
    for (int label : a)
      if (!contains(plan.output, label)) {
        if (!contains(b, label)) return;
        summed.push_back(label);
      }
    for (int label : b)
      if (!contains(plan.output, label) && !contains(a, label)) return;
    auto count = [&](const Labels& labels) {
      int64_t product = 1;
      for (int label : labels) product *= sizes.at(label);
      return product;
    };
    if (count(left) == 1 && count(right) == 1) return;  // nothing for a matrix product to share
    auto joined = [](std::initializer_list<const Labels*> parts) {
      Labels all;
      for (const Labels* part : parts) all.insert(all.end(), part->begin(), part->end());
      return all;
    };
    auto shape_of = [&](const Labels& labels) {
      Shape s;
      for (int label : labels) s.push_back(sizes.at(label));
      return s;
    };
    auto matrix = [&](int64_t rows, int64_t columns) {
      Shape s = shape_of(batch);
      s.push_back(rows);
      s.push_back(columns);
      return s;
    };
    const ValueId x = reshaped(ordered(n.inputs[0], a, joined({&batch, &left, &summed})), matrix(count(left), count(summed)));
    const ValueId w = reshaped(ordered(n.inputs[1], b, joined({&batch, &summed, &right})), matrix(count(summed), count(right)));
    const Labels made = joined({&batch, &left, &right});
    replace(id, ordered(reshaped(g_.add("MatMul", {x, w}), shape_of(made)), made, plan.output));
  }

  Graph& g_;
};

}  // namespace

void spell_out(Graph& graph) { SpellOut(graph).run(); }

}  // namespace lathe
