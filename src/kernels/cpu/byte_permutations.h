// Whether bytes can be chosen from two vectors by one instruction (AVX512_VBMI), which Highway's AVX-512 target does not
// ask for: tables of 256 codes then stay in registers.
#pragma once

namespace lathe {

bool has_byte_permutations();

}  // namespace lathe
