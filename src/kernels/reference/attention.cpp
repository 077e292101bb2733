#include "kernels/reference/families.h"

namespace lathe::reference {

void register_attention(Registry&) {}

}  // namespace lathe::reference
