// Bytes → Pascal VOC's XML, and → COCO's JSON. Only lathe::Error may come out, and only boxes with an area and a class.
#include <cmath>
#include <cstdlib>

#include "formats/annotations.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    for (const VocPicture::Object& o : parse_voc({data, size}, "fuzz").objects)
      if (!(o.x1 > o.x0 && o.y1 > o.y0) || o.name.empty()) std::abort();
  } catch (const Error&) {
  }
  try {
    CocoFile coco = parse_coco({data, size}, "fuzz");
    for (const CocoFile::Picture& p : coco.pictures)
      for (const TrueBox& b : p.boxes)
        if (!std::isfinite(b.x1) || !std::isfinite(b.y1) || b.class_index < 0 || b.class_index >= static_cast<int64_t>(coco.classes.size())) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
