// Counting the bits of each word of a vector in one instruction (AVX512_VPOPCNTDQ), which Highway's targets here do not
// include.
#pragma once

namespace lathe {

bool has_bit_counts();
void allow_bit_counts(bool allowed);  // for force_isa (kernels/isa.h), and to test what machines without it run

}  // namespace lathe
