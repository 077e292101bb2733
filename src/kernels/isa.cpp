#include "kernels/isa.h"

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/cpu/bit_counts.h"
#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {
namespace {

std::string lower_name(int64_t target) {
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

// Best first: better ones have lower bits.
std::vector<int64_t> targets() {
  hwy::SetSupportedTargetsForTest(0);
  std::vector<int64_t> list;
  for (int64_t rest = hwy::SupportedTargets() & HWY_TARGETS; rest; rest &= rest - 1) list.push_back(rest & -rest);
  return list;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (int64_t target : targets()) names.push_back(lower_name(target));
  return names;
}

void force_isa(std::string_view name) {
  const std::vector<int64_t> all = targets();
  auto found = std::find_if(all.begin(), all.end(), [&](int64_t t) { return lower_name(t) == name; });
  if (found == all.end() && !name.empty()) {
    std::string known;
    for (int64_t t : all) known += (known.empty() ? "" : ", ") + lower_name(t);
    fail(ErrorKind::kUsage, "instruction set '{}' is not available here; there are {}", name, known);
  }
  int64_t mask = 0;  // this one and all below it
  for (auto t = found; t != all.end(); ++t) mask |= *t;
  hwy::SetSupportedTargetsForTest(name.empty() ? 0 : mask);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  const bool wide = name.empty() || name.starts_with("avx3");
  allow_bf16_instructions(wide);
  allow_vnni_instructions(wide);
  allow_bit_counts(wide);
  // Once oneDNN is loaded its own choice stands.
  if (!wide) limit_onednn(name == "avx2" ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_sse41);
}

void force_isa_from_environment() {
  if (const char* name = std::getenv("LATHE_ISA"); name && *name) force_isa(name);
}

}  // namespace lathe
