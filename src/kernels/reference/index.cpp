#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using Ints = std::vector<int64_t>;

// An index, negative ones counted from the end.
int64_t wrap_index(int64_t index, int64_t size) {
  if (index < -size || index >= size)
    fail(ErrorKind::kInput, "index {} is out of range for an axis of size {}", index, size);
  return index < 0 ? index + size : index;
}

// Counts through the elements of a shape in row-major order.
void advance(Ints& index, const Shape& shape) {
  for (size_t axis = index.size(); axis-- > 0;) {
    if (++index[axis] < shape[axis]) return;
    index[axis] = 0;
  }
}

char* at(Tensor& t, int64_t element) { return t.data<char>() + element * size_of(t.dtype()); }
const char* at(const Tensor& t, int64_t element) { return t.data<char>() + element * size_of(t.dtype()); }

void gather(Context& c) {
  const Tensor &in = c.input(0), &indices = c.input(1);
  Tensor& out = c.output();
  size_t axis = normalize_axis(c.node().get_int("axis"), in.rank());
  int64_t outer = product(in.shape(), 0, axis), size = in.shape()[axis];
  int64_t inner = product(in.shape(), axis + 1, in.shape().size());
  if (out.size() == 0) return;
  size_t row = inner * size_of(in.dtype());
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t k = 0; k < indices.size(); ++k)
      std::memcpy(at(out, (o * indices.size() + k) * inner), at(in, (o * size + wrap_index(indices.get_int(k), size)) * inner), row);
}

// Offset in `data` of the element that position `index` of the indices names along `axis`.
int64_t element_offset(const Ints& index, const Ints& strides, size_t axis, int64_t along) {
  int64_t offset = along * strides[axis];
  for (size_t i = 0; i < index.size(); ++i)
    if (i != axis) offset += index[i] * strides[i];
  return offset;
}

void gather_elements(Context& c) {
  const Tensor &in = c.input(0), &indices = c.input(1);
  Tensor& out = c.output();
  size_t axis = normalize_axis(c.node().get_int("axis"), in.rank());
  Ints strides = strides_of(in.shape()), index(in.rank(), 0);
  for (int64_t n = 0; n < out.size(); ++n, advance(index, out.shape())) {
    int64_t along = wrap_index(indices.get_int(n), in.shape()[axis]);
    std::memcpy(at(out, n), at(in, element_offset(index, strides, axis, along)), size_of(in.dtype()));
  }
}

void gather_nd(Context& c) {
  const Tensor &in = c.input(0), &indices = c.input(1);
  Tensor& out = c.output();
  size_t batch = c.node().get_int("batch_dims");
  int64_t depth = indices.shape().back();
  Ints strides = strides_of(in.shape());
  int64_t batches = product(in.shape(), 0, batch);
  int64_t rows = product(indices.shape(), batch, indices.shape().size() - 1);
  int64_t block = product(in.shape(), batch + depth, in.shape().size());
  int64_t batch_step = product(in.shape(), batch, in.shape().size());
  if (out.size() == 0) return;
  for (int64_t b = 0; b < batches; ++b)
    for (int64_t r = 0; r < rows; ++r) {
      int64_t offset = b * batch_step;
      for (int64_t k = 0; k < depth; ++k)
        offset += wrap_index(indices.get_int((b * rows + r) * depth + k), in.shape()[batch + k]) * strides[batch + k];
      std::memcpy(at(out, (b * rows + r) * block), at(in, offset), block * size_of(in.dtype()));
    }
}

// Puts element `from` of updates into element `to` of out, combined as the reduction says.
void combine(Tensor& out, int64_t to, const Tensor& updates, int64_t from, const std::string& reduction) {
  if (reduction == "none") {
    std::memcpy(at(out, to), at(updates, from), size_of(out.dtype()));
  } else if (is_float(out.dtype())) {
    double a = out.get(to), b = updates.get(from);
    out.set(to, reduction == "add"   ? a + b
                : reduction == "mul" ? a * b
                : std::isnan(a)      ? a
                : reduction == "max" ? (a > b ? a : b)
                                     : (a < b ? a : b));
  } else {
    auto a = static_cast<uint64_t>(out.get_int(to)), b = static_cast<uint64_t>(updates.get_int(from));
    bool below = is_signed(out.dtype()) ? static_cast<int64_t>(a) < static_cast<int64_t>(b) : a < b;
    uint64_t result = reduction == "add"   ? (out.dtype() == DType::kBool ? a | b : a + b)
                      : reduction == "mul" ? a * b
                                           : (below == (reduction == "max") ? b : a);
    out.set_int(to, static_cast<int64_t>(result));
  }
}

void scatter_elements(Context& c) {
  const Tensor &in = c.input(0), &indices = c.input(1), &updates = c.input(2);
  (void)c.output();  // checks the shapes
  Tensor out = in.clone();
  size_t axis = normalize_axis(c.node().get_int("axis"), in.rank());
  const std::string reduction = c.node().op->find("reduction") ? c.node().get_string("reduction") : "none";
  Ints strides = strides_of(in.shape()), index(in.rank(), 0);
  for (int64_t n = 0; n < indices.size(); ++n, advance(index, indices.shape())) {
    int64_t along = wrap_index(indices.get_int(n), in.shape()[axis]);
    combine(out, element_offset(index, strides, axis, along), updates, n, reduction);
  }
  c.set_output(0, out);
}

void scatter_nd(Context& c) {
  const Tensor &in = c.input(0), &indices = c.input(1), &updates = c.input(2);
  (void)c.output();  // checks the shapes
  Tensor out = in.clone();
  const std::string& reduction = c.node().get_string("reduction");
  int64_t depth = indices.shape().back();
  Ints strides = strides_of(in.shape());
  int64_t rows = product(indices.shape(), 0, indices.shape().size() - 1);
  int64_t block = product(in.shape(), depth, in.shape().size());
  if (updates.size() == 0) return c.set_output(0, out);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t offset = 0;
    for (int64_t k = 0; k < depth; ++k)
      offset += wrap_index(indices.get_int(r * depth + k), in.shape()[k]) * strides[k];
    for (int64_t i = 0; i < block; ++i) combine(out, offset + i, updates, r * block + i, reduction);
  }
  c.set_output(0, out);
}

bool is_nonzero(const Tensor& t, int64_t i) { return is_float(t.dtype()) ? t.get(i) != 0 : t.get_int(i) != 0; }

void non_zero(Context& c) {
  const Tensor& in = c.input();
  int64_t count = 0;
  for (int64_t i = 0; i < in.size(); ++i) count += is_nonzero(in, i);
  Tensor& out = c.allocate(0, DType::kI64, {in.rank(), count});
  Ints index(in.rank(), 0);
  int64_t column = 0;
  for (int64_t i = 0; i < in.size(); ++i, advance(index, in.shape())) {
    if (!is_nonzero(in, i)) continue;
    for (int64_t axis = 0; axis < in.rank(); ++axis) out.data<int64_t>()[axis * count + column] = index[axis];
    ++column;
  }
}

void one_hot(Context& c) {
  const Tensor &indices = c.input(0), &values = c.input(2);
  check_model(values.size() == 2, "OneHot takes two values, off and on; found {}", values.size());
  Tensor& out = c.output();
  size_t axis = normalize_axis(c.node().get_int("axis"), indices.rank() + 1);
  int64_t depth = out.shape()[axis], inner = product(out.shape(), axis + 1, out.shape().size());
  size_t width = size_of(values.dtype());
  for (int64_t i = 0; i < out.size(); ++i) std::memcpy(at(out, i), at(values, 0), width);
  for (int64_t i = 0; i < indices.size(); ++i) {
    int64_t index = indices.get_int(i);
    if (index < -depth || index >= depth) continue;  // out of range: all off, says the standard
    if (index < 0) index += depth;
    std::memcpy(at(out, (i / inner * depth + index) * inner + i % inner), at(values, 1), width);
  }
}

// −1, 0 or 1: how element a compares with element b; NaN comes last.
int compare(const Tensor& t, int64_t a, int64_t b) {
  if (is_float(t.dtype())) {
    double x = t.get(a), y = t.get(b);
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) - std::isnan(y);
    return (x > y) - (x < y);
  }
  int64_t x = t.get_int(a), y = t.get_int(b);
  if (t.dtype() == DType::kU64) {
    auto p = static_cast<uint64_t>(x), q = static_cast<uint64_t>(y);
    return (p > q) - (p < q);
  }
  return (x > y) - (x < y);
}

// Unique elements, or slices along an axis: compared lexicographically, as [outer, inner] blocks.
void unique(Context& c) {
  bool flat = !c.node().has("axis");
  const Tensor in = flat ? c.input().reshaped({c.input().size()}) : c.input();
  size_t axis = flat ? 0 : normalize_axis(c.node().get_int("axis"), in.rank());
  int64_t outer = product(in.shape(), 0, axis), size = in.shape()[axis];
  int64_t inner = product(in.shape(), axis + 1, in.shape().size());
  auto order_of = [&](int64_t a, int64_t b) {
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < inner; ++i)
        if (int order = compare(in, (o * size + a) * inner + i, (o * size + b) * inner + i)) return order;
    return 0;
  };
  Ints order(size), first, inverse(size), counts;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return order_of(a, b) < 0; });
  for (int64_t n = 0; n < size; ++n) {
    if (n == 0 || order_of(order[n - 1], order[n]) != 0) {
      first.push_back(order[n]);
      counts.push_back(0);
    }
    ++counts.back();
    inverse[order[n]] = static_cast<int64_t>(first.size()) - 1;
  }
  if (c.node().get_int("sorted") == 0) {  // in the order of first occurrence
    Ints rank(first.size()), place(first.size()), by_place, counts_by_place;
    std::iota(rank.begin(), rank.end(), 0);
    std::sort(rank.begin(), rank.end(), [&](int64_t a, int64_t b) { return first[a] < first[b]; });
    for (size_t i = 0; i < rank.size(); ++i) {
      place[rank[i]] = static_cast<int64_t>(i);
      by_place.push_back(first[rank[i]]);
      counts_by_place.push_back(counts[rank[i]]);
    }
    for (int64_t& i : inverse) i = place[i];
    first = by_place;
    counts = counts_by_place;
  }
  Shape shape = in.shape();
  shape[axis] = static_cast<int64_t>(first.size());
  Tensor& out = c.allocate(0, in.dtype(), shape);
  if (out.size())
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t k = 0; k < shape[axis]; ++k)
        std::memcpy(at(out, (o * shape[axis] + k) * inner), at(in, (o * size + first[k]) * inner),
                    inner * size_of(in.dtype()));
  c.set_output(1, Tensor::of_i64(first));
  c.set_output(2, Tensor::of_i64(inverse));
  c.set_output(3, Tensor::of_i64(counts));
}

void compress(Context& c) {
  bool flat = !c.node().has("axis");
  const Tensor in = flat ? c.input().reshaped({c.input().size()}) : c.input();
  const Tensor& condition = c.input(1);
  check_model(condition.rank() == 1 && condition.dtype() == DType::kBool,
              "Compress needs a one-dimensional condition of type bool");
  size_t axis = flat ? 0 : normalize_axis(c.node().get_int("axis"), in.rank());
  int64_t outer = product(in.shape(), 0, axis), size = in.shape()[axis];
  int64_t inner = product(in.shape(), axis + 1, in.shape().size());
  Ints kept;
  for (int64_t i = 0; i < condition.size(); ++i) {
    if (!condition.data<uint8_t>()[i]) continue;
    check_model(i < size, "Compress keeps element {} of an axis of size {}", i, size);
    kept.push_back(i);
  }
  Shape shape = in.shape();
  shape[axis] = static_cast<int64_t>(kept.size());
  Tensor& out = c.allocate(0, in.dtype(), shape);
  if (out.size() == 0) return;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t k = 0; k < shape[axis]; ++k)
      std::memcpy(at(out, (o * shape[axis] + k) * inner), at(in, (o * size + kept[k]) * inner),
                  inner * size_of(in.dtype()));
}

void trilu(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  int64_t rows = in.dim(-2), columns = in.dim(-1);
  bool upper = c.node().get_int("upper") != 0;
  int64_t k = 0;
  if (c.has_input(1)) {
    check_model(c.input(1).size() == 1, "Trilu: k must be one integer");
    k = std::clamp<int64_t>(c.input(1).get_int(0), -rows - 1, columns + 1);
  }
  size_t width = size_of(in.dtype());
  for (int64_t i = 0; i < in.size(); ++i) {
    int64_t column = i % columns, row = i / columns % rows;
    bool keeps = upper ? column - row >= k : column - row <= k;
    if (keeps) {
      std::memcpy(at(out, i), at(in, i), width);
    } else {
      std::memset(at(out, i), 0, width);
    }
  }
}

void tensor_scatter(Context& c) {
  const Tensor &cache = c.input(0), &update = c.input(1);
  (void)c.output();  // checks the shapes
  Tensor out = cache.clone();
  size_t axis = normalize_axis(c.node().get_int("axis"), cache.rank());
  bool circular = c.node().get_string("mode") == "circular";
  int64_t batches = cache.shape()[0], middle = product(cache.shape(), 1, axis);
  int64_t size = cache.shape()[axis], steps = update.shape()[axis];
  int64_t inner = product(cache.shape(), axis + 1, cache.shape().size());
  if (update.size() == 0) return c.set_output(0, out);
  for (int64_t b = 0; b < batches; ++b) {
    int64_t start = c.has_input(2) ? c.input(2).get_int(b) : 0;
    if (start < 0 || (circular ? start >= size : start > size - steps))
      fail(ErrorKind::kInput, "write index {} with {} entries does not fit a cache of {}", start, steps, size);
    for (int64_t m = 0; m < middle; ++m)
      for (int64_t s = 0; s < steps; ++s) {
        int64_t row = b * middle + m;
        std::memcpy(at(out, (row * size + (start + s) % size) * inner), at(update, (row * steps + s) * inner),
                    inner * size_of(out.dtype()));
      }
  }
  c.set_output(0, out);
}

}  // namespace

void register_index(Registry& r) {
  r.add("Gather", gather);
  r.add("GatherElements", gather_elements);
  r.add("GatherND", gather_nd);
  r.add("Scatter", scatter_elements);
  r.add("ScatterElements", scatter_elements);
  r.add("ScatterND", scatter_nd);
  r.add("NonZero", non_zero);
  r.add("OneHot", one_hot);
  r.add("Unique", unique);
  r.add("Compress", compress);
  r.add("Trilu", trilu);
  r.add("TensorScatter", tensor_scatter);
}

}  // namespace lathe::reference
