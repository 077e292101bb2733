#include "kernels/kernel.h"

namespace lathe {

void register_move(KernelRegistry&) {}

}  // namespace lathe
