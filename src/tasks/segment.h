// Segmentation: a class for every pixel.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

struct Segmentation {
  int width = 0, height = 0;
  std::vector<int32_t> classes;  // height × width
};
// Size and the share of pixels of each class that occurs, largest first.
nlohmann::json to_json(const Segmentation& result, const std::vector<std::string>& labels = {});

// From a class map [1, H, W] or [H, W] of integers, or from scores [1, C, H, W] by the largest.
Segmentation segment(const Tensor& output);
// The nearest class for each pixel of another size.
Segmentation resize(const Segmentation& map, int width, int height);

}  // namespace lathe
