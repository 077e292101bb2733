// Bytes → array (.npy), and bytes → archive of arrays (.npz). Only lathe::Error may come out. What was read is written
// and read again to the same bytes.
#include <cstdlib>
#include <cstring>

#include "formats/npy.h"
#include "scratch.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch("arrays.npz");  // archives are read from files only
  try {
    Tensor tensor = parse_npy({data, size}, "fuzz");
    Tensor again = parse_npy(format_npy(tensor), "written");
    if (again.shape() != tensor.shape() || again.dtype() != tensor.dtype() ||
        (tensor.bytes() && std::memcmp(again.raw(), tensor.raw(), tensor.bytes()) != 0))
      std::abort();
  } catch (const Error&) {
  }
  if (size < 2 || data[0] != 'P' || data[1] != 'K') return 0;
  try {
    scratch.write({data, size});
    read_npz(scratch.path());
  } catch (const Error&) {
  }
  return 0;
}
