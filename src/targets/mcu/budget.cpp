#include "targets/mcu/budget.h"

#include <algorithm>

#include "targets/mcu/weights.h"

namespace lathe::mcu {

Processor processor_of(const Device& device) {
  if (!device.limits.memory_bytes || !device.limits.flash_bytes)
    fail(ErrorKind::kInput, "device '{}': limits need memory_bytes and flash_bytes", device.name);
  for (const ComputeUnit& unit : device.compute) {
    auto has = [&](const char* set) {
      return std::find(unit.instruction_sets.begin(), unit.instruction_sets.end(), set) != unit.instruction_sets.end();
    };
    if (!has("armv7e-m")) continue;
    if (has("fpv5-d16")) return {"cortex-m7", "fpv5-d16", "mps2-an500"};
    if (has("fpv5-sp")) return {"cortex-m7", "fpv5-sp-d16", "mps2-an500"};
    if (has("fpv4-sp")) return {"cortex-m4", "fpv4-sp-d16", "mps2-an386"};
    return {"cortex-m4", "", "mps2-an386"};
  }
  fail(ErrorKind::kUnsupported, "device '{}' has no compute unit with the instruction set armv7e-m (Cortex-M4, M7): C is emitted for those",
       device.name);
}

static int64_t constant_bytes(const McuProgram& p, const McuStep& s) {
  int64_t bytes = 0;
  for (const McuStep& one : s.inner) bytes += constant_bytes(p, one);
  if (s.kind == StepKind::kConvolve || s.kind == StepKind::kPixels || s.kind == StepKind::kRow || s.kind == StepKind::kDepthwise)
    bytes += pack_product(p, s).bytes();
  if (s.kind == StepKind::kSoftmax) bytes += 1024;
  if (s.kind == StepKind::kLookUp) bytes += 256;
  if (s.kind == StepKind::kNorm)
    for (size_t i : {1, 2}) bytes += static_cast<int64_t>(p.graph[p.graph[s.node].inputs[i]].constant.bytes());
  return bytes;
}

FirmwareSize firmware_size(const McuProgram& p) {
  FirmwareSize size{.arena = p.arena_bytes};
  for (const McuStep& s : p.steps) size.weights += constant_bytes(p, s);
  for (const McuTensor& t : p.tensors)
    if (t.constant.defined()) size.weights += t.bytes();
  return size;
}

void check_budget(const McuProgram& p, const Device& device) {
  (void)processor_of(device);
  const int64_t memory = *device.limits.memory_bytes, flash = *device.limits.flash_bytes;
  const FirmwareSize size = firmware_size(p);
  if (size.arena + kStackBytes > memory) {
    int64_t most = -1;
    size_t peak = 0;
    for (size_t s = 0; s < p.steps.size(); ++s) {
      int64_t alive = p.steps[s].scratch_bytes;
      for (const McuTensor& t : p.tensors)
        if (t.view_of < 0 && !t.constant.defined() && t.first_step <= static_cast<int>(s) && static_cast<int>(s) <= t.last_step)
          alive += t.bytes();
      if (alive > most) most = alive, peak = s;
    }
    fail(ErrorKind::kBudget,
         "{}: the network needs {} bytes of SRAM ({} of arena, {} of stack), {} more than the {} there are; the most are alive at step {} "
         "('{}')",
         device.name, size.arena + kStackBytes, size.arena, kStackBytes, size.arena + kStackBytes - memory, memory, peak,
         p.steps[peak].name);
  }
  if (size.weights > flash)
    fail(ErrorKind::kBudget, "{}: the network's weights take {} bytes of flash, {} more than the {} there are", device.name, size.weights,
         size.weights - flash, flash);
}

}  // namespace lathe::mcu
