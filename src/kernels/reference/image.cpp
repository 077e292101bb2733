#include "kernels/reference/families.h"

namespace lathe::reference {

void register_image(Registry&) {}

}  // namespace lathe::reference
