// Kernels: code that executes one node for given shapes. A kernel is made once, when a Plan is made (it may
// repack weights), and then run any number of times without allocating. For each operator there is a list
// of kernels, best first; the last resort is the reference kernel (kernels/reference).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "graph/op.h"

namespace lathe {

class Kernel {
 public:
  virtual ~Kernel() = default;
  // Tensors have the shapes of the request, elements row-major; `scratch` has scratch_bytes(), 64-byte
  // aligned. Omitted inputs are null.
  virtual void run(const Tensor* const* inputs, Tensor* const* outputs, void* scratch) = 0;
  virtual size_t scratch_bytes() const { return 0; }
  // Input whose buffer output 0 may share (same size, overwritten in place), or −1.
  virtual int in_place_input() const { return -1; }
};

struct KernelRequest {
  const Graph& graph;
  const Node& node;
  bool winograd = true;  // convolutions may trade exactness for fewer products (kernels/cpu/winograd.cpp)

  const Value& input(size_t i) const { return graph[node.inputs[i]]; }
  const Value& output(size_t i = 0) const { return graph[node.outputs[i]]; }
  bool has_input(size_t i) const { return i < node.inputs.size() && node.inputs[i]; }
  const Shape& in_shape(size_t i = 0) const { return *input(i).shape; }
  const Shape& out_shape(size_t i = 0) const { return *output(i).shape; }
  bool all_f32() const;  // every input and output that is there
  bool all_f32_but_indices() const;  // i64 inputs (axes, shapes) aside
};

struct KernelEntry {
  std::string_view name;  // data type, operation, way: "f32.conv.onednn"
  bool (*supports)(const KernelRequest&);
  std::unique_ptr<Kernel> (*make)(const KernelRequest&);
};

// Kernels that support the request, best guess first. Empty: only the reference can.
std::vector<const KernelEntry*> kernels_for(const KernelRequest& request);

// What a measured time depends on besides the machine: a digest of the kernels' sources (made when CMake
// runs) and the libraries beneath them.
std::string kernel_build();

class KernelRegistry {
 public:
  void add(std::string_view op, std::string_view domain, KernelEntry entry);
};

// One function a file of kernels/cpu.
void register_onednn(KernelRegistry&);
void register_gemm(KernelRegistry&);
void register_gemm_fallback(KernelRegistry&);
void register_winograd(KernelRegistry&);
void register_depthwise(KernelRegistry&);
void register_elementwise(KernelRegistry&);
void register_normalize(KernelRegistry&);
void register_pool(KernelRegistry&);
void register_move(KernelRegistry&);
void register_attention(KernelRegistry&);

// An activation as the fused operators name it (graph/ops/fused.cpp).
enum class ActivationKind { kNone, kRelu, kClip, kLeakyRelu, kHardSwish, kHardSigmoid, kSigmoid, kTanh, kSwish, kGelu, kGeluTanh, kMish, kElu };
struct ActivationSpec {
  ActivationKind kind = ActivationKind::kNone;
  float alpha = 0, beta = 0;
};
ActivationSpec activation_of(const Node& node);

}  // namespace lathe
