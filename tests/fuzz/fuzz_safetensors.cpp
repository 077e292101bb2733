// Bytes → named tensors. Only lathe::Error may come out. What was read is written and read again to the same.
#include <cstdlib>
#include <cstring>

#include "formats/safetensors.h"
#include "scratch.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch("written.safetensors");
  Safetensors read;
  try {
    read = parse_safetensors({data, size}, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  write_safetensors(scratch.path(), read);
  Safetensors again = read_safetensors(scratch.path());
  if (again.metadata != read.metadata || again.tensors.size() != read.tensors.size()) std::abort();
  for (const auto& [name, t] : read.tensors) {
    const Tensor& b = again.tensors.at(name);
    if (b.shape() != t.shape() || b.dtype() != t.dtype() || (t.bytes() && std::memcmp(b.unaligned(), t.unaligned(), t.bytes()) != 0)) std::abort();
  }
  return 0;
}
