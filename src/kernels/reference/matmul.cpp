#include "kernels/reference/families.h"

namespace lathe::reference {

void register_matmul(Registry&) {}

}  // namespace lathe::reference
