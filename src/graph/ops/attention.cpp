#include "graph/ops/families.h"

namespace lathe::ops {

void declare_attention(OpRegistry&) {}

}  // namespace lathe::ops
