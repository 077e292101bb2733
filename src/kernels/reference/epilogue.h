// What ends every product of ai.lathe: activation and residual, as the node's attributes say (graph/ops/epilogue.h).
#pragma once

#include "kernels/reference/reference.h"

namespace lathe::reference {

// `y` with its bias, which is input 2, becomes output 0; input 3 is the residual.
void finish_product(Context& c, Tensor y);

}  // namespace lathe::reference
