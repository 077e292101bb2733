#include "kernels/coded_weights.h"

#include "core/parallel.h"

namespace lathe {

Tensor decode_weights(const Tensor& codes, const Tensor& numbers, const Tensor& zeros, int64_t block) {
  const int64_t rows = codes.dim(0), depth = codes.dim(1), width = numbers.dim(1);
  if (block == 0)
    for (int64_t i = 0; i < codes.size(); ++i) check_model(codes.get_int(i) < width, "code {} in a codebook of {}", codes.get_int(i), width);
  Tensor w(DType::kF32, codes.shape());
  auto* to = w.data<float>();
  const auto* from = numbers.data<float>();
  parallel_for(rows, kParallelGrain / (depth + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t k = 0; k < depth; ++k) {
        const int64_t code = codes.get_int(n * depth + k);
        if (block == 0) {
          to[n * depth + k] = from[(numbers.dim(0) == 1 ? 0 : n) * width + code];
        } else {
          const int64_t at = n * width + k / block, zero = zeros.defined() ? zeros.get_int(at) : 0;
          to[n * depth + k] = static_cast<float>(code - zero) * from[at];
        }
      }
  });
  return w;
}

}  // namespace lathe
