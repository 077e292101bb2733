#include "graph/ops/families.h"

namespace lathe::ops {

void declare_create(OpRegistry&) {}

}  // namespace lathe::ops
