#include "kernels/reference/families.h"

namespace lathe::reference {

void register_recurrent(Registry&) {}

}  // namespace lathe::reference
