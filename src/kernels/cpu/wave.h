// SpaRTAN's waves (wave.cpp).
#pragma once

#include "kernels/kernel.h"

namespace lathe {

void register_wave(KernelRegistry&);

}  // namespace lathe
