#include "tasks/input.h"

#include <algorithm>
#include <filesystem>

namespace lathe {
namespace {

// Height and width that the input wants; 0 where they are open.
std::pair<int, int> wanted_size(const Value& input, bool last) {
  if (!input.shape || input.shape->size() != 4) return {0, 0};
  const Shape& s = *input.shape;
  auto at = [&](size_t i) { return static_cast<int>(std::max<int64_t>(s[i], 0)); };
  return last ? std::pair{at(1), at(2)} : std::pair{at(2), at(3)};
}

}  // namespace

Preprocess preprocess_for(const std::string& model_path, const Value& input, const Image& image, const PreprocessChoices& o) {
  bool last = o.layout == "NHWC" || (o.layout.empty() && input.shape && input.shape->size() == 4 && (*input.shape)[3] == 3 && (*input.shape)[1] != 3);
  auto [height, width] = wanted_size(input, last);
  if (o.size) height = width = o.size;
  // A fully convolutional network: the picture as it is, in multiples of the usual stride of 32.
  if (!height) height = std::max(image.height / 32, 1) * 32;
  if (!width) width = std::max(image.width / 32, 1) * 32;
  bool open = !wanted_size(input, last).first && !o.size;
  Preprocess p = o.stretch || open ? Preprocess::stretch(width, height) : Preprocess::imagenet(width, height);
  if (open) { p.mean = {0.485f, 0.456f, 0.406f}; p.std = {0.229f, 0.224f, 0.225f}; }
  std::string beside = o.file.empty() ? Preprocess::path_beside(model_path) : o.file;
  if (!o.file.empty() || std::filesystem::exists(beside)) p = Preprocess::read(beside);
  if (last) p.layout = Preprocess::Layout::kNHWC;
  if (o.layout == "NCHW") p.layout = Preprocess::Layout::kNCHW;
  if (o.resize) { p.resize_shorter = o.resize; p.resize_width = p.resize_height = 0; }
  auto triple = [](const std::vector<float>& v, std::array<float, 3>& to) {
    if (v.size() == 2) fail(ErrorKind::kUsage, "mean and standard deviation take one value or three, found two");
    if (v.size() == 1) to.fill(v[0]);
    if (v.size() == 3) std::copy(v.begin(), v.end(), to.begin());
  };
  triple(o.mean, p.mean);
  triple(o.std, p.std);
  if (o.scale) p.scale = *o.scale;
  if (!o.colors.empty()) p.colors = o.colors == "BGR" ? Preprocess::Colors::kBGR : Preprocess::Colors::kRGB;
  return p;
}

}  // namespace lathe
