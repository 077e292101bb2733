#include "kernels/reference/families.h"

namespace lathe::reference {

void register_conv(Registry&) {}

}  // namespace lathe::reference
