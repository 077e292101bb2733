#include "graph/ops/families.h"

namespace lathe::ops {

void declare_conv(OpRegistry&) {}

}  // namespace lathe::ops
