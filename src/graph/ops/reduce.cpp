#include "graph/ops/families.h"

namespace lathe::ops {

void declare_reduce(OpRegistry&) {}

}  // namespace lathe::ops
