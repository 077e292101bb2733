#include "kernels/reference/families.h"

namespace lathe::reference {

void register_reduce(Registry&) {}

}  // namespace lathe::reference
