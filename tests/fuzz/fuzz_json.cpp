// Bytes → JSON → preprocessing steps, and → description of a device: the side files that a user may be sent with a
// model. Only lathe::Error may come out. What was read is written and read again to the same.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/device.h"
#include "core/json.h"
#include "tasks/preprocess.h"

using namespace lathe;

namespace {

void preprocess(const nlohmann::json& json) {
  Preprocess steps = Preprocess::from_json(json, "fuzz");
  if (steps.describe().empty() || Preprocess::from_json(steps.to_json(), "written").to_json() != steps.to_json()) std::abort();
  constexpr int kWidth = 5, kHeight = 3;
  if (std::max({steps.resize_shorter, steps.resize_width, steps.resize_height, steps.crop_width, steps.crop_height}) > 64) return;
  Image picture{kWidth, kHeight, std::vector<uint8_t>(size_t{3} * kWidth * kHeight)};
  std::iota(picture.rgb.begin(), picture.rgb.end(), uint8_t{0});
  steps.visible_part(kWidth, kHeight);
  steps.apply(picture);
}

void device(const nlohmann::json& json) {
  Device read = device_from_json(json, "fuzz");
  if (device_from_json(to_json(read), "written") != read) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (auto* use : {preprocess, device}) {
    try {
      use(parse_json({data, size}, "fuzz"));
    } catch (const Error&) {
    }
  }
  return 0;
}
