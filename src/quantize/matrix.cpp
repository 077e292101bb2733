#include "quantize/matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace lathe {
namespace {

constexpr int64_t kBlock = 96;

// Rows [r0, r1) and columns [c0, c1) of m.
Tensor block(const Tensor& m, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  Tensor b(DType::kF32, {r1 - r0, c1 - c0});
  for (int64_t r = r0; r < r1; ++r)
    std::memcpy(b.data<float>() + (r - r0) * (c1 - c0), m.data<float>() + r * m.dim(1) + c0, static_cast<size_t>(c1 - c0) * sizeof(float));
  return b;
}

// m[r0…, c0…] += factor · b
void add(Tensor& m, const Tensor& b, int64_t r0, int64_t c0, float factor) {
  for (int64_t r = 0; r < b.dim(0); ++r) {
    float* to = m.data<float>() + (r0 + r) * m.dim(1) + c0;
    const float* from = b.data<float>() + r * b.dim(1);
    for (int64_t c = 0; c < b.dim(1); ++c) to[c] += factor * from[c];
  }
}

}  // namespace

Tensor Products::multiply(const Tensor& a, const Tensor& b) {
  auto& session = sessions_[{a.dim(0), a.dim(1), b.dim(1)}];
  if (!session) {
    Graph g;
    const ValueId x = g.add_input("a", DType::kF32, a.shape()), y = g.add_input("b", DType::kF32, b.shape());
    g.outputs = {g.add("MatMul", {x, y})};
    infer_shapes(g);
    session = std::make_unique<Session>(make_plan(std::move(g)));
  }
  return session->run({a, b})[0].clone();
}

Tensor second_moments(const Tensor& x, Products& products) {
  const int64_t n = x.dim(1);
  Tensor sum(DType::kF32, {n, n});
  std::memset(sum.raw(), 0, sum.bytes());
  constexpr int64_t kRows = 512;  // at a time, so that one plan serves all but the last
  for (int64_t begin = 0; begin < x.dim(0); begin += kRows) {
    const Tensor part = block(x, begin, std::min(begin + kRows, x.dim(0)), 0, n);
    add(sum, products.multiply(transpose(part, {1, 0}), part), 0, 0, 1 / static_cast<float>(x.dim(0)));
  }
  return sum;
}

Tensor inverse_factor(Tensor h, Products& products) {
  const int64_t n = h.dim(0);
  // H = R·Rᵀ with R upper triangular, from the last block to the first; then U = R⁻¹.
  float* x = h.data<float>();
  std::vector<double> d(static_cast<size_t>(kBlock * kBlock));
  for (int64_t end = n; end > 0;) {
    const int64_t begin = (end - 1) / kBlock * kBlock, size = end - begin;
    for (int64_t r = 0; r < size; ++r)
      for (int64_t c = 0; c < size; ++c) d[static_cast<size_t>(r * size + c)] = static_cast<double>(x[(begin + r) * n + begin + c]);
    for (int64_t j = size; j-- > 0;) {  // the diagonal block
      double sum = d[static_cast<size_t>(j * size + j)];
      for (int64_t k = j + 1; k < size; ++k) sum -= d[static_cast<size_t>(j * size + k)] * d[static_cast<size_t>(j * size + k)];
      if (!(sum > 0)) fail(ErrorKind::kInput, "the second moments of a layer's inputs are not positive definite");
      const double root = std::sqrt(sum);
      d[static_cast<size_t>(j * size + j)] = root;
      for (int64_t i = 0; i < j; ++i) {
        double s = d[static_cast<size_t>(i * size + j)];
        for (int64_t k = j + 1; k < size; ++k) s -= d[static_cast<size_t>(i * size + k)] * d[static_cast<size_t>(j * size + k)];
        d[static_cast<size_t>(i * size + j)] = s / root;
      }
    }
    for (int64_t r = 0; r < size; ++r)
      for (int64_t c = 0; c < size; ++c) x[(begin + r) * n + begin + c] = c >= r ? static_cast<float>(d[static_cast<size_t>(r * size + c)]) : 0.0f;
    // The rows above: X·Dᵀ = what is there, D upper triangular.
    parallel_for(begin, 64, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r)
        for (int64_t j = size; j-- > 0;) {
          double s = static_cast<double>(x[r * n + begin + j]);
          for (int64_t k = j + 1; k < size; ++k) s -= static_cast<double>(x[r * n + begin + k]) * d[static_cast<size_t>(j * size + k)];
          x[r * n + begin + j] = static_cast<float>(s / d[static_cast<size_t>(j * size + j)]);
        }
    });
    if (begin > 0) {
      const Tensor panel = block(h, 0, begin, begin, end);
      add(h, products.multiply(panel, transpose(panel, {1, 0})), 0, 0, -1);
    }
    end = begin;
  }
  // U = R⁻¹ by blocks of rows from the last: U[i, i] = R[i, i]⁻¹, U[i, j>i] = −R[i, i]⁻¹ · Σ R[i, k]·U[k, j].
  Tensor u(DType::kF32, {n, n});
  std::memset(u.raw(), 0, u.bytes());
  float* y = u.data<float>();
  for (int64_t end = n; end > 0;) {
    const int64_t begin = (end - 1) / kBlock * kBlock, size = end - begin;
    for (int64_t j = 0; j < size; ++j) {  // inverse of the diagonal block
      double* inverse = d.data();
      for (int64_t i = j; i >= 0; --i) {
        double s = i == j ? 1 : 0;
        for (int64_t k = i + 1; k <= j; ++k) s -= static_cast<double>(x[(begin + i) * n + begin + k]) * inverse[k];
        inverse[i] = s / static_cast<double>(x[(begin + i) * n + begin + i]);
      }
      for (int64_t i = 0; i <= j; ++i) y[(begin + i) * n + begin + j] = static_cast<float>(inverse[i]);
    }
    if (end < n) {
      const Tensor sum = products.multiply(block(h, begin, end, end, n), block(u, end, n, end, n));
      add(u, products.multiply(block(u, begin, end, begin, end), sum), begin, end, -1);
    }
    end = begin;
  }
  return u;
}

}  // namespace lathe
