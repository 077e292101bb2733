#include "targets/mcu/border.h"

#include <algorithm>
#include <cmath>

#include "kernels/requantize.h"

namespace lathe::mcu {

std::vector<uint8_t> input_bytes(const McuBorder& b, const Tensor& values) {
  Tensor x = values;
  if (x.size() != element_count(b.model_shape) || (x.dtype() != DType::kF32 && x.dtype() != b.type))
    fail(ErrorKind::kInput, "input '{}' is {}{}, expected f32{}", b.name, name_of(x.dtype()), to_string(x.shape()),
         to_string(b.model_shape));
  x = x.reshaped(b.model_shape);
  if (x.dtype() == DType::kF32) {
    if (b.scale == 0) fail(ErrorKind::kInput, "input '{}' takes codes ({}), not f32", b.name, name_of(b.type));
    const Requantize out = Requantize::all(b.type, b.zero);
    Tensor codes(b.type, x.shape());
    for (int64_t i = 0; i < x.size(); ++i) {
      const float v = x.data<float>()[i];
      codes.set_int(i, out.code(std::isnan(v) ? 0.0f : v / b.scale));
    }
    x = codes;
  }
  if (b.channels_last) x = transpose(x, {0, 2, 3, 1});
  return {x.data<uint8_t>(), x.data<uint8_t>() + x.size()};
}

Tensor output_values(const McuBorder& b, const uint8_t* bytes) {
  Tensor stored(b.type, b.model_shape);
  std::copy(bytes, bytes + stored.bytes(), static_cast<uint8_t*>(stored.raw()));
  if (b.scale == 0) return stored;
  Tensor y(DType::kF32, b.model_shape);
  for (int64_t i = 0; i < y.size(); ++i) y.data<float>()[i] = static_cast<float>(stored.get_int(i) - b.zero) * b.scale;
  return y;
}

}  // namespace lathe::mcu
