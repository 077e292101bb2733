// Dense algebra on row-major f32 matrices for what quantizers solve; products run on the engine's own kernels.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "core/tensor.h"
#include "runtime/session.h"

namespace lathe {

// c = a · b, with plans kept by shape.
class Products {
 public:
  Tensor multiply(const Tensor& a, const Tensor& b);

 private:
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::unique_ptr<Session>> sessions_;
};

// xᵀ·x / rows(x), of f32 [rows, columns].
Tensor second_moments(const Tensor& x, Products& products);

// The upper triangular U with UᵀU = H⁻¹, of a symmetric positive definite H [n, n] (f32, destroyed). Throws kInput when H is
// not positive definite. Blocked: n³ multiplications, nearly all in products.
Tensor inverse_factor(Tensor h, Products& products);

}  // namespace lathe
