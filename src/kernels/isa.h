// Instruction sets. Kernels exist for several and the best that the machine has is taken at run time; a lower one can
// be forced, to test it or to see what a smaller machine would do.
//
//   force_isa("avx2");   // before the first Plan: packed weights and kernels suit one instruction set
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lathe {

// Those that this machine has and kernels are compiled for, best first: "avx3_dl", "avx3", "avx2", "sse4", "ssse3".
std::vector<std::string> available_isas();
// Throws kUsage for one that is not available. "" gives the machine's best back (our own kernels only: oneDNN, once
// limited or used, stays as it is).
void force_isa(std::string_view name);
// force_isa($LATHE_ISA), when that is set.
void force_isa_from_environment();

}  // namespace lathe
