#include "kernels/reference/families.h"

namespace lathe::reference {

void register_shape(Registry&) {}

}  // namespace lathe::reference
