#include "kernels/reference/families.h"

namespace lathe::reference {

void register_loss(Registry&) {}

}  // namespace lathe::reference
