#include "kernels/kernel.h"

namespace lathe {

void register_pool(KernelRegistry&) {}

}  // namespace lathe
