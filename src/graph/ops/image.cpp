#include "graph/ops/families.h"

namespace lathe::ops {

void declare_image(OpRegistry&) {}

}  // namespace lathe::ops
