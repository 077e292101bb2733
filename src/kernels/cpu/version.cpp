#include <dnnl.hpp>

#include "kernels/kernel.h"

namespace lathe {

std::string kernel_build() {
  const dnnl_version_t* v = dnnl::version();
  return fmt::format("{}, oneDNN {}.{}.{}", LATHE_KERNEL_SOURCES, v->major, v->minor, v->patch);
}

}  // namespace lathe
