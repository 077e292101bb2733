// The families of reference kernels, one function a file of this folder, named as in graph/ops.
#pragma once

#include "kernels/reference/reference.h"

namespace lathe::reference {

void register_elementwise(Registry&);
void register_conv(Registry&);
void register_matmul(Registry&);
void register_normalize(Registry&);
void register_reduce(Registry&);
void register_shape(Registry&);
void register_index(Registry&);
void register_create(Registry&);
void register_control(Registry&);
void register_recurrent(Registry&);
void register_attention(Registry&);
void register_image(Registry&);
void register_quantize(Registry&);
void register_signal(Registry&);
void register_loss(Registry&);
void register_text(Registry&);
void register_ml(Registry&);
void register_tree(Registry&);
void register_fused(Registry&);
void register_integer(Registry&);
void register_integer_tokens(Registry&);
void register_coded(Registry&);

}  // namespace lathe::reference
