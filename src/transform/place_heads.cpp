// Attention reads its heads where the projections wrote them, and writes its result as the next product wants it:
// the Reshapes, Transposes, Splits and Slices that stand between, which every exporter writes in its own order, are
// followed as views of memory until a value that something computes, and vanish.
#include <algorithm>
#include <cmath>
#include <optional>

#include "graph/op.h"
#include "graph/ops/attention.h"
#include "transform/passes.h"

namespace lathe {
namespace {

struct Axis {
  int64_t size = 1, step = 0;
};
// Along each of batch, head, row and column: axes of memory, outermost first.
struct View {  // NOLINT(bugprone-reserved-identifier): clang names the copies of its array so
  ValueId value;
  int64_t offset = 0;
  std::vector<Axis> axes[4];
};
enum { kBatch, kHead, kRow, kColumn };

View whole(const ops::AttentionSizes& s, ValueId value, int64_t heads, int64_t rows, int64_t width) {
  ops::HeadView v = s.packed ? ops::view_by_row(heads, rows, width) : ops::view_by_head(heads, rows, width);
  return {value, 0, {{{s.batch, v.batch}}, {{heads, v.head}}, {{rows, v.row}}, {{width, 1}}}};
}

// Steps over a tensor of `shape` in row-major order, as steps along its axes that take `steps` each in another tensor,
// which begins at `offset` there. Nothing when an axis of the view crosses the axes of the shape unevenly.
std::optional<View> through(const View& v, const Shape& shape, const std::vector<int64_t>& steps, int64_t offset) {
  const std::vector<int64_t> strides = strides_of(shape);
  const size_t rank = shape.size();
  std::vector<int64_t> reach(rank, 0);  // coordinates that the view comes to along each axis
  View made{v.value, offset, {}};
  for (size_t a = 0, rest = static_cast<size_t>(v.offset); a < rank; ++a) {
    const size_t coordinate = rest / static_cast<size_t>(strides[a]);
    rest %= static_cast<size_t>(strides[a]);
    reach[a] = static_cast<int64_t>(coordinate);
    made.offset += reach[a] * steps[a];
  }
  for (int dim = 0; dim < 4; ++dim)
    for (const Axis& axis : v.axes[dim]) {
      std::vector<Axis> parts;  // innermost first
      int64_t left = axis.size, step = axis.step;
      while (left > 1) {
        size_t a = rank;
        if (step == 0) {
          parts.push_back({left, 0});
          break;
        }
        for (size_t i = 0; i < rank; ++i)
          if (shape[i] > 1 && step % strides[i] == 0 && step / strides[i] < shape[i]) a = i;
        if (a == rank) return std::nullopt;
        const int64_t each = step / strides[a], room = shape[a] / each;
        if (left > room && (shape[a] % each != 0 || left % room != 0)) return std::nullopt;
        const int64_t taken = std::min(left, room);
        parts.push_back({taken, each * steps[a]});
        reach[a] += (taken - 1) * each;
        left /= taken;
        step = strides[a] * shape[a];
      }
      made.axes[dim].insert(made.axes[dim].end(), parts.rbegin(), parts.rend());
    }
  for (size_t a = 0; a < rank; ++a)
    if (reach[a] >= shape[a]) return std::nullopt;
  return made;
}

// Neighbours that continue each other become one.
void merge(std::vector<Axis>& axes) {
  std::vector<Axis> merged;
  for (const Axis& a : axes) {
    if (a.size == 1) continue;
    if (!merged.empty() && merged.back().step == a.step * a.size && a.step != 0) merged.back() = {merged.back().size * a.size, a.step};
    else merged.push_back(a);
  }
  axes = merged;
}

class HeadPass {
 public:
  explicit HeadPass(Graph& g) : g_(g), consumers_(g.consumers()), is_public_(g.value_count(), false) {
    for (ValueId v : g.outputs) is_public_[v.index] = true;
  }

  void run() {
    for (NodeId id : g_.order())
      if ((g_[id].op->name == "Attention" && g_[id].op->domain.empty()) || on_codes(g_[id])) place(id);
    remove_dead(g_);
  }

 private:
  static bool on_codes(const Node& n) { return n.op->name == "IntegerAttention" && n.op->domain == kLatheDomain; }
  bool known(ValueId v) const { return v && g_[v].shape && is_static(*g_[v].shape) && element_count(*g_[v].shape) > 0; }

  void place(NodeId id) {
    const Node& n = g_[id];
    for (size_t i = 3; i < n.inputs.size(); ++i)
      if (i > 3 ? bool(n.inputs[i]) : n.inputs[i] && !known(n.inputs[i])) return;
    for (size_t i = 1; i < n.outputs.size(); ++i)
      if (n.outputs[i] && (is_public_[n.outputs[i].index] || !consumers_[n.outputs[i].index].empty())) return;
    for (size_t i = 0; i < 3; ++i)
      if (!known(n.inputs[i]) || (g_[n.inputs[i]].dtype != DType::kF32 && !on_codes(n))) return;
    ops::AttentionSizes s;
    double scale = 1;
    if (on_codes(n)) {
      // As to_integer() makes it, heads lie one behind the other; what is placed already stays. A factor between would be one of codes.
      s = ops::fused_attention_sizes(n);
      if (ops::head_view(n, "q_view") != ops::view_by_head(s.query_heads, s.queries, s.head_size) || ops::head_view(n, "k_view") != ops::view_by_head(s.kv_heads, s.keys, s.head_size) ||
          ops::head_view(n, "v_view") != ops::view_by_head(s.kv_heads, s.keys, s.value_size) || ops::head_view(n, "y_view") != ops::view_by_head(s.query_heads, s.queries, s.value_size))
        return;
    } else {
      s = ops::attention_sizes(n, *g_[n.inputs[0]].shape, *g_[n.inputs[1]].shape, *g_[n.inputs[2]].shape, nullptr, nullptr);
      scale = n.has("scale") ? n.get_float("scale") : 1 / std::sqrt(static_cast<double>(s.head_size));
    }
    double* const factor = on_codes(n) ? nullptr : &scale;
    const View start_q = whole(s, n.inputs[0], s.query_heads, s.queries, s.head_size), start_k = whole(s, n.inputs[1], s.kv_heads, s.keys, s.head_size);
    View q = back(start_q, factor), k = back(start_k, factor), v = back(whole(s, n.inputs[2], s.kv_heads, s.keys, s.value_size), nullptr);
    View y = forth(whole(s, n.outputs[0], s.query_heads, s.queries, s.value_size));
    const ValueId moved[] = {n.inputs[0], n.inputs[1], n.inputs[2], n.outputs[0]};
    if (moved[0] == q.value && moved[1] == k.value && moved[2] == v.value && moved[3] == y.value) return;
    if (!share_groups(s, k, v) || !split_batch(s, {&q, &k, &v, &y})) return;
    replace(id, s, {q, k, v, y}, scale);
  }

  // The view of what makes the value, as far back as nothing is computed. A scalar factor on the way goes to `scale`.
  View back(View v, double* scale) const {
    View best = v;
    double best_scale = scale ? *scale : 1, factor = best_scale;
    for (;;) {
      if (usable(v)) {
        best = v;
        best_scale = factor;
      }
      const NodeId producer = g_[v.value].producer;
      std::optional<View> before;
      if (producer && g_[producer].op->domain.empty()) before = step_back(v, g_[producer], scale ? &factor : nullptr);
      if (!before) break;
      v = *before;
    }
    if (scale) *scale = best_scale;
    return best;
  }

  std::optional<View> step_back(const View& v, const Node& n, double* factor) const {
    const std::string& op = n.op->name;
    if (n.inputs.empty() || !known(n.inputs[0]) || !known(v.value)) return std::nullopt;
    const Shape &x = *g_[n.inputs[0]].shape, &y = *g_[v.value].shape;
    std::vector<int64_t> steps = strides_of(x);
    auto from = [&](std::optional<View> made, ValueId value) {
      if (made) made->value = value;
      return made;
    };
    if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Identity") return from(v, n.inputs[0]);
    if (op == "Transpose") {
      std::vector<int64_t> perm = n.get_ints("perm"), turned;
      if (perm.empty())
        for (size_t i = x.size(); i-- > 0;) perm.push_back(static_cast<int64_t>(i));
      for (int64_t p : perm) turned.push_back(steps[p]);
      return from(through(v, y, turned, 0), n.inputs[0]);
    }
    if (op == "Split") {
      const int64_t axis = normalize_axis(n.get_int("axis"), static_cast<int64_t>(x.size()));
      int64_t begin = 0;
      for (ValueId out : n.outputs) {
        if (out == v.value) return from(through(v, y, steps, begin * steps[axis]), n.inputs[0]);
        if (!known(out)) return std::nullopt;
        begin += (*g_[out].shape)[axis];
      }
      return std::nullopt;
    }
    if (op == "Slice") return from(sliced(v, n, x, y, steps), n.inputs[0]);
    if (op == "Gather" && g_[n.inputs[1]].is_constant() && g_[n.inputs[1]].constant.size() == 1 && g_[n.inputs[1]].constant.rank() == 0) {
      const int64_t axis = normalize_axis(n.get_int("axis"), static_cast<int64_t>(x.size()));
      int64_t index = g_[n.inputs[1]].constant.get_int(0);
      if (index < 0) index += x[axis];
      const int64_t offset = index * steps[axis];
      steps.erase(steps.begin() + axis);
      return from(through(v, y, steps, offset), n.inputs[0]);
    }
    if (op == "Expand") {  // key heads repeated for groups of query heads
      std::vector<int64_t> turned(y.size() - x.size(), 0);
      for (size_t i = 0; i < x.size(); ++i) turned.push_back(x[i] == 1 ? 0 : steps[i]);
      return from(through(v, y, turned, 0), n.inputs[0]);
    }
    if (factor && (op == "Mul" || op == "Div") && n.inputs.size() == 2) {
      for (size_t i : {0, 1}) {
        const Value& scalar = g_[n.inputs[1 - i]];
        if (!scalar.is_constant() || scalar.constant.size() != 1 || (op == "Div" && i == 1) || g_[n.inputs[i]].shape != y) continue;
        *factor = op == "Mul" ? *factor * scalar.constant.get(0) : *factor / scalar.constant.get(0);
        return from(v, n.inputs[i]);
      }
    }
    return std::nullopt;
  }

  std::optional<View> sliced(const View& v, const Node& n, const Shape& x, const Shape& y, std::vector<int64_t> steps) const {
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (n.inputs[i] && !g_[n.inputs[i]].is_constant()) return std::nullopt;
    std::vector<int64_t> starts = g_[n.inputs[1]].constant.to_i64(), axes, jumps(starts.size(), 1);
    if (n.inputs.size() > 3 && n.inputs[3]) axes = g_[n.inputs[3]].constant.to_i64();
    else for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
    if (n.inputs.size() > 4 && n.inputs[4]) jumps = g_[n.inputs[4]].constant.to_i64();
    int64_t offset = 0;
    for (size_t i = 0; i < axes.size(); ++i) {
      if (jumps[i] < 1) return std::nullopt;
      const int64_t a = normalize_axis(axes[i], static_cast<int64_t>(x.size()));
      offset += std::clamp<int64_t>(starts[i] < 0 ? starts[i] + x[a] : starts[i], 0, x[a]) * steps[a];
      steps[a] *= jumps[i];
    }
    return through(v, y, steps, offset);
  }

  // The view of what the value becomes, as long as it is only moved.
  View forth(View v) const {
    View best = v;
    for (;;) {
      if (usable(v)) best = v;
      if (is_public_[v.value.index] || consumers_[v.value.index].size() != 1) return best;
      const Node& n = g_[consumers_[v.value.index][0]];
      const std::string& op = n.op->name;
      if (n.dead || !n.op->domain.empty() || n.outputs.size() != 1 || n.inputs[0] != v.value || !known(n.outputs[0]) || !known(v.value)) return best;
      if (op == "Transpose") {
        const Shape &x = *g_[v.value].shape, &y = *g_[n.outputs[0]].shape;
        std::vector<int64_t> perm = n.get_ints("perm"), steps = strides_of(y), turned(x.size());
        if (perm.empty())
          for (size_t i = x.size(); i-- > 0;) perm.push_back(static_cast<int64_t>(i));
        for (size_t i = 0; i < perm.size(); ++i) turned[perm[i]] = steps[i];
        std::optional<View> after = through(v, x, turned, 0);
        if (!after) return best;
        v = *after;
      } else if (op != "Reshape" && op != "Flatten" && op != "Squeeze" && op != "Unsqueeze") {
        return best;
      }
      v.value = n.outputs[0];
    }
  }

  // Columns must lie together, rows at one distance, and batch and heads at two.
  static bool usable(View v) {
    for (auto& axes : v.axes) merge(axes);
    const auto& column = v.axes[kColumn];
    return (column.empty() || (column.size() == 1 && column[0].step == 1)) && v.axes[kRow].size() <= 1 &&
           v.axes[kBatch].size() <= 1 && v.axes[kBatch].size() + v.axes[kHead].size() <= 3;
  }

  // Keys and values that repeat for neighbouring heads are kept once.
  static bool share_groups(ops::AttentionSizes& s, View& k, View& v) {
    int64_t group = 0;
    for (View* view : {&k, &v}) {
      auto& heads = view->axes[kHead];
      merge(heads);
      int64_t size = 1;
      if (!heads.empty() && heads.back().step == 0) {
        size = heads.back().size;
        heads.pop_back();
      }
      if (group && group != size) return false;
      group = size;
    }
    s.kv_heads /= group;
    return true;
  }

  // Exporters count batch and heads as one axis; where memory tells them apart, so must the sizes.
  static bool split_batch(ops::AttentionSizes& s, std::initializer_list<View*> views) {
    int64_t batch = s.batch;
    if (batch == 1)
      for (View* v : views) {
        merge(v->axes[kHead]);
        if (v->axes[kHead].size() == 2) batch = v->axes[kHead][0].size;
      }
    const bool grouped = s.kv_heads != s.query_heads;
    if (s.batch != batch && (grouped || s.query_heads % batch != 0)) return false;
    for (View* v : views) {
      for (auto& axes : v->axes) merge(axes);
      auto &b = v->axes[kBatch], &h = v->axes[kHead];
      if (s.batch != batch) {
        if (h.size() == 2) {
          if (h[0].size != batch) return false;
          b = {h[0]};
          h.erase(h.begin());
        } else if (h.size() == 1) {
          const int64_t each = h[0].size / batch;
          b = {{batch, h[0].step * each}};
          h = {{each, h[0].step}};
        } else {
          return false;
        }
        merge(h);
      }
      if (b.size() > 1 || h.size() > 1) return false;
    }
    if (s.batch != batch) {
      s.batch = batch;
      s.query_heads /= batch;
      s.kv_heads /= batch;
    }
    return true;
  }

  static std::vector<int64_t> numbers(const View& v) {
    auto step = [&](int dim) { return v.axes[dim].empty() ? 0 : v.axes[dim][0].step; };
    return {v.offset, step(kBatch), step(kHead), step(kRow)};
  }

  void replace(NodeId id, const ops::AttentionSizes& s, const std::array<View, 4>& views, double scale) {
    const Node before = g_[id];
    std::vector<ValueId> inputs{views[0].value, views[1].value, views[2].value};
    if (before.inputs.size() > 3 && before.inputs[3]) {
      ValueId mask = before.inputs[3];
      const Shape m = *g_[mask].shape;
      const int64_t lead = m.size() >= 3 ? product(m, 0, m.size() - 2) : 1;
      if (m.size() >= 3 && lead != 1 && lead == s.batch * s.query_heads && s.batch > 1 && m[m.size() - 3] == lead)
        mask = g_.add("Reshape", {mask, g_.add_constant(Tensor::of_i64({s.batch, s.query_heads, m[m.size() - 2], m.back()}))});
      inputs.push_back(mask);
    }
    Node n;
    n.op = &find_op("Attention", kLatheDomain);
    n.name = before.name;
    n.scope = before.scope;
    n.inputs = std::move(inputs);
    n.attributes = {{"batch", s.batch}, {"q_num_heads", s.query_heads}, {"kv_num_heads", s.kv_heads}, {"queries", s.queries}, {"keys", s.keys},
                    {"head_size", s.head_size}, {"value_size", s.value_size}, {"q_view", numbers(views[0])}, {"k_view", numbers(views[1])},
                    {"v_view", numbers(views[2])}, {"y_view", numbers(views[3])}, {"y_shape", *g_[views[3].value].shape},
                    {"scale", static_cast<float>(scale)}};
    if (on_codes(before)) {
      n.op = before.op;
      n.attributes.erase("scale");
      n.attributes.insert(before.attributes.begin(), before.attributes.end());
    } else {
      for (const char* name : {"is_causal", "left_window_size", "right_window_size"}) n.attributes[name] = before.get_int(name);
      n.attributes["softcap"] = before.get_float("softcap");
    }
    g_.remove(id);
    // What moved the result is replaced with it: its last value is made here.
    if (NodeId mover = g_[views[3].value].producer) g_.remove(mover);
    n.outputs = {views[3].value};
    g_.add_node(std::move(n));
  }

  Graph& g_;
  std::vector<std::vector<NodeId>> consumers_;
  std::vector<bool> is_public_;
};

}  // namespace

void place_heads(Graph& graph) { HeadPass(graph).run(); }

}  // namespace lathe
