#include "kernels/reference/families.h"

namespace lathe::reference {

void register_signal(Registry&) {}

}  // namespace lathe::reference
