// Ways for reference kernels to read tensors: all elements as doubles, and operands that broadcast.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace lathe::reference {

inline std::vector<double> doubles(const Tensor& t) {
  std::vector<double> values(t.size());
  if (t.dtype() == DType::kF32) {
    const float* data = t.data<float>();
    values.assign(data, data + t.size());
  } else {
    for (int64_t i = 0; i < t.size(); ++i) values[i] = t.get(i);
  }
  return values;
}

// Where the element of a tensor of shape `from` lies that broadcasts to element `i` of a tensor of shape
// `to`. Throws kModel when `from` does not broadcast to `to`.
class BroadcastIndex {
 public:
  BroadcastIndex(const Shape& from, const Shape& to) : sizes_(to), steps_(to.size(), 0) {
    size_t skip = 0;  // leading ones change nothing
    while (skip < from.size() && from[skip] == 1) ++skip;
    Shape core(from.begin() + skip, from.end());
    check_model(core.size() <= to.size(), "shape {} does not broadcast to {}", to_string(from), to_string(to));
    std::vector<int64_t> strides = strides_of(core);
    size_t lead = to.size() - core.size();
    bool suffix = true;
    for (size_t i = 0; i < core.size(); ++i) {
      check_model(core[i] == to[lead + i] || core[i] == 1, "shape {} does not broadcast to {}", to_string(from),
                  to_string(to));
      suffix = suffix && core[i] == to[lead + i];
      steps_[lead + i] = core[i] == 1 ? 0 : strides[i];
    }
    if (suffix) period_ = product(core, 0, core.size());
  }
  int64_t operator[](int64_t i) const {
    if (period_ > 0) return i % period_;
    int64_t offset = 0;
    for (size_t d = sizes_.size(); d-- > 0; i /= sizes_[d]) offset += i % sizes_[d] * steps_[d];
    return offset;
  }

 private:
  Shape sizes_;
  std::vector<int64_t> steps_;
  int64_t period_ = 0;  // > 0: the operand equals the trailing axes, the common case
};

}  // namespace lathe::reference
