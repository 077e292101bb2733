// Vectors of f32 for kernels of training, by the compiler's own extension: one function for each generation of vectors, chosen when the
// program starts.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LATHE_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LATHE_VECTORS
#endif

namespace lathe {

#pragma GCC diagnostic ignored "-Wpsabi"  // of vectors that functions return to those of the same file alone
using Vector = float __attribute__((vector_size(64), aligned(4), may_alias));  // 16 channels, in as many registers as it takes
using Half = float __attribute__((vector_size(32), aligned(4), may_alias));

}  // namespace lathe
