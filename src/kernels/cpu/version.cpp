#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {

std::string kernel_build() {
  if (!onednn_available()) return fmt::format("{}, without oneDNN", LATHE_KERNEL_SOURCES);
  const dnnl_version_t* v = dnnl::version();
  return fmt::format("{}, oneDNN {}.{}.{}", LATHE_KERNEL_SOURCES, v->major, v->minor, v->patch);
}

}  // namespace lathe
