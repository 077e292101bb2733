#include "kernels/reference/families.h"

namespace lathe::reference {

void register_quantize(Registry&) {}

}  // namespace lathe::reference
