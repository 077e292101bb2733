// Transformers token by token, two at a time (Liang et al. 2023, MCUFormer; its "operator integration" and "token overwriting"): what is done to each
// token by itself becomes one step that goes through the tokens, with rows in scratch in the place of whole tensors.
//
//   heads    norm → product to queries, keys and values → attention: one head's keys and values, two rows of queries and one of scores at a time.
//            The norm and what stands before the product run again for each head, twice.
//   tokens   chains of norms, products and tables, up to a sum with the residual: of the hidden numbers of an MLP there are two rows, and the
//            result takes the residual's place.
//
// The bits are those of the steps apart.
#pragma once

#include "targets/mcu/program.h"

namespace lathe::mcu {

// Before place().
void integrate_tokens(McuProgram& program);

}  // namespace lathe::mcu
