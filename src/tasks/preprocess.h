// From a picture to a network's input tensor. The steps, in this order: resize, crop at the centre, order
// of colours, value = (pixel * scale - mean) / std, layout. Kept beside the model as MODEL.preprocess.json:
//
//   {"resize": 256, "crop": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
//    "scale": 0.00392156862745098, "layout": "NCHW", "colors": "RGB", "interpolation": "bilinear"}
#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/tensor.h"
#include "formats/image.h"

namespace lathe {

struct Preprocess {
  enum class Layout { kNCHW, kNHWC };
  enum class Colors { kRGB, kBGR };
  // kBilinear widens its triangle filter when it makes a picture smaller, as Pillow does.
  enum class Interpolation { kBilinear, kNearest };

  int resize_shorter = 0;  // the shorter side becomes this, the proportions stay; 0: see next
  int resize_width = 0, resize_height = 0;  // exact size, proportions given up; 0: no resize
  int crop_width = 0, crop_height = 0;      // centre crop; 0: none
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f};  // in the order R, G, B whatever `colors` says
  std::array<float, 3> std{0.229f, 0.224f, 0.225f};
  float scale = 1.0f / 255.0f;
  Layout layout = Layout::kNCHW;
  Colors colors = Colors::kRGB;
  Interpolation interpolation = Interpolation::kBilinear;

  // ImageNet's customary steps for an input of this size: the shorter side to 256/224 of the crop.
  static Preprocess imagenet(int width, int height);
  // The whole picture stretched to the size; values in 0 … 1.
  static Preprocess stretch(int width, int height);

  static Preprocess from_json(const nlohmann::json& json, const std::string& name);
  nlohmann::json to_json() const;
  static Preprocess read(const std::string& path);
  void write(const std::string& path) const;
  static std::string path_beside(const std::string& model_path);  // "m.onnx" → "m.preprocess.json"

  // One line of text, for people.
  std::string describe() const;
  // f32 of shape [1, 3, H, W] or [1, H, W, 3].
  Tensor apply(const Image& image) const;
  // The part of the picture that apply() shows to the network, in pixels of the picture: x, y, width,
  // height. Relative coordinates in an output of the network map back through it.
  std::array<double, 4> visible_part(int image_width, int image_height) const;
};

Image resize(const Image& image, int width, int height,
             Preprocess::Interpolation interpolation = Preprocess::Interpolation::kBilinear);
// The same bilinear resize of planes [planes, height, width] to [planes, to_height, to_width], all sizes of at least 1.
void resize_planes(const uint8_t* from, int64_t planes, int height, int width, uint8_t* to, int to_height, int to_width);
Image center_crop(const Image& image, int width, int height);

}  // namespace lathe
