#include "models/ssd.h"

#include <cmath>

#include "core/error.h"

namespace lathe {
namespace {

struct Form {
  double scale, ratio;
};

std::vector<std::vector<Form>> forms_of(size_t maps, const AnchorOptions& o) {
  if (!(o.smallest > 0 && o.largest >= o.smallest)) fail(ErrorKind::kUsage, "anchors with scales {} to {}", o.smallest, o.largest);
  for (double ratio : o.ratios)
    if (!(ratio > 0)) fail(ErrorKind::kUsage, "anchors with ratio {}", ratio);
  if (o.height < 1 || o.width < 1) fail(ErrorKind::kUsage, "anchors of a picture of {}x{}", o.height, o.width);
  const auto scale = [&](size_t i) { return i == maps ? 1.0 : maps == 1 ? o.smallest : o.smallest + (o.largest - o.smallest) * static_cast<double>(i) / static_cast<double>(maps - 1); };
  std::vector<std::vector<Form>> all(maps);
  for (size_t i = 0; i < maps; ++i) {
    if (i == 0 && o.few_in_first) {
      all[0] = {{0.1, 1}, {scale(0), 2}, {scale(0), 0.5}};
      continue;
    }
    for (double ratio : o.ratios) all[i].push_back({scale(i), ratio});
    if (o.between) all[i].push_back({std::sqrt(scale(i) * scale(i + 1)), 1});
  }
  return all;
}

struct Centred {
  float x, y, w, h;
};
Centred centred(const Box& b) { return {(b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, b.x1 - b.x0, b.y1 - b.y0}; }

}  // namespace

std::vector<int64_t> anchors_per_cell(size_t maps, const AnchorOptions& options) {
  std::vector<int64_t> counts;
  for (const std::vector<Form>& forms : forms_of(maps, options)) counts.push_back(static_cast<int64_t>(forms.size()));
  return counts;
}

std::vector<Box> grid_anchors(const std::vector<std::array<int64_t, 2>>& maps, const AnchorOptions& options) {
  const std::vector<std::vector<Form>> forms = forms_of(maps.size(), options);
  const double shorter = static_cast<double>(std::min(options.height, options.width));
  const double tall = shorter / static_cast<double>(options.height), wide = shorter / static_cast<double>(options.width);
  std::vector<Box> anchors;
  for (size_t i = 0; i < maps.size(); ++i) {
    const auto [rows, columns] = maps[i];
    if (rows < 1 || columns < 1) fail(ErrorKind::kUsage, "anchors on a map of {}x{}", rows, columns);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        for (const Form& f : forms[i]) {
          const double y = (static_cast<double>(row) + 0.5) / static_cast<double>(rows), x = (static_cast<double>(column) + 0.5) / static_cast<double>(columns);
          const double h = f.scale / std::sqrt(f.ratio) * tall, w = f.scale * std::sqrt(f.ratio) * wide;
          anchors.push_back({static_cast<float>(x - w / 2), static_cast<float>(y - h / 2), static_cast<float>(x + w / 2), static_cast<float>(y + h / 2)});
        }
  }
  return anchors;
}

BoxCode encode_box(const Box& box, const Box& anchor) {
  constexpr float kNotNought = 1e-8f;
  const Centred b = centred(box), a = centred(anchor);
  const float w = a.w + kNotNought, h = a.h + kNotNought;
  return {kCentreScale * (b.y - a.y) / h, kCentreScale * (b.x - a.x) / w, kSizeScale * std::log((b.h + kNotNought) / h), kSizeScale * std::log((b.w + kNotNought) / w)};
}

Box decode_box(const BoxCode& code, const Box& anchor) {
  const Centred a = centred(anchor);
  const float h = std::exp(std::min(code[2] / kSizeScale, kLargestLogSize)) * a.h, w = std::exp(std::min(code[3] / kSizeScale, kLargestLogSize)) * a.w;
  const float y = code[0] / kCentreScale * a.h + a.y, x = code[1] / kCentreScale * a.w + a.x;
  return {x - w / 2, y - h / 2, x + w / 2, y + h / 2};
}

std::vector<int64_t> match_anchors(const std::vector<Box>& anchors, const std::vector<Box>& boxes, float least) {
  std::vector<int64_t> owner(anchors.size(), -1), taker(anchors.size(), -1);
  std::vector<float> most(anchors.size(), 0);
  for (size_t k = 0; k < boxes.size(); ++k) {
    const Box& b = boxes[k];
    if (!(std::isfinite(b.x0) && std::isfinite(b.y0) && std::isfinite(b.x1) && std::isfinite(b.y1)))
      fail(ErrorKind::kInput, "box {} is ({}, {}, {}, {}): expected finite numbers", k, b.x0, b.y0, b.x1, b.y1);
    size_t best = 0;
    float best_overlap = 0;
    for (size_t i = 0; i < anchors.size(); ++i) {
      const float o = overlap(anchors[i], b);
      if (o > best_overlap) {
        best_overlap = o;
        best = i;
      }
      if (o > most[i]) {
        most[i] = o;
        owner[i] = o >= least ? static_cast<int64_t>(k) : -1;
      }
    }
    if (best_overlap > 0 && taker[best] < 0) taker[best] = static_cast<int64_t>(k);
  }
  for (size_t i = 0; i < anchors.size(); ++i)
    if (taker[i] >= 0) owner[i] = taker[i];
  return owner;
}

}  // namespace lathe
