#include "graph/ops/families.h"

namespace lathe::ops {

void declare_fused(OpRegistry&) {}

}  // namespace lathe::ops
