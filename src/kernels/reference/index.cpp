#include "kernels/reference/families.h"

namespace lathe::reference {

void register_index(Registry&) {}

}  // namespace lathe::reference
