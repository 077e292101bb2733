// Convolution in groups of two or four channels (grouped_conv.cpp).
#pragma once

#include "kernels/kernel.h"

namespace lathe {

void register_grouped_conv(KernelRegistry&);

}  // namespace lathe
