// Bytes → picture, and → map of labels. Only lathe::Error may come out.
#include "formats/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    lathe::decode_image({data, size}, "fuzz");
  } catch (const lathe::Error&) {
  }
  try {
    lathe::decode_label_map({data, size}, "fuzz");
  } catch (const lathe::Error&) {
  }
  return 0;
}
