// How a picture becomes the input of a given network: what stands beside the model
// (MODEL.preprocess.json), else ImageNet's customary steps for the size that the input wants, changed by
// what the user says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "tasks/preprocess.h"

namespace lathe {

// What the user says; empty where nothing.
struct PreprocessChoices {
  std::string file;             // JSON instead of the one beside the model
  std::string colors, layout;   // "RGB", "BGR"; "NCHW", "NHWC"
  std::vector<float> mean, std; // one for all colours, or three
  std::optional<float> scale;
  int size = 0, resize = 0;     // side where the model leaves it open; shorter side before the crop
  bool stretch = false;
};

// `image` decides the size where neither model nor user does.
Preprocess preprocess_for(const std::string& model_path, const Value& input, const Image& image, const PreprocessChoices& choices);

}  // namespace lathe
