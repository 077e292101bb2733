#include "graph/ops/families.h"

namespace lathe::ops {

void declare_control(OpRegistry&) {}

}  // namespace lathe::ops
