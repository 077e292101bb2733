#include "graph/ops/families.h"

namespace lathe::ops {

void declare_signal(OpRegistry&) {}

}  // namespace lathe::ops
