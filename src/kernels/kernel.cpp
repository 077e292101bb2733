#include "kernels/kernel.h"

#include <hwy/detect_targets.h>

#include <map>

#include "kernels/cpu/byte_permutations.h"

namespace lathe {
namespace {

using Key = std::pair<std::string, std::string>;

std::map<Key, std::vector<KernelEntry>>& table() {
  static std::map<Key, std::vector<KernelEntry>> entries;
  return entries;
}

}  // namespace

bool KernelRequest::all_f32_but_indices() const {
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (has_input(i) && input(i).dtype != DType::kF32 && input(i).dtype != DType::kI64) return false;
  return output().dtype == DType::kF32;
}

bool KernelRequest::all_f32() const {
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (has_input(i) && input(i).dtype != DType::kF32) return false;
  for (ValueId v : node.outputs)
    if (v && graph[v].dtype != DType::kF32) return false;
  return true;
}

Tensor KernelRequest::packed_input(size_t i, DType type, const Shape& shape, uint64_t layout,
                                   const std::function<Tensor(const Tensor&)>& pack) const {
  if (!packed) {
    require(input(i).constant.has_elements(), "node '{}': the elements of input {} were let go", node.name, i);
    const TensorPool::Scope scope(pool);
    Tensor made = pack(input(i).constant);
    require(made.dtype() == type && made.shape() == shape, "node '{}': input {} was packed as {} {}, promised was {} {}",
            node.name, i, name_of(made.dtype()), to_string(made.shape()), name_of(type), to_string(shape));
    return made;
  }
  if (i >= packed->size() || !(*packed)[i].data.defined())
    fail(ErrorKind::kInput, "node '{}' ({}): packed input {} is missing", node.name, node.op->name, i);
  const PackedInput& held = (*packed)[i];
  if (held.layout != layout)
    throw StalePacking(ErrorKind::kUnsupported, fmt::format("node '{}' ({}): input {} is packed in layout {:x}, wanted is {:x}",
                                                            node.name, node.op->name, i, held.layout, layout));
  if (held.data.dtype() != type || held.data.shape() != shape)
    fail(ErrorKind::kInput, "node '{}' ({}): input {} is packed as {} {}, expected {} {}", node.name, node.op->name, i,
         name_of(held.data.dtype()), to_string(held.data.shape()), name_of(type), to_string(shape));
  return held.data;
}

void KernelRegistry::add(std::string_view op, std::string_view domain, KernelEntry entry) {
  table()[Key{domain, op}].push_back(entry);
}

std::vector<const KernelEntry*> kernels_for(const KernelRequest& request) {
  static const bool once = [] {
    KernelRegistry r;
    for (auto add : {register_depthwise, register_expand_depthwise, register_attention, register_recurrent, register_planar_conv, register_winograd, register_gemm, register_onednn,
                     register_gemm_fallback, register_elementwise, register_select,
                     register_normalize, register_pool, register_integer_elementwise, register_move, register_table_copy, register_resize, register_grid_sample, register_reduce, register_conv_transpose,
                     register_integer_depthwise, register_integer_gemm, register_dynamic_integer, register_coded_conv_decoded, register_coded_gemm, register_binary_conv})
      add(r);
    return true;
  }();
  (void)once;
  std::vector<const KernelEntry*> result;
  auto it = table().find(Key{request.node.op->domain, request.node.op->name});
  if (it == table().end()) return result;
  // Tensors without elements are left to the reference: fast kernels may divide by any size.
  for (const auto* list : {&request.node.inputs, &request.node.outputs})
    for (ValueId v : *list)
      if (v && request.graph[v].shape && is_static(*request.graph[v].shape) && element_count(*request.graph[v].shape) == 0)
        return result;
  for (const KernelEntry& entry : it->second)
    if (entry.supports(request)) result.push_back(&entry);
  return result;
}

// Kernels with instructions beyond Highway's are compiled with its AVX-512 targets, which a build may leave out.
constexpr bool kWideTargets = (HWY_TARGETS & (HWY_AVX3 | HWY_AVX3_DL)) != 0;

static bool bf16_instructions_allowed = true;
void allow_bf16_instructions(bool allowed) { bf16_instructions_allowed = allowed; }

bool has_bf16_instructions() {
#if defined(__x86_64__)
  return kWideTargets && bf16_instructions_allowed && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

static bool vnni_instructions_allowed = true;
void allow_vnni_instructions(bool allowed) { vnni_instructions_allowed = allowed; }

bool has_vnni_instructions() {
#if defined(__x86_64__)
  return kWideTargets && vnni_instructions_allowed && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

bool has_byte_permutations() {
#if defined(__x86_64__)
  return has_vnni_instructions() && __builtin_cpu_supports("avx512vbmi");  // what lacks the older one lacks this
#else
  return false;
#endif
}

ActivationSpec activation_of(const Node& node, std::string_view prefix) {
  static const std::map<std::string, ActivationKind, std::less<>> kinds = {
      {"", ActivationKind::kNone},           {"Relu", ActivationKind::kRelu},
      {"Clip", ActivationKind::kClip},       {"LeakyRelu", ActivationKind::kLeakyRelu},
      {"HardSwish", ActivationKind::kHardSwish}, {"HardSigmoid", ActivationKind::kHardSigmoid},
      {"Sigmoid", ActivationKind::kSigmoid}, {"Tanh", ActivationKind::kTanh},
      {"Swish", ActivationKind::kSwish},     {"Gelu", ActivationKind::kGelu},
      {"GeluTanh", ActivationKind::kGeluTanh}, {"Mish", ActivationKind::kMish},
      {"Elu", ActivationKind::kElu}};
  auto name = [&](std::string_view attribute) { return std::string(prefix) + std::string(attribute); };
  const std::string& activation = node.get_string(name("activation"));
  auto it = kinds.find(activation);
  require(it != kinds.end(), "unknown activation '{}'", activation);
  return {it->second, node.get_float(name("alpha")), node.get_float(name("beta"))};
}

}  // namespace lathe
