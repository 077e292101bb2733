// Convolutions followed by batch norms, in the four modes of You et al. 2024, "Efficient ConvBN Blocks for Transfer Learning and Beyond"
// (section 3, table 1). With c = γ / √(σ² + ε):
//
//   train   BN(ω ⊛ x + b) with the batch's mean and variance; running ones are moved
//   eval    c·(ω ⊛ x + b − μ) + β with running statistics, which stay
//   tune    (c·ω) ⊛ x + (c·(b − μ) + β), made anew in each step: eval's values and gradients, but only x is kept for them
//   deploy  one convolution, folded once before training
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

enum class ConvBnMode { kTrain, kEval, kTune, kDeploy };
const char* name_of(ConvBnMode mode);
ConvBnMode conv_bn_mode(const std::string& name);  // throws kUsage

struct ConvBn {
  NodeId convolution, batch_norm;  // Conv, ConvTranspose or Gemm, whose only reader is the norm
};

// All pairs; those that another reader keeps apart are named in `left`, if it is given. Throws kModel naming the node for a norm
// whose channels are not those of its convolution, or whose variance is below −ε.
std::vector<ConvBn> find_conv_bn(const Graph& graph, std::vector<std::string>* left = nullptr);

}  // namespace lathe
