// Between a model's tensors and the codes that a program holds of them.
#pragma once

#include <cstdint>
#include <vector>

#include "targets/mcu/program.h"

namespace lathe::mcu {

// Bytes of the tensor behind an input: the model's values (f32, of its shape) rounded and moved as the network's first
// operators do it, or codes. Throws kInput for another type or shape.
std::vector<uint8_t> input_bytes(const McuBorder& input, const Tensor& values);
// What the model's output is for what the program left in the tensor behind it: f32, or codes where the model has codes.
Tensor output_values(const McuBorder& output, const uint8_t* bytes);

}  // namespace lathe::mcu
