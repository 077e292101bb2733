#include <algorithm>
#include <cmath>
#include <cstring>

#include "graph/ops/einsum.h"
#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

struct Product {
  int64_t rows, inner, columns;
  std::vector<int64_t> a_offsets, b_offsets;  // of each matrix of the batch, in elements
};

// Matrix sizes and the batch's broadcasting for operands of the shapes that MatMul takes.
Product product_of(Shape a, Shape b) {
  if (a.size() == 1) a.insert(a.begin(), 1);
  if (b.size() == 1) b.push_back(1);
  Shape a_batch(a.begin(), a.end() - 2), b_batch(b.begin(), b.end() - 2), batch = broadcast(a_batch, b_batch);
  Product p{a[a.size() - 2], a.back(), b.back(), {}, {}};
  BroadcastIndex a_index(a_batch, batch), b_index(b_batch, batch);
  for (int64_t i = 0, count = element_count(batch); i < count; ++i) {
    p.a_offsets.push_back(a_index[i] * p.rows * p.inner);
    p.b_offsets.push_back(b_index[i] * p.inner * p.columns);
  }
  return p;
}

// Calls store(batch, row, column, sum) for every element of the product.
template <class T, class Sum, class Store>
void multiply(const Product& p, const T* a, const T* b, Store store) {
  int64_t jobs = static_cast<int64_t>(p.a_offsets.size()) * p.rows;
#pragma omp parallel for schedule(static) if (jobs * p.inner * p.columns > 1 << 16)
  for (int64_t job = 0; job < jobs; ++job) {
    int64_t batch = job / p.rows, row = job % p.rows;
    const T* left = a + p.a_offsets[batch] + row * p.inner;
    const T* right = b + p.b_offsets[batch];
    std::vector<Sum> sums(p.columns, Sum{0});
    for (int64_t k = 0; k < p.inner; ++k) {
      Sum factor = left[k];
      for (int64_t n = 0; n < p.columns; ++n) sums[n] += factor * static_cast<Sum>(right[k * p.columns + n]);
    }
    for (int64_t n = 0; n < p.columns; ++n) store(batch, row, n, sums[n]);
  }
}

// Integers as 64 bits, unsigned so that overflow wraps.
std::vector<uint64_t> words(const Tensor& t) {
  std::vector<uint64_t> values(t.size());
  for (int64_t i = 0; i < t.size(); ++i) values[i] = static_cast<uint64_t>(t.get_int(i));
  return values;
}

void matmul(Context& c) {
  const Tensor &a = c.input(0), &b = c.input(1);
  Tensor& y = c.output();
  Product p = product_of(a.shape(), b.shape());
  auto at = [&p](int64_t batch, int64_t row, int64_t column) { return (batch * p.rows + row) * p.columns + column; };
  if (a.dtype() == DType::kF32) {
    float* out = y.data<float>();
    multiply<float, double>(p, a.data<float>(), b.data<float>(), [&](int64_t n, int64_t i, int64_t j, double sum) {
      out[at(n, i, j)] = static_cast<float>(sum);
    });
  } else if (is_float(a.dtype())) {
    std::vector<double> as = doubles(a), bs = doubles(b);
    multiply<double, double>(p, as.data(), bs.data(),
                             [&](int64_t n, int64_t i, int64_t j, double sum) { y.set(at(n, i, j), sum); });
  } else {
    std::vector<uint64_t> as = words(a), bs = words(b);
    multiply<uint64_t, uint64_t>(p, as.data(), bs.data(), [&](int64_t n, int64_t i, int64_t j, uint64_t sum) {
      y.set_int(at(n, i, j), static_cast<int64_t>(sum));
    });
  }
}

void gemm(Context& c) {
  const Node& node = c.node();
  Tensor& y = c.output();  // first: it checks the shapes
  Tensor a = node.get_int("transA") ? transpose(c.input(0), {1, 0}) : c.input(0);
  Tensor b = node.get_int("transB") ? transpose(c.input(1), {1, 0}) : c.input(1);
  double alpha = node.get_float("alpha"), beta = node.get_float("beta");
  const Tensor* bias = c.has_input(2) && beta != 0 ? &c.input(2) : nullptr;
  BroadcastIndex at(bias ? bias->shape() : Shape{}, y.shape());
  Product p = product_of(a.shape(), b.shape());
  if (is_float(a.dtype())) {
    auto store = [&](int64_t, int64_t i, int64_t j, double sum) {
      int64_t to = i * p.columns + j;
      y.set(to, alpha * sum + (bias ? beta * bias->get(at[to]) : 0.0));
    };
    if (a.dtype() == DType::kF32) {
      multiply<float, double>(p, a.data<float>(), b.data<float>(), store);
    } else {
      std::vector<double> as = doubles(a), bs = doubles(b);
      multiply<double, double>(p, as.data(), bs.data(), store);
    }
    return;
  }
  std::vector<uint64_t> as = words(a), bs = words(b);
  multiply<uint64_t, uint64_t>(p, as.data(), bs.data(), [&](int64_t, int64_t i, int64_t j, uint64_t sum) {
    int64_t to = i * p.columns + j;
    if (alpha == 1 && beta == 1) {
      y.set_int(to, static_cast<int64_t>(sum + (bias ? static_cast<uint64_t>(bias->get_int(at[to])) : 0)));
    } else {
      y.set(to, alpha * static_cast<double>(static_cast<int64_t>(sum)) + (bias ? beta * bias->get(at[to]) : 0.0));
    }
  });
}

// A scale or zero point of one matrix operand: one value, one a row (or column), or those of each matrix.
class MatrixParameter {
 public:
  MatrixParameter(const Tensor* t, int64_t lines, int64_t matrices, const char* name)
      : tensor_(t), lines_(lines), size_(t ? t->size() : 1) {
    check_model(size_ == 1 || size_ == lines || size_ == lines * matrices,
                "{} has {} elements for {} lines of {} matrices", name, size_, lines, matrices);
  }
  int64_t index(int64_t matrix, int64_t line) const {
    return size_ == 1 ? 0 : size_ == lines_ ? line : matrix * lines_ + line;
  }
  double get(int64_t matrix, int64_t line) const { return tensor_->get(index(matrix, line)); }
  const Tensor* tensor() const { return tensor_; }
  int64_t get_int(int64_t matrix, int64_t line) const { return tensor_ ? tensor_->get_int(index(matrix, line)) : 0; }

 private:
  const Tensor* tensor_;
  int64_t lines_, size_;
};

// Quantized operators take integers of 8 bits; nothing overflows then.
void expect_bytes(const Tensor* t) {
  if (t && (!is_integer(t->dtype()) || size_of(t->dtype()) != 1))
    fail(ErrorKind::kUnsupported, "quantized operands of type {} are not supported, only i8 and u8", name_of(t->dtype()));
}

// Elements less their zero points, those of `a` by row and those of `b` by column.
std::vector<int64_t> centred(const Tensor& t, int64_t rows, int64_t columns, const MatrixParameter& zero, bool by_row) {
  expect_bytes(&t);
  expect_bytes(zero.tensor());
  std::vector<int64_t> values(t.size());
  for (int64_t i = 0; i < t.size(); ++i)
    values[i] = t.get_int(i) - zero.get_int(i / (rows * columns), by_row ? i / columns % rows : i % columns);
  return values;
}

int64_t matrices_of(const Tensor& t) { return t.rank() < 2 ? 1 : product(t.shape(), 0, t.rank() - 2); }

void matmul_integer(Context& c) {
  const Tensor &a = c.input(0), &b = c.input(1);
  Tensor& y = c.output();
  Product p = product_of(a.shape(), b.shape());
  MatrixParameter a_zero(c.has_input(2) ? &c.input(2) : nullptr, p.rows, matrices_of(a), "a_zero_point");
  MatrixParameter b_zero(c.has_input(3) ? &c.input(3) : nullptr, p.columns, matrices_of(b), "b_zero_point");
  std::vector<int64_t> as = centred(a, p.rows, p.inner, a_zero, true);
  std::vector<int64_t> bs = centred(b, p.inner, p.columns, b_zero, false);
  multiply<int64_t, int64_t>(p, as.data(), bs.data(), [&](int64_t n, int64_t i, int64_t j, int64_t sum) {
    y.set_int((n * p.rows + i) * p.columns + j, static_cast<int32_t>(sum));
  });
}

void qlinear_matmul(Context& c) {
  const Tensor &a = c.input(0), &b = c.input(3);
  Tensor& y = c.output();
  Product p = product_of(a.shape(), b.shape());
  int64_t as_count = matrices_of(a), bs_count = matrices_of(b);
  auto count = static_cast<int64_t>(p.a_offsets.size());
  MatrixParameter a_scale(&c.input(1), p.rows, as_count, "a_scale"), a_zero(&c.input(2), p.rows, as_count, "a_zero_point");
  MatrixParameter b_scale(&c.input(4), p.columns, bs_count, "b_scale");
  MatrixParameter b_zero(&c.input(5), p.columns, bs_count, "b_zero_point");
  MatrixParameter y_scale(&c.input(6), p.rows, count, "y_scale"), y_zero(&c.input(7), p.rows, count, "y_zero_point");
  std::vector<int64_t> as = centred(a, p.rows, p.inner, a_zero, true);
  std::vector<int64_t> bs = centred(b, p.inner, p.columns, b_zero, false);
  int64_t a_size = std::max<int64_t>(1, p.rows * p.inner), b_size = std::max<int64_t>(1, p.inner * p.columns);
  expect_bytes(&y);
  double low = is_signed(y.dtype()) ? -128 : 0, high = is_signed(y.dtype()) ? 127 : 255;
  multiply<int64_t, int64_t>(p, as.data(), bs.data(), [&](int64_t n, int64_t i, int64_t j, int64_t sum) {
    double scale = a_scale.get(p.a_offsets[n] / a_size, i) * b_scale.get(p.b_offsets[n] / b_size, j) / y_scale.get(n, i);
    double value = std::nearbyint(static_cast<double>(sum) * scale) + static_cast<double>(y_zero.get_int(n, i));
    y.set((n * p.rows + i) * p.columns + j, std::min(std::max(value, low), high));
  });
}

void einsum(Context& c) {
  Tensor& y = c.output();
  std::vector<Shape> shapes;
  std::vector<size_t> ranks;
  for (size_t i = 0; i < c.input_count(); ++i) {
    shapes.push_back(c.input(i).shape());
    ranks.push_back(shapes.back().size());
  }
  ops::EinsumPlan plan = ops::parse_einsum(c.node().get_string("equation"), ranks);
  auto sizes = ops::einsum_sizes(plan, shapes);
  size_t count = plan.labels.size(), kept = plan.output.size();
  Shape all;
  for (int label : plan.labels) all.push_back(sizes.at(label));
  // For each operand, how far a step along each label moves in its elements.
  std::vector<std::vector<int64_t>> steps(shapes.size(), std::vector<int64_t>(count, 0));
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::vector<int64_t> strides = strides_of(shapes[i]);
    for (size_t l = 0; l < count; ++l)
      for (size_t d = 0; d < shapes[i].size(); ++d)
        if (plan.inputs[i][d] == plan.labels[l] && shapes[i][d] != 1) steps[i][l] += strides[d];
  }
  bool real = is_float(y.dtype());
  std::vector<std::vector<double>> values;
  std::vector<std::vector<uint64_t>> integers;
  for (size_t i = 0; i < shapes.size(); ++i) {
    values.push_back(real ? doubles(c.input(i)) : std::vector<double>());
    integers.push_back(real ? std::vector<uint64_t>() : words(c.input(i)));
  }
  int64_t inner = product(all, kept, count);
  std::vector<int64_t> index(count, 0), offsets(shapes.size(), 0);
  auto advance = [&] {
    for (size_t l = count; l-- > 0;) {
      bool wraps = ++index[l] == all[l];
      for (size_t i = 0; i < offsets.size(); ++i) offsets[i] += wraps ? -steps[i][l] * (all[l] - 1) : steps[i][l];
      if (!wraps) return;
      index[l] = 0;
    }
  };
  for (int64_t o = 0; o < y.size(); ++o) {
    double sum = 0;
    uint64_t total = 0;
    for (int64_t k = 0; k < inner; ++k, advance()) {
      double factor = 1;
      uint64_t whole = 1;
      for (size_t i = 0; i < offsets.size(); ++i) {
        if (real) factor *= values[i][offsets[i]];
        else whole *= integers[i][offsets[i]];
      }
      sum += factor;
      total += whole;
    }
    if (real) y.set(o, sum);
    else y.set_int(o, static_cast<int64_t>(total));
  }
}

// Gaussian elimination with row pivoting.
double determinant(std::vector<double> m, int64_t n) {
  double result = 1;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i)
      if (std::fabs(m[i * n + k]) > std::fabs(m[pivot * n + k])) pivot = i;
    if (m[pivot * n + k] == 0) return 0;
    if (pivot != k) {
      result = -result;
      for (int64_t j = 0; j < n; ++j) std::swap(m[k * n + j], m[pivot * n + j]);
    }
    result *= m[k * n + k];
    for (int64_t i = k + 1; i < n; ++i) {
      double factor = m[i * n + k] / m[k * n + k];
      for (int64_t j = k; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
    }
  }
  return result;
}

void det(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t n = x.dim(-1);
  for (int64_t k = 0; k < y.size(); ++k) {
    std::vector<double> m(n * n);
    for (int64_t i = 0; i < n * n; ++i) m[i] = x.get(k * n * n + i);
    y.set(k, determinant(std::move(m), n));
  }
}

}  // namespace

void register_matmul(Registry& r) {
  r.add("MatMul", matmul);
  r.add("Gemm", gemm);
  r.add("MatMulInteger", matmul_integer);
  r.add("QLinearMatMul", qlinear_matmul);
  r.add("Einsum", einsum);
  r.add("Det", det);
}

}  // namespace lathe::reference
