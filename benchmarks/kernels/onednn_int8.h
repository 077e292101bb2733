// oneDNN's convolution of codes, as bench_kernels times it beside lathe's kernels.
#pragma once

#include "kernels/kernel.h"

namespace lathe {

// An IntegerConv of u8 codes and i8 weights without zero points of its own, to u8, as oneDNN computes it: its scales and
// zero points, rounded once (a tie may go to the other code). Runs like a Kernel of that node. Throws
// std::runtime_error where oneDNN has no such primitive.
std::unique_ptr<Kernel> onednn_integer_conv(const KernelRequest& request);

}  // namespace lathe
