// Kernels: code that executes one node for given shapes. A kernel is made once, when a Plan is made (it may
// repack weights), and then run any number of times without allocating. For each operator there is a list
// of kernels, best first; the last resort is the reference kernel (kernels/reference).
//
// A kernel that repacks a constant input asks for it with KernelRequest::packed_input and gives it back with
// packed_inputs(). That is all it takes to be stored in a .lathe file and made from one without packing again:
//
//   weights_ = request.packed_input(1, DType::kF32, {kh, kw, c}, kLayout, [&](const Tensor& w) { return pack(w); });
//   std::vector<PackedInput> packed_inputs() const override { return {{}, {weights_, kLayout}}; }
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "graph/op.h"

namespace lathe {

// A kernel's own arrangement of a constant input. `layout` tells arrangements of one type and shape apart: a
// kernel takes another number when it arranges differently, so that an older file is packed anew, not misread.
struct PackedInput {
  Tensor data;
  uint64_t layout = 0;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  // Tensors have the shapes of the request, elements row-major; `scratch` has scratch_bytes(), 64-byte
  // aligned. Omitted inputs are null.
  virtual void run(const Tensor* const* inputs, Tensor* const* outputs, void* scratch) = 0;
  virtual size_t scratch_bytes() const { return 0; }
  // Input whose buffer output 0 may share (same size, overwritten in place), or −1.
  virtual int in_place_input() const { return -1; }
  // By input number, what the kernel keeps in place of constant inputs. It must not read those at run time: the
  // Plan lets their elements go. Inputs without an entry, or with an undefined one, are read as they are.
  virtual std::vector<PackedInput> packed_inputs() const { return {}; }
};

// What a .lathe file holds was packed by another version of a kernel or for another machine.
class StalePacking : public Error {
 public:
  using Error::Error;
};

// A kernel's library is not on this machine: another kernel has to do.
class LibraryMissing : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct KernelRequest {
  const Graph& graph;
  const Node& node;
  bool winograd = true;  // convolutions may trade exactness for fewer products (kernels/cpu/winograd.cpp)
  const std::vector<PackedInput>* packed = nullptr;  // packed_inputs() of the kernel that a .lathe file was made from
  TensorPool* pool = nullptr;  // where packed inputs are allocated, if given

  const Value& input(size_t i) const { return graph[node.inputs[i]]; }
  const Value& output(size_t i = 0) const { return graph[node.outputs[i]]; }
  bool has_input(size_t i) const { return i < node.inputs.size() && node.inputs[i]; }
  const Shape& in_shape(size_t i = 0) const { return *input(i).shape; }
  const Shape& out_shape(size_t i = 0) const { return *output(i).shape; }
  bool all_f32() const;  // every input and output that is there
  bool all_f32_but_indices() const;  // i64 inputs (axes, shapes) aside
  // The packed form of constant input i, of the given type and shape: the file's, or what `pack` makes of the
  // constant. Throws StalePacking when the file's has another layout, kInput when it has another size.
  Tensor packed_input(size_t i, DType type, const Shape& shape, uint64_t layout,
                      const std::function<Tensor(const Tensor&)>& pack) const;
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

// What packed weights depend on besides the kernels' own layouts: processor, instruction sets in use and caches. Weights packed under one identity are used under no other.
std::string packing_identity();

// One function a file of kernels/cpu.
void register_onednn(KernelRegistry&);
void register_gemm(KernelRegistry&);
void register_gemm_fallback(KernelRegistry&);
void register_planar_conv(KernelRegistry&);
void register_winograd(KernelRegistry&);
void register_depthwise(KernelRegistry&);
void register_expand_depthwise(KernelRegistry&);
void register_elementwise(KernelRegistry&);
void register_select(KernelRegistry&);
void register_normalize(KernelRegistry&);
void register_pool(KernelRegistry&);
void register_move(KernelRegistry&);
void register_table_copy(KernelRegistry&);
void register_resize(KernelRegistry&);
void register_grid_sample(KernelRegistry&);
void register_reduce(KernelRegistry&);
void register_conv_transpose(KernelRegistry&);
void register_attention(KernelRegistry&);
void register_recurrent(KernelRegistry&);
void register_dynamic_integer(KernelRegistry&);
void register_integer_gemm(KernelRegistry&);
void register_integer_depthwise(KernelRegistry&);
void register_integer_elementwise(KernelRegistry&);
void register_coded_gemm(KernelRegistry&);
void register_coded_conv_decoded(KernelRegistry&);
void register_binary_conv(KernelRegistry&);

bool has_bf16_instructions();  // products of bf16 pairs and rounding to bf16 (AVX512_BF16)
void allow_bf16_instructions(bool allowed);  // for force_isa (kernels/isa.h)
bool has_vnni_instructions();  // sums of four products of u8 and i8 (AVX512_VNNI)
void allow_vnni_instructions(bool allowed);  // likewise, and to test what machines without them run

// An activation as the fused operators name it (graph/ops/fused.cpp).
enum class ActivationKind { kNone, kRelu, kClip, kLeakyRelu, kHardSwish, kHardSigmoid, kSigmoid, kTanh, kSwish, kGelu, kGeluTanh, kMish, kElu };
struct ActivationSpec {
  ActivationKind kind = ActivationKind::kNone;
  float alpha = 0, beta = 0;
};
// `prefix` where a node has two: "expand_".
ActivationSpec activation_of(const Node& node, std::string_view prefix = "");

}  // namespace lathe
