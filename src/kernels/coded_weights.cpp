#include "kernels/coded_weights.h"

#include <algorithm>

#include "core/parallel.h"

namespace lathe {

Tensor pack_codes(const Tensor& codes, int bits) {
  const int64_t in_byte = 8 / bits;
  Tensor packed(DType::kU8, {(codes.size() + in_byte - 1) / in_byte});
  auto* to = packed.data<uint8_t>();
  std::fill_n(to, packed.size(), uint8_t{0});
  const auto* from = codes.data<uint8_t>();
  for (int64_t i = 0; i < codes.size(); ++i) to[i / in_byte] |= static_cast<uint8_t>((from[i] & ((1 << bits) - 1)) << i % in_byte * bits);
  return packed;
}

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
