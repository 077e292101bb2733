#include "targets/mcu/budget.h"

#include <algorithm>
#include <set>

#include "targets/mcu/weights.h"

namespace lathe::mcu {

static bool has(const ComputeUnit& unit, const char* set) {
  return std::find(unit.instruction_sets.begin(), unit.instruction_sets.end(), set) != unit.instruction_sets.end();
}

bool is_microcontroller(const Device& device) {
  return std::any_of(device.compute.begin(), device.compute.end(), [](const ComputeUnit& unit) { return has(unit, "armv7e-m"); });
}

Processor processor_of(const Device& device) {
  if (!device.limits.memory_bytes || !device.limits.flash_bytes)
    fail(ErrorKind::kInput, "device '{}': limits need memory_bytes and flash_bytes", device.name);
  for (const ComputeUnit& unit : device.compute) {
    if (!has(unit, "armv7e-m")) continue;
    if (has(unit, "fpv5-d16")) return {"cortex-m7", "fpv5-d16", "mps2-an500"};
    if (has(unit, "fpv5-sp")) return {"cortex-m7", "fpv5-sp-d16", "mps2-an500"};
    if (has(unit, "fpv4-sp")) return {"cortex-m4", "fpv4-sp-d16", "mps2-an386"};
    return {"cortex-m4", "", "mps2-an386"};
  }
  fail(ErrorKind::kUnsupported, "device '{}' has no compute unit with the instruction set armv7e-m (Cortex-M4, M7): C is emitted for those",
       device.name);
}

namespace {

// Constants of steps, those that are equal once (layers.cpp, shared_array).
class ConstantBytes {
 public:
  explicit ConstantBytes(const McuProgram& p) : p_(p) {}

  void add(const McuStep& s) {
    for (const McuStep& one : s.inner) add(one);
    if (s.kind == StepKind::kConvolve || s.kind == StepKind::kPixels || s.kind == StepKind::kRow || s.kind == StepKind::kDepthwise) {
      const PackedProduct packed = pack_product(p_, s);
      add('u', packed.parameters.data(), 4 * packed.parameters.size());
      add('b', packed.table.data(), packed.table.size());
    }
    if (s.kind == StepKind::kSoftmax) {
      const float scale = p_.graph[s.node].get_float("x_scale");  // which tells its 256 powers
      add('f', &scale, sizeof scale, 1024);
    }
    if (s.kind == StepKind::kLookUp) add('b', constant(s, 1).raw(), 256);
    if (s.kind == StepKind::kNorm) {
      add('i', constant(s, 1).raw(), constant(s, 1).bytes());
      add('l', constant(s, 2).raw(), constant(s, 2).bytes());
    }
  }

  int64_t total = 0;

 private:
  const Tensor& constant(const McuStep& s, size_t input) const { return p_.graph[p_.graph[s.node].inputs[input]].constant; }
  void add(char type, const void* elements, size_t bytes) { add(type, elements, bytes, static_cast<int64_t>(bytes)); }
  // `size` bytes of flash, which `key` tells apart.
  void add(char type, const void* key, size_t key_bytes, int64_t size) {
    if (seen_.insert(type + std::string(static_cast<const char*>(key), key_bytes)).second) total += size;
  }
  const McuProgram& p_;
  std::set<std::string> seen_;  // by type and bytes
};

}  // namespace

FirmwareSize firmware_size(const McuProgram& p) {
  ConstantBytes constants(p);
  for (const McuStep& s : p.steps) constants.add(s);
  FirmwareSize size{.arena = p.arena_bytes, .weights = constants.total};
  for (const McuTensor& t : p.tensors)
    if (t.constant.defined()) size.weights += t.bytes();
  return size;
}

void check_budget(const McuProgram& p, const Device& device) {
  (void)processor_of(device);
  const int64_t memory = *device.limits.memory_bytes, flash = *device.limits.flash_bytes;
  const FirmwareSize size = firmware_size(p);
  std::string why;
  if (size.arena + kStackBytes > memory) {
    int64_t most = -1;
    size_t peak = 0;
    for (size_t s = 0; s < p.steps.size(); ++s) {
      if (const int64_t alive = p.bytes_alive(s); alive > most) most = alive, peak = s;
    }
    why = fmt::format("the network needs {} bytes of SRAM ({} of arena, {} of stack), {} more than the {} there are; the most are alive at step {} ('{}')", size.arena + kStackBytes, size.arena,
                      kStackBytes, size.arena + kStackBytes - memory, memory, peak, p.steps[peak].name);
  }
  if (size.weights > flash)
    why += fmt::format("{}the network's weights take {} bytes of flash, {} more than the {} there are", why.empty() ? "" : "; and ", size.weights, size.weights - flash, flash);
  if (!why.empty()) fail(ErrorKind::kBudget, "{}: {}", device.name, why);
}

}  // namespace lathe::mcu
