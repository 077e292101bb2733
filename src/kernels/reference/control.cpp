#include "kernels/reference/families.h"

namespace lathe::reference {

void register_control(Registry&) {}

}  // namespace lathe::reference
