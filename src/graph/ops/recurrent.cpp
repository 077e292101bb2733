#include "graph/ops/families.h"

namespace lathe::ops {

void declare_recurrent(OpRegistry&) {}

}  // namespace lathe::ops
