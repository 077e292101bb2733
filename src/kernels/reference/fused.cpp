#include "kernels/reference/families.h"

namespace lathe::reference {

void register_fused(Registry&) {}

}  // namespace lathe::reference
