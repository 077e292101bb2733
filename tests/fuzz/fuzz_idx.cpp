// Bytes → IDX array, plain or in gzip, and → CIFAR's rows of either kind. Only lathe::Error may come out.
#include <cstdlib>

#include "formats/idx.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    Tensor t = parse_idx({data, size}, "fuzz");
    t.clone();  // reads all elements
  } catch (const Error&) {
  }
  for (int64_t classes : {10, 100}) {
    try {
      CifarRows rows = parse_cifar({data, size}, classes, "fuzz");
      for (int64_t label : rows.labels)
        if (label < 0 || label >= classes) std::abort();
      if (static_cast<int64_t>(rows.labels.size()) != rows.pictures.dim(0)) std::abort();
    } catch (const Error&) {
    }
  }
  return 0;
}
