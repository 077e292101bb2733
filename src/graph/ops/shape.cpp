#include "graph/ops/families.h"

namespace lathe::ops {

void declare_shape(OpRegistry&) {}

}  // namespace lathe::ops
