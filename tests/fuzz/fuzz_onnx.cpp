// Bytes → model: from a file for inspection (large tensors stay in the file, and there may be external data beside it),
// and from memory to be run. Only lathe::Error may come out. What is read is inspected, planned and run by fuzz_plan.
#include "formats/onnx.h"
#include "scratch.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch("model.onnx", {{"weights.bin", std::string(8192, '\x3f')}});
  try {
    scratch.write({data, size});
    import_onnx(scratch.path(), {.allow_unknown = true});
  } catch (const Error&) {
  }
  try {
    import_onnx_bytes({reinterpret_cast<const char*>(data), size}, scratch.folder());
  } catch (const Error&) {
  }
  return 0;
}
