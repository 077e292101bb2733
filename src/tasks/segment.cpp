#include "tasks/segment.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "formats/image.h"

namespace lathe {
namespace {

constexpr int64_t kMaxClass = 1 << 20;

}  // namespace

nlohmann::json to_json(const Segmentation& result, const std::vector<std::string>& labels) {
  std::map<int32_t, int64_t> counts;
  for (int32_t c : result.classes) ++counts[c];
  std::vector<std::pair<int32_t, int64_t>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  nlohmann::json parts = nlohmann::json::array();
  for (auto [c, count] : order) {
    std::string label = static_cast<size_t>(c) < labels.size() ? labels[c] : "";
    parts.push_back({{"class", c}, {"label", label},
                     {"share", static_cast<double>(count) / static_cast<double>(result.classes.size())}});
  }
  return {{"width", result.width}, {"height", result.height}, {"parts", parts}};
}

Segmentation segment(const Tensor& output) {
  const Shape& s = output.shape();
  bool scores = s.size() == 4 && s[0] == 1 && s[1] > 0;
  bool map = (s.size() == 2 || (s.size() == 3 && s[0] == 1)) && is_integer(output.dtype());
  if ((!scores && !map) || output.size() == 0)
    fail(ErrorKind::kUnsupported, "an output of shape {} and type {} is no segmentation; known are class maps "
         "[1, H, W] of integers and scores [1, C, H, W]", to_string(s), name_of(output.dtype()));
  int64_t height = s[s.size() - 2], width = s[s.size() - 1], pixels = height * width;
  if (width > kMaxPixels / height)
    fail(ErrorKind::kInput, "a segmentation of {} x {} pixels is over the limit", width, height);
  int64_t channels = scores ? s[1] : 1;
  Segmentation result{static_cast<int>(width), static_cast<int>(height), std::vector<int32_t>(pixels)};
  for (int64_t i = 0; i < pixels; ++i) {
    int64_t best = scores && channels > 1 ? 0 : output.get_int(i);
    // A single channel of scores holds the class itself (an ArgMax that kept its axis).
    if (channels > 1) {
      double top = output.get(i);
      for (int64_t c = 1; c < channels; ++c) {
        double value = output.get(c * pixels + i);
        if (value > top) {
          top = value;
          best = c;
        }
      }
    }
    if (best < 0 || best > kMaxClass)
      fail(ErrorKind::kInput, "the class map holds {}, which is no class", best);
    result.classes[i] = static_cast<int32_t>(best);
  }
  return result;
}

Segmentation resize(const Segmentation& map, int width, int height) {
  if (map.classes.empty() || width < 1 || height < 1 || int64_t{width} * height > kMaxPixels)
    fail(ErrorKind::kInput, "cannot resize a segmentation of {} x {} to {} x {}", map.width, map.height,
         width, height);
  Segmentation result{width, height, std::vector<int32_t>(size_t{1} * width * height)};
  for (int y = 0; y < height; ++y) {
    int from_y = static_cast<int>((y + 0.5) * map.height / height);
    for (int x = 0; x < width; ++x) {
      int from_x = static_cast<int>((x + 0.5) * map.width / width);
      result.classes[size_t{1} * y * width + x] = map.classes[size_t{1} * from_y * map.width + from_x];
    }
  }
  return result;
}

}  // namespace lathe
