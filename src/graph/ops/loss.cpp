#include "graph/ops/families.h"

namespace lathe::ops {

void declare_loss(OpRegistry&) {}

}  // namespace lathe::ops
