#include "graph/ops/families.h"

namespace lathe::ops {

void declare_matmul(OpRegistry&) {}

}  // namespace lathe::ops
