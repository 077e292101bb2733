#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One reduction: a fold over the elements from `start`, then a final step that knows their number.
struct FloatFold {
  double start;
  double (*step)(double, double);
  double (*finish)(double, double count);
};
struct IntFold {
  int64_t (*start)(DType);
  int64_t (*step)(int64_t, int64_t, bool natural);
  int64_t (*finish)(int64_t, int64_t count, bool natural);
};

double same(double x, double) { return x; }
double max_of(double a, double b) { return std::isnan(a) || a > b ? a : b; }
double min_of(double a, double b) { return std::isnan(a) || a < b ? a : b; }
double add_square(double a, double b) { return a + b * b; }
double add(double a, double b) { return a + b; }

int64_t wrap_add(int64_t a, int64_t b) { return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); }
int64_t wrap_multiply(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
bool less(int64_t a, int64_t b, bool natural) {
  return natural ? static_cast<uint64_t>(a) < static_cast<uint64_t>(b) : a < b;
}
int64_t keep(int64_t x, int64_t, bool) { return x; }
int64_t zero(DType) { return 0; }

// The extreme values of an integer type.
int64_t lowest(DType type) {
  if (!is_signed(type)) return 0;
  return type == DType::kI64 ? std::numeric_limits<int64_t>::min() : -(int64_t{1} << (bits_of(type) - 1));
}
int64_t highest(DType type) {
  if (type == DType::kBool) return 1;
  if (type == DType::kU64) return -1;  // all bits set
  if (type == DType::kI64) return std::numeric_limits<int64_t>::max();
  return (int64_t{1} << (bits_of(type) - (is_signed(type) ? 1 : 0))) - 1;
}

// Walks the input in order and gives, for each element, the place of its result.
class ReduceWalk {
 public:
  ReduceWalk(const Shape& in, const std::vector<bool>& reduced) : shape_(in), steps_(in.size(), 0), index_(in.size(), 0) {
    int64_t step = 1;
    for (size_t i = in.size(); i-- > 0;) {
      if (reduced[i]) continue;
      steps_[i] = step;
      step *= in[i];
    }
  }
  int64_t place() const { return place_; }
  void next() {
    for (size_t axis = shape_.size(); axis-- > 0;) {
      place_ += steps_[axis];
      if (++index_[axis] < shape_[axis]) return;
      place_ -= steps_[axis] * shape_[axis];
      index_[axis] = 0;
    }
  }

 private:
  Shape shape_;
  std::vector<int64_t> steps_, index_;
  int64_t place_ = 0;
};

std::vector<bool> reduced_axes(const Context& c) {
  std::vector<int64_t> axes;
  if (c.has_input(1)) axes = c.input(1).to_i64();
  bool all = axes.empty() && c.node().get_int("noop_with_empty_axes") == 0;
  std::vector<bool> reduced(c.input().rank(), all);
  for (int64_t axis : axes) reduced[normalize_axis(axis, c.input().rank())] = true;
  return reduced;
}

std::vector<double> fold(const Tensor& in, const std::vector<bool>& reduced, int64_t results, const FloatFold& f) {
  std::vector<double> sums(results, f.start);
  ReduceWalk walk(in.shape(), reduced);
  if (in.dtype() == DType::kF32) {
    const float* x = in.data<float>();
    for (int64_t i = 0; i < in.size(); ++i, walk.next()) sums[walk.place()] = f.step(sums[walk.place()], x[i]);
  } else {
    for (int64_t i = 0; i < in.size(); ++i, walk.next()) sums[walk.place()] = f.step(sums[walk.place()], in.get(i));
  }
  double count = results ? static_cast<double>(in.size()) / static_cast<double>(results) : 0;
  for (double& x : sums) x = f.finish(x, count);
  return sums;
}

void reduce_float(Context& c, const FloatFold& f) {
  Tensor& out = c.output();
  std::vector<double> results = fold(c.input(), reduced_axes(c), out.size(), f);
  for (int64_t i = 0; i < out.size(); ++i) out.set(i, results[i]);
}

void reduce_int(Context& c, const IntFold& f) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  bool natural = !is_signed(in.dtype());
  std::vector<int64_t> results(out.size(), f.start(in.dtype()));
  ReduceWalk walk(in.shape(), reduced_axes(c));
  for (int64_t i = 0; i < in.size(); ++i, walk.next())
    results[walk.place()] = f.step(results[walk.place()], in.get_int(i), natural);
  int64_t count = out.size() ? in.size() / out.size() : 0;
  for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, f.finish(results[i], count, natural));
}

const FloatFold kSum = {0, add, same};
const FloatFold kMean = {0, add, [](double x, double n) { return x / n; }};
const FloatFold kMax = {-kInfinity, max_of, same};
const FloatFold kMin = {kInfinity, min_of, same};
const FloatFold kProd = {1, [](double a, double b) { return a * b; }, same};
const FloatFold kL1 = {0, [](double a, double b) { return a + std::fabs(b); }, same};
const FloatFold kL2 = {0, add_square, [](double x, double) { return std::sqrt(x); }};
const FloatFold kLogSum = {0, add, [](double x, double) { return std::log(x); }};
const FloatFold kSumSquare = {0, add_square, same};

const IntFold kIntSum = {zero, [](int64_t a, int64_t b, bool) { return wrap_add(a, b); }, keep};
const IntFold kIntMean = {zero, [](int64_t a, int64_t b, bool) { return wrap_add(a, b); },
                          [](int64_t x, int64_t n, bool natural) {
                            if (n == 0) return int64_t{0};
                            return natural ? static_cast<int64_t>(static_cast<uint64_t>(x) / static_cast<uint64_t>(n)) : x / n;
                          }};
const IntFold kIntMax = {lowest, [](int64_t a, int64_t b, bool n) { return less(a, b, n) ? b : a; }, keep};
const IntFold kIntMin = {highest, [](int64_t a, int64_t b, bool n) { return less(b, a, n) ? b : a; }, keep};
const IntFold kIntProd = {[](DType) { return int64_t{1}; }, [](int64_t a, int64_t b, bool) { return wrap_multiply(a, b); },
                          keep};
const IntFold kIntL1 = {zero,
                        [](int64_t a, int64_t b, bool n) { return wrap_add(a, !n && b < 0 ? wrap_multiply(b, -1) : b); },
                        keep};
const IntFold kIntSumSquare = {zero, [](int64_t a, int64_t b, bool) { return wrap_add(a, wrap_multiply(b, b)); }, keep};

template <const FloatFold& F, const IntFold& I>
void reduce(Context& c) {
  if (is_float(c.input().dtype())) {
    reduce_float(c, F);
  } else {
    reduce_int(c, I);
  }
}

// Roots and logarithms: integers go through double.
template <const FloatFold& F>
void reduce_real(Context& c) {
  reduce_float(c, F);
}

// The largest element is taken out first, so that no exponential overflows.
void log_sum_exp(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  std::vector<bool> reduced = reduced_axes(c);
  std::vector<double> largest = fold(in, reduced, out.size(), kMax), sums(out.size(), 0);
  ReduceWalk walk(in.shape(), reduced);
  for (int64_t i = 0; i < in.size(); ++i, walk.next()) {
    double top = largest[walk.place()];
    sums[walk.place()] += std::exp(in.get(i) - (std::isfinite(top) ? top : 0));
  }
  for (int64_t i = 0; i < out.size(); ++i)
    out.set(i, std::log(sums[i]) + (std::isfinite(largest[i]) ? largest[i] : 0));
}

// An axis as [outer, size, inner].
struct AxisView {
  int64_t outer, size, inner;
  AxisView(const Shape& shape, size_t axis)
      : outer(product(shape, 0, axis)), size(shape[axis]), inner(product(shape, axis + 1, shape.size())) {}
};

// Whether element a comes before element b of a tensor: by value, whatever the type. NaN is the largest.
bool smaller(const Tensor& t, int64_t a, int64_t b) {
  if (is_float(t.dtype())) {
    double x = t.get(a), y = t.get(b);
    return std::isnan(y) ? !std::isnan(x) : x < y;
  }
  return less(t.get_int(a), t.get_int(b), !is_signed(t.dtype()));
}

template <bool kLargest>
void arg_extreme(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  AxisView view(in.shape(), normalize_axis(c.node().get_int("axis"), in.rank()));
  bool last = c.node().get_int("select_last_index") != 0;
  for (int64_t o = 0; o < view.outer; ++o)
    for (int64_t i = 0; i < view.inner; ++i) {
      int64_t base = o * view.size * view.inner + i, best = 0;
      for (int64_t k = 1; k < view.size; ++k) {
        int64_t a = base + k * view.inner, b = base + best * view.inner;
        bool better = kLargest ? smaller(in, b, a) : smaller(in, a, b);
        bool worse = kLargest ? smaller(in, a, b) : smaller(in, b, a);
        if (better || (last && !worse)) best = k;
      }
      out.set_int(o * view.inner + i, best);
    }
}

template <bool kProduct>
void cumulative(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  if (in.rank() == 0) fail(ErrorKind::kModel, "a cumulative operator needs an axis, found a scalar");
  AxisView view(in.shape(), normalize_axis(c.input(1).get_int(0), in.rank()));
  bool exclusive = c.node().get_int("exclusive") != 0, reverse = c.node().get_int("reverse") != 0;
  bool real = is_float(in.dtype());
  for (int64_t o = 0; o < view.outer; ++o)
    for (int64_t i = 0; i < view.inner; ++i) {
      double sum = kProduct;
      int64_t whole = kProduct;
      for (int64_t step = 0; step < view.size; ++step) {
        int64_t at = (o * view.size + (reverse ? view.size - 1 - step : step)) * view.inner + i;
        auto store = [&] { real ? out.set(at, sum) : out.set_int(at, whole); };
        if (exclusive) store();
        if (real) {
          sum = kProduct ? sum * in.get(at) : sum + in.get(at);
        } else {
          whole = kProduct ? wrap_multiply(whole, in.get_int(at)) : wrap_add(whole, in.get_int(at));
        }
        if (!exclusive) store();
      }
    }
}

void top_k(Context& c) {
  const Tensor& in = c.input();
  if (in.rank() == 0) fail(ErrorKind::kModel, "TopK needs an axis, found a scalar");
  size_t axis = normalize_axis(c.node().get_int("axis"), in.rank());
  AxisView view(in.shape(), axis);
  Shape shape = c.output().shape();
  int64_t k = shape[axis];
  Tensor indices(DType::kI64, shape);
  bool largest = c.node().get_int("largest") != 0;
  size_t width = size_of(in.dtype());
  std::vector<int64_t> order(view.size);
  for (int64_t o = 0; o < view.outer; ++o)
    for (int64_t i = 0; i < view.inner; ++i) {
      int64_t base = o * view.size * view.inner + i;
      std::iota(order.begin(), order.end(), 0);
      // Equal elements keep their order: the lower index first.
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t a, int64_t b) {
        int64_t x = base + a * view.inner, y = base + b * view.inner;
        if (largest ? smaller(in, y, x) : smaller(in, x, y)) return true;
        if (largest ? smaller(in, x, y) : smaller(in, y, x)) return false;
        return a < b;
      });
      for (int64_t n = 0; n < k; ++n) {
        int64_t at = (o * k + n) * view.inner + i;
        indices.data<int64_t>()[at] = order[n];
        std::memcpy(c.output().data<char>() + at * width, in.data<char>() + (base + order[n] * view.inner) * width, width);
      }
    }
  c.set_output(1, indices);
}

}  // namespace

void register_reduce(Registry& r) {
  r.add("ReduceSum", reduce<kSum, kIntSum>);
  r.add("ReduceMean", reduce<kMean, kIntMean>);
  r.add("ReduceMax", reduce<kMax, kIntMax>);
  r.add("ReduceMin", reduce<kMin, kIntMin>);
  r.add("ReduceProd", reduce<kProd, kIntProd>);
  r.add("ReduceL1", reduce<kL1, kIntL1>);
  r.add("ReduceSumSquare", reduce<kSumSquare, kIntSumSquare>);
  r.add("ReduceL2", reduce_real<kL2>);
  r.add("ReduceLogSum", reduce_real<kLogSum>);
  r.add("ReduceLogSumExp", log_sum_exp);
  r.add("ArgMax", arg_extreme<true>);
  r.add("ArgMin", arg_extreme<false>);
  r.add("CumSum", cumulative<false>);
  r.add("CumProd", cumulative<true>);
  r.add("TopK", top_k);
}

}  // namespace lathe::reference
