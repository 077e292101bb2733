#define LATHE_ONEDNN_LIBRARY_ITSELF
#include "kernels/cpu/onednn_library.h"

#include <dlfcn.h>
#include <dnnl_config.h>

#include <string>

#include "kernels/kernel.h"

namespace lathe {
namespace {

dnnl_cpu_isa_t limit = dnnl_cpu_isa_all;

// The interface's version is part of the name: another one has other structures.
const std::string kName = "libdnnl.so." + std::to_string(DNNL_VERSION_MAJOR);

struct Library {
  OneDnnFunctions functions;
  std::string complaint;

  Library() {
    void* handle = ::dlopen(kName.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      const char* reason = ::dlerror();
      complaint = reason ? reason : kName + " cannot be loaded";
      return;
    }
    auto find = [&](const char* name) {
      void* symbol = ::dlsym(handle, name);
      if (!symbol) complaint = kName + " has no " + name;
      return symbol;
    };
#define LATHE_ONEDNN_FIND(name) functions.name = reinterpret_cast<decltype(&::name)>(find(#name));
    LATHE_ONEDNN_FUNCTIONS(LATHE_ONEDNN_FIND)
#undef LATHE_ONEDNN_FIND
    if (!complaint.empty()) return;
    if (limit != dnnl_cpu_isa_all) functions.dnnl_set_max_cpu_isa(limit);
    // Telling profilers of every kernel that it makes takes oneDNN a tenth of the time to make it.
    functions.dnnl_set_jit_profiling_flags(0);
  }
};

const Library& library() {
  static const Library loaded;  // never unloaded: kernels of it may outlive anything
  return loaded;
}

}  // namespace

const OneDnnFunctions& onednn() {
  const Library& l = library();
  if (!l.complaint.empty()) throw LibraryMissing(l.complaint);
  return l.functions;
}

bool onednn_available() { return library().complaint.empty(); }
void limit_onednn(dnnl_cpu_isa_t isa) { limit = isa; }

}  // namespace lathe
