#include "kernels/reference/families.h"

namespace lathe::reference {

void register_normalize(Registry&) {}

}  // namespace lathe::reference
