#include "graph/ops/families.h"

namespace lathe::ops {

void declare_quantize(OpRegistry&) {}

}  // namespace lathe::ops
