// Detection: from a network's raw outputs to boxes. Coordinates are relative, 0 … 1 over the network's
// input, until to_picture() maps them to pixels of the picture.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "tasks/preprocess.h"

namespace lathe {

struct Detection {
  float x0, y0, x1, y1;  // corners: left, top, right, bottom
  float score;
  int64_t class_index;
  std::string label;  // "" without a label file
};
nlohmann::json to_json(const Detection& result);

// The forms of outputs that are understood.
enum class DetectorForm {
  kScoresBoxes,  // scores [1, N, C] (class 0 is background) and boxes [1, N, 4], corners in 0 … 1
  kFastestDet,   // [1, 5 + C, H, W] or [5 + C, H, W]: objectness, 4 box values, C class probabilities a cell
  kYoloRows,     // [1, N, 5 + C]: centre, size, objectness, classes; YOLOv5's form
  kYoloColumns,  // [1, 4 + C, N]: centre, size, classes; YOLOv8's form
};

struct DetectOptions {
  float min_score = 0.4f;
  float max_overlap = 0.45f;  // intersection over union above which the weaker box goes
  int64_t max_count = 100;
  // Width and height of the network's input: YOLO's boxes are in its pixels.
  int64_t input_width = 0, input_height = 0;
  std::vector<std::string> labels;
};

// Tells the form by number, types (floats) and shapes of the outputs. Throws kUnsupported when it is none of them.
DetectorForm detector_form(const std::vector<Tensor>& outputs);
bool is_detector(const std::vector<Tensor>& outputs);

// Decodes, keeps boxes above the minimum score, suppresses overlaps a class at a time; best first.
std::vector<Detection> detect(const std::vector<Tensor>& outputs, DetectorForm form,
                              const DetectOptions& options);

// Greedy non-maximum suppression among boxes of the same class.
std::vector<Detection> suppress(std::vector<Detection> boxes, float max_overlap, int64_t max_count);
float overlap(const Detection& a, const Detection& b);  // intersection over union

// Pixels of the picture instead of relative coordinates, cut off at its edges.
std::vector<Detection> to_picture(std::vector<Detection> boxes, const Preprocess& preprocess, int width,
                                  int height);

}  // namespace lathe
