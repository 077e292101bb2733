// Text regions from the probability map of a segmentation-style text detector (DBNet: Liao et al. 2020,
// "Real-time scene text detection with differentiable binarization"; PP-OCR's detectors are of this kind).
#pragma once

#include "tasks/detect.h"

namespace lathe {

struct TextOptions {
  float threshold = 0.3f;  // of a pixel
  float min_score = 0.6f;  // mean probability inside a region
  float unclip = 1.5f;     // regions are trained shrunken: they grow by area·unclip/perimeter (section 3.4)
  int min_side = 3;        // pixels of the map
};

// Whether an output is such a map: f32 [1, 1, H, W] with values in 0 … 1.
bool is_text_map(const Tensor& output);
// Axis-aligned boxes, corners in 0 … 1 of the map's size, from top to bottom.
std::vector<Detection> text_regions(const Tensor& map, const TextOptions& options = {});

}  // namespace lathe
