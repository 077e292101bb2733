#include "tasks/text.h"

#include <algorithm>

namespace lathe {

bool is_text_map(const Tensor& output) {
  const Shape& s = output.shape();
  if (output.dtype() != DType::kF32 || s.size() != 4 || s[0] != 1 || s[1] != 1 || s[2] < 8 || s[3] < 8) return false;
  const float* p = output.data<float>();
  return std::all_of(p, p + output.size(), [](float x) { return x >= 0 && x <= 1; });
}

std::vector<Detection> text_regions(const Tensor& map, const TextOptions& options) {
  if (!is_text_map(map)) fail(ErrorKind::kInput, "expected a probability map [1, 1, H, W], found {}", to_string(map.shape()));
  int64_t height = map.shape()[2], width = map.shape()[3];
  const float* p = map.data<float>();
  std::vector<bool> seen(static_cast<size_t>(height * width), false);
  std::vector<Detection> found;
  std::vector<int64_t> stack;
  for (int64_t start = 0; start < height * width; ++start) {
    if (seen[start] || p[start] <= options.threshold) continue;
    // Flood fill of one region, eight neighbours.
    int64_t x0 = width, x1 = 0, y0 = height, y1 = 0, area = 0;
    double sum = 0;
    seen[start] = true;
    stack = {start};
    while (!stack.empty()) {
      int64_t at = stack.back(), y = at / width, x = at % width;
      stack.pop_back();
      ++area;
      sum += p[at];
      x0 = std::min(x0, x); x1 = std::max(x1, x + 1);
      y0 = std::min(y0, y); y1 = std::max(y1, y + 1);
      for (int64_t ny = std::max<int64_t>(y - 1, 0); ny <= std::min(y + 1, height - 1); ++ny)
        for (int64_t nx = std::max<int64_t>(x - 1, 0); nx <= std::min(x + 1, width - 1); ++nx) {
          int64_t next = ny * width + nx;
          if (seen[next] || p[next] <= options.threshold) continue;
          seen[next] = true;
          stack.push_back(next);
        }
    }
    auto score = static_cast<float>(sum / static_cast<double>(area));
    if (score < options.min_score || std::min(x1 - x0, y1 - y0) < options.min_side) continue;
    auto w = static_cast<float>(x1 - x0), h = static_cast<float>(y1 - y0);
    float grow = w * h * options.unclip / (2 * (w + h));
    auto relative = [](float at, int64_t size) { return std::clamp(at / static_cast<float>(size), 0.0f, 1.0f); };
    found.push_back({relative(static_cast<float>(x0) - grow, width), relative(static_cast<float>(y0) - grow, height),
                     relative(static_cast<float>(x1) + grow, width), relative(static_cast<float>(y1) + grow, height), score, 0, "text"});
  }
  std::stable_sort(found.begin(), found.end(), [](const Detection& a, const Detection& b) { return a.y0 < b.y0; });
  return found;
}

}  // namespace lathe
