#include "graph/ops/families.h"

namespace lathe::ops {

void declare_normalize(OpRegistry&) {}

}  // namespace lathe::ops
