#include "kernels/reference/families.h"

namespace lathe::reference {

void register_create(Registry&) {}

}  // namespace lathe::reference
