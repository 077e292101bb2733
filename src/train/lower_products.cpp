// Products of matrices. libtorch of Debian leaves them to a BLAS, which has no kernels for vectors of 512 bits, and makes those of a batch
// one by one through tensors; oneDNN's are two to four times as fast.
#include "core/parallel.h"
#include "graph/op.h"
#include "kernels/product.h"
#include "train/lower.h"

namespace lathe {
namespace {

// The last two axes of a tensor, one of which is dense; copied where none is.
struct Matrices {
  at::Tensor held;
  int64_t rows, columns, step;
  bool transposed;

  explicit Matrices(const at::Tensor& t) : held(t), rows(t.size(-2)), columns(t.size(-1)) {
    const auto dense = [&](int64_t across, int64_t along) { return held.stride(along) == 1 && held.stride(across) >= held.size(along); };
    transposed = !dense(-2, -1) && dense(-1, -2);
    if (!transposed && !dense(-2, -1)) held = held.contiguous();
    step = std::max<int64_t>(transposed ? held.stride(-1) : held.stride(-2), 1);
  }
  // The matrix at an index of the axes before, row-major.
  MatrixView at(int64_t index) const {
    int64_t offset = 0;
    for (int64_t axis = held.dim() - 3; axis >= 0; --axis) {
      offset += index % held.size(axis) * held.stride(axis);
      index /= held.size(axis);
    }
    return {held.data_ptr<float>() + offset, step, transposed};
  }
};

// a · b, of matrices or of as many for each index of the same axes before.
at::Tensor multiplied(const at::Tensor& a, const at::Tensor& b) {
  std::vector<int64_t> shape = a.sizes().vec();
  shape.back() = b.size(-1);
  at::Tensor y = at::empty(shape, a.options().memory_format(c10::nullopt));
  const Matrices l(a), r(b);
  float* c = y.data_ptr<float>();
  const int64_t one = l.rows * r.columns, count = one > 0 ? y.numel() / one : 0;
  // A single one is shared out by its rows.
  parallel_for(count, kParallelGrain * 16 / (one * l.columns + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fast_product(l.rows, r.columns, l.columns, l.at(i), r.at(i), c + i * one);
  });
  return y;
}

class Product : public torch::autograd::Function<Product> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& a, const at::Tensor& b) {
    context->save_for_backward({a, b});
    return multiplied(a, b);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& g = gradients[0];
    at::Tensor of_a, of_b;
    if (context->needs_input_grad(0)) of_a = multiplied(g, saved[1].transpose(-1, -2));
    if (context->needs_input_grad(1)) of_b = multiplied(saved[0].transpose(-1, -2), g);
    return {of_a, of_b};
  }
};

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  const auto own = [](const at::Tensor& t) { return own_kernels_take(t) && t.dim() >= 2; };
  if (!own(a) || !own(b) || a.size(-1) != b.size(-2) || Autocast::enabled(at::kCPU) || !has_fast_product()) return at::matmul(a, b);
  if (b.dim() == 2 && a.dim() > 2) {
    // One product of all rows.
    std::vector<int64_t> shape = a.sizes().vec();
    shape.back() = b.size(1);
    return Product::apply(a.reshape({a.numel() / std::max<int64_t>(a.size(-1), 1), a.size(-1)}), b).reshape(shape);
  }
  if (a.dim() != b.dim() || !std::equal(a.sizes().begin(), a.sizes().end() - 2, b.sizes().begin())) return at::matmul(a, b);
  return Product::apply(a, b);
}

Tensors gemm(const LowerCall& c) {
  const at::Tensor a = c.node.get_int("transA") ? c.in(0).t() : c.in(0), b = c.node.get_int("transB") ? c.in(1).t() : c.in(1);
  const double alpha = c.node.get_float("alpha"), beta = c.node.get_float("beta");
  at::Tensor y = product(a, b);
  if (alpha != 1) y = y * alpha;
  if (c.has(2)) y = y + (beta == 1 ? c.in(2) : c.in(2) * beta);
  return {y};
}

}  // namespace

void lower_products(LoweringRegistry& r) {
  r.add("Gemm", gemm);
  r.add("MatMul", +[](const LowerCall& c) { return Tensors{product(c.in(0), c.in(1))}; });
}

}  // namespace lathe
