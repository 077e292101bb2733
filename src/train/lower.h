// What each operator is in libtorch: one function a name, which takes the node's inputs as torch tensors and gives its outputs,
// differentiable where the operator is. One file a family, named like the family in graph/ops/.
//
// Outputs equal those of the reference kernels (kernels/reference/), gradients those of finite differences: tests/train/.
#pragma once

#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "train/batch_norm.h"
#include "train/smooth_activations.h"
#include "train/torch.h"

namespace lathe {

using Tensors = std::vector<at::Tensor>;

// How one pass through the network is meant.
struct PassState {
  bool training = false;     // dropout, drop path
  bool batch_statistics = false;  // batch norms take the batch's, and move their running ones
  bool again = false;        // a pass for the backward pass alone: running statistics have been moved
  double progress = 0;       // the part of training that is done, for ScheduledDropPath
  at::Generator generator;   // of dropout and drop path
};

struct LowerCall {
  const Node& node;
  const Tensors& inputs;  // undefined where omitted
  const PassState& state;

  bool has(size_t i) const { return i < inputs.size() && inputs[i].defined(); }
  const at::Tensor& in(size_t i = 0) const { return inputs[i]; }
  // Elements of a tensor of whole numbers (axes, shapes).
  std::vector<int64_t> ints(size_t i) const;
  double number(size_t i) const { return inputs[i].item<double>(); }
};

using Lowering = Tensors (*)(const LowerCall&);

class LoweringRegistry {
 public:
  void add(std::string_view op, Lowering lowering, std::string_view domain = "");
};
// nullptr when there is none.
Lowering find_lowering(const Op& op);

// How numbers of so many axes lie with their channels side by side.
inline at::MemoryFormat channels_last(int64_t axes) {
  return axes == 4 ? at::MemoryFormat::ChannelsLast : axes == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::Contiguous;
}
// What kernels of our own take.
inline bool own_kernels_take(const at::Tensor& t) { return t.is_cpu() && t.scalar_type() == at::kFloat; }
// x inside the limits.
at::Tensor limited(const at::Tensor& x, NormLimits limits);
// A BatchNormalization, and the Relu or Clip behind it that keeps its output inside `limits`, at once.
at::Tensor limited_norm(const LowerCall& call, NormLimits limits);
// A Conv, a BatchNormalization with statistics that stay and the limits behind it, as one convolution whose weights and bias are made anew
// (Tune's mode). Undefined where no kernel takes them.
at::Tensor tuned_convolution(const LowerCall& convolution, const LowerCall& norm, NormLimits limits);
// scale · max(x, 0)² + bias, of one number each (train/star_relu.h).
at::Tensor star_relu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias);
// GELU or SiLU (train/smooth_activations.h).
at::Tensor smooth(const at::Tensor& x, Smooth f);

void lower_convolutions(LoweringRegistry&);
void lower_elementwise(LoweringRegistry&);
void lower_moves(LoweringRegistry&);
void lower_norms(LoweringRegistry&);
void lower_products(LoweringRegistry&);
void lower_quantize(LoweringRegistry&);

at::ScalarType to_torch(DType type);   // throws kUnsupported for types that libtorch lacks
DType from_torch(at::ScalarType type);
at::Tensor to_torch(const Tensor& tensor);  // a copy
Tensor from_torch(const at::Tensor& tensor);  // from whatever device

}  // namespace lathe
