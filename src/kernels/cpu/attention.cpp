#include "kernels/kernel.h"

namespace lathe {

void register_attention(KernelRegistry&) {}

}  // namespace lathe
