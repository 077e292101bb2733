#include "graph/ops/families.h"

namespace lathe::ops {

void declare_index(OpRegistry&) {}

}  // namespace lathe::ops
