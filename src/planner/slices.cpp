#include "planner/slices.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "graph/op.h"
#include "transform/passes.h"
#include "transform/patches.h"

namespace lathe {
namespace {

using Names = std::set<std::string_view>;

// Input 0 is a batch of images along axis 0, all others are parameters.
const Names kOfImages = {"AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
                         "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
                         "QLinearConv", "Resize", "SpaceToDepth"};

// A network for two batches, walked together. The axis of a value is where its two shapes differ.
class Comparison {
 public:
  Comparison(const Graph& whole, const Graph& part) : whole_(whole), part_(part) {}

  bool separable() {
    if (whole_.inputs.size() != part_.inputs.size() || whole_.outputs.size() != part_.outputs.size()) return false;
    for (size_t i = 0; i < whole_.inputs.size(); ++i)
      if (!pair(whole_.inputs[i], part_.inputs[i]) || axis(whole_.inputs[i]) != 0) return false;
    std::vector<NodeId> a = whole_.order(), b = part_.order();
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i)
      if (!same_node(whole_[a[i]], part_[b[i]])) return false;
    for (size_t i = 0; i < whole_.outputs.size(); ++i)
      if (twin_.at(whole_.outputs[i]) != part_.outputs[i] || axis(whole_.outputs[i]) != 0) return false;
    return true;
  }

 private:
  static constexpr int64_t kNone = -1;

  // Remembers that two values are each other's, and where they differ. False when they differ elsewhere.
  bool pair(ValueId a, ValueId b) {
    auto known = twin_.find(a);
    if (known != twin_.end()) return known->second == b;
    const Value &x = whole_[a], &y = part_[b];
    if (x.dtype != y.dtype || !x.shape || !y.shape || x.shape->size() != y.shape->size()) return false;
    int64_t where = kNone;
    for (size_t i = 0; i < x.shape->size(); ++i) {
      int64_t m = (*x.shape)[i], n = (*y.shape)[i];
      if (m < 0 || n < 0) return false;
      if (m == n) continue;
      if (where != kNone || m == 0 || n == 0) return false;
      // Every value has as many slices as the first input.
      if (images_.first == 0) images_ = {m, n};
      if (m * images_.second != n * images_.first) return false;
      where = static_cast<int64_t>(i);
    }
    if (x.is_constant() != y.is_constant()) return false;
    if (x.is_constant() && !same_constant(x.constant, y.constant, where)) return false;
    twin_[a] = b;
    axis_[a] = where;
    return true;
  }

  // Equal; where one is longer along an axis, both repeat one slice (a class token for every image).
  static bool same_constant(const Tensor& a, const Tensor& b, int64_t where) {
    if (!a.has_elements() || !b.has_elements()) return false;
    if (where == kNone) return a.raw() == b.raw() || a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
    auto at = static_cast<size_t>(where);
    int64_t outer = product(a.shape(), 0, at);
    size_t bytes = static_cast<size_t>(product(a.shape(), at + 1, a.shape().size())) * size_of(a.dtype());
    for (int64_t o = 0; o < outer; ++o) {
      const char* first = static_cast<const char*>(b.raw()) + static_cast<size_t>(o * b.dim(where)) * bytes;
      for (const Tensor* t : {&a, &b})
        for (int64_t i = 0; i < t->dim(where); ++i)
          if (std::memcmp(static_cast<const char*>(t->raw()) + static_cast<size_t>(o * t->dim(where) + i) * bytes, first, bytes) != 0)
            return false;
    }
    return true;
  }

  static bool same_attribute(const Attribute& a, const Attribute& b) {
    if (a.index() != b.index()) return false;
    return std::visit([&](const auto& x) {
      using T = std::decay_t<decltype(x)>;
      const T& y = std::get<T>(b);
      if constexpr (std::is_same_v<T, std::shared_ptr<Graph>>) return false;
      else if constexpr (std::is_same_v<T, Tensor>)
        return x.dtype() == y.dtype() && x.shape() == y.shape() && same_constant(x, y, kNone);
      else return x == y;
    }, a);
  }

  bool same_node(const Node& a, const Node& b) {
    if (a.op != b.op || !a.op->supported || !a.op->deterministic || a.inputs.size() != b.inputs.size() ||
        a.outputs.size() != b.outputs.size() || !a.captures.empty() || !b.captures.empty() ||
        a.attributes.size() != b.attributes.size())
      return false;
    for (auto x = a.attributes.begin(), y = b.attributes.begin(); x != a.attributes.end(); ++x, ++y)
      if (x->first != y->first || !same_attribute(x->second, y->second)) return false;
    // The shape that a Reshape is given may name the batch; what counts is what comes out.
    bool told_shape = a.op->name == "Reshape" || a.op->name == "Expand";
    bool batched = false;
    for (size_t i = 0; i < a.inputs.size(); ++i) {
      if (bool(a.inputs[i]) != bool(b.inputs[i])) return false;
      if (!a.inputs[i]) continue;
      if (told_shape && i == 1) {
        if (!whole_[a.inputs[1]].is_constant() || !part_[b.inputs[1]].is_constant()) return false;
        continue;
      }
      if (!pair(a.inputs[i], b.inputs[i])) return false;
      batched = batched || axis(a.inputs[i]) != kNone;
    }
    for (size_t i = 0; i < a.outputs.size(); ++i) {
      if (bool(a.outputs[i]) != bool(b.outputs[i])) return false;
      if (!a.outputs[i]) continue;
      if (!pair(a.outputs[i], b.outputs[i])) return false;
      if ((axis(a.outputs[i]) != kNone) != batched) return false;
    }
    return !batched || keeps_apart(a);
  }

  // None too of what pair() was not asked about: the shape that a Reshape is given.
  int64_t axis(ValueId v) const {
    auto known = axis_.find(v);
    return known == axis_.end() ? kNone : known->second;
  }
  int64_t rank(ValueId v) const { return static_cast<int64_t>(whole_[v].shape->size()); }
  bool only_first_batched(const Node& n) const {
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (axis(n.inputs[i]) != kNone) return false;
    return axis(n.inputs[0]) != kNone;
  }
  std::optional<std::vector<int64_t>> constant(const Node& n, size_t i) const {
    if (i >= n.inputs.size() || !n.inputs[i]) return std::nullopt;
    const Value& v = whole_[n.inputs[i]];
    if (!v.is_constant() || !v.constant.has_elements()) return std::nullopt;
    return v.constant.to_i64();
  }
  static bool contains(const std::vector<int64_t>& axes, int64_t axis, int64_t rank) {
    return std::any_of(axes.begin(), axes.end(), [&](int64_t x) { return (x < 0 ? x + rank : x) == axis; });
  }
  int64_t axis_attribute(const Node& n) const {
    int64_t a = n.get_int("axis");
    return a < 0 ? a + rank(n.inputs[0]) : a;
  }

  bool elementwise(const Node& n) const {
    int64_t from_end = kNone;
    for (ValueId v : n.inputs) {
      if (axis(v) == kNone) continue;
      int64_t here = rank(v) - axis(v);
      if (from_end != kNone && here != from_end) return false;
      from_end = here;
    }
    // What is the same for all images has length 1 there, or the shape rule of one of the two graphs would have failed.
    for (ValueId v : n.inputs)
      if (v && axis(v) == kNone && rank(v) >= from_end && (*whole_[v].shape)[static_cast<size_t>(rank(v) - from_end)] != 1) return false;
    return rank(n.outputs[0]) - axis(n.outputs[0]) == from_end;
  }

  // The elements before the batch's axis are as many as before, so slices stay contiguous runs of the same elements.
  bool reshape(const Node& n) const {
    const Shape &from = *whole_[n.inputs[0]].shape, &to = *whole_[n.outputs[0]].shape;
    auto a = static_cast<size_t>(axis(n.inputs[0])), b = static_cast<size_t>(axis(n.outputs[0]));
    return from[a] == to[b] && product(from, 0, a) == product(to, 0, b);
  }

  bool product_of_matrices(const Node& n) const {
    int64_t a = axis(n.inputs[0]), b = axis(n.inputs[1]), m = rank(n.inputs[0]), k = rank(n.inputs[1]);
    if (m < 2 || k < 2) return false;
    if (a != kNone && a == m - 1) return false;                // summed over
    if (b == kNone) return k == 2 || (a == m - 2 ? false : m >= k && (a < m - k || (*whole_[n.inputs[1]].shape)[static_cast<size_t>(a - (m - k))] == 1));
    return a != kNone && b < k - 2 && a < m - 2 && m - a == k - b;
  }

  bool keeps_apart(const Node& n) const {
    if (!n.op->domain.empty()) return false;
    const std::string& op = n.op->name;
    for (size_t i = 1; i < n.outputs.size(); ++i)
      if (n.outputs[i] && op != "Split") return false;
    if (is_elementwise(n)) return elementwise(n);
    if (op == "MatMul") return product_of_matrices(n);
    if (op == "Concat") {
      for (ValueId v : n.inputs)
        if (axis(v) != axis(n.inputs[0]) || axis(v) == kNone) return false;
      return axis_attribute(n) != axis(n.inputs[0]) && axis(n.outputs[0]) == axis(n.inputs[0]);
    }
    if (!only_first_batched(n)) return false;
    int64_t a = axis(n.inputs[0]), r = rank(n.inputs[0]), out = axis(n.outputs[0]);
    if (kOfImages.contains(op)) return a == 0 && out == 0 && (*whole_[n.inputs[0]].shape)[0] == (*whole_[n.outputs[0]].shape)[0];
    if (op == "Gemm") return a == 0 && out == 0 && n.get_int("transA") == 0 &&
                             (n.inputs.size() < 3 || !n.inputs[2] || rank(n.inputs[2]) < 2 || (*whole_[n.inputs[2]].shape)[0] == 1);
    if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze") return reshape(n);
    if (op == "Transpose") {
      const auto& order = n.get_ints("perm");
      return out != kNone && (order.empty() ? r - 1 - out : order[static_cast<size_t>(out)]) == a;
    }
    if (op == "Softmax" || op == "LogSoftmax" || op == "Split" || op == "Gather" || op == "ArgMax" || op == "ArgMin")
      return axis_attribute(n) != a;
    if (op == "LayerNormalization" || op == "RMSNormalization") return axis_attribute(n) > a;
    if (op.starts_with("Reduce")) {
      auto axes = constant(n, 1);
      return axes && !axes->empty() && !contains(*axes, a, r);
    }
    if (op == "Slice") {
      auto axes = constant(n, 3), starts = constant(n, 1);
      if (!axes && n.inputs.size() > 3 && n.inputs[3]) return false;
      return axes ? !contains(*axes, a, r) : starts && static_cast<int64_t>(starts->size()) <= a;
    }
    if (op == "Pad") {
      auto pads = constant(n, 1);
      if (!pads || (n.inputs.size() > 3 && n.inputs[3]) || static_cast<int64_t>(pads->size()) != 2 * r) return false;
      return (*pads)[static_cast<size_t>(a)] == 0 && (*pads)[static_cast<size_t>(a + r)] == 0;
    }
    return false;
  }

  const Graph &whole_, &part_;
  std::pair<int64_t, int64_t> images_{0, 0};
  std::map<ValueId, ValueId> twin_;
  std::map<ValueId, int64_t> axis_;
};

// The first size that all inputs have once they are of the shapes `given`, else 0.
int64_t batch_of(const Graph& g, const std::map<std::string, Shape>& given) {
  int64_t batch = 0;
  for (ValueId v : g.inputs) {
    auto it = given.find(g[v].name);
    const Shape shape = it != given.end() ? it->second : g[v].shape.value_or(Shape{});
    if (shape.empty() || (batch != 0 && shape[0] != batch)) return 0;
    batch = shape[0];
  }
  return batch;
}

int64_t second_level_cache_bytes() {
  long bytes = ::sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 1 << 20;
}

// The bytes that the middle one of the nodes reads and writes for the whole batch, without parameters.
int64_t typical_bytes(const Graph& g) {
  std::vector<int64_t> all;
  for (NodeId id : g.order()) {
    int64_t bytes = 0;
    for (const auto* list : {&g[id].inputs, &g[id].outputs})
      for (ValueId v : *list)
        if (v && !g[v].is_constant() && g[v].shape && is_static(*g[v].shape))
          bytes += bytes_of(g[v]);
    all.push_back(bytes);
  }
  if (all.empty()) return 0;
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

}  // namespace

void specialize_slice(Graph& graph, const Slices& slices, bool keep_quantized) {
  open_batch(graph, slices.batch);  // a model may fix it
  specialize(graph, slices.input_shapes, keep_quantized);
}

bool same_apart(const Graph& whole, const Graph& part) { return Comparison(whole, part).separable(); }

std::optional<Slices> choose_slices(const Graph& graph, const std::map<std::string, Shape>& input_shapes) {
  int64_t batch = batch_of(graph, input_shapes);
  if (batch < 2) return std::nullopt;
  Graph whole = graph;
  specialize(whole, input_shapes);
  clean_up(whole);
  // As many images as keep what a typical layer reads and writes in the second-level cache, at most 4: beyond, weights are
  // read often enough already. Milliseconds an image with 1, 2, 4 and 16 together on an AMD EPYC with 1 MiB: mobilenet_v3_large
  // 5.6 5.3 5.1 6.3, efficientnet_b0 10.2 9.7 10.1 11.8, mobilenet_v2 7.1 6.8 7.0 8.7, densenet121 39.9 41.1 43.3 45.9.
  int64_t images = 1, cache = second_level_cache_bytes(), one = typical_bytes(whole) / batch;
  for (int64_t more : {2, 4})
    if (batch % more == 0 && one * more <= cache) images = more;
  if (images >= batch || one * batch <= cache) return std::nullopt;
  Slices slices{batch / images, batch, {}};
  Graph part = graph;
  for (size_t i = 0; i < part.inputs.size(); ++i) {
    ValueId v = part.inputs[i];
    Shape shape = *whole[whole.inputs[i]].shape;
    shape[0] = images;
    slices.input_shapes[part[v].name] = shape;
  }
  try {
    specialize_slice(part, slices);
    clean_up(part);
  } catch (const Error&) {  // a shape inside the model names the batch
    return std::nullopt;
  }
  if (!same_apart(whole, part)) return std::nullopt;
  return slices;
}

}  // namespace lathe
