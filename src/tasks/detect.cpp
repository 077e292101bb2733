#include "tasks/detect.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/box.h"

namespace lathe {
namespace {

// Suppression compares pairs: more boxes than this are cut to the best ones first.
constexpr size_t kMaxCandidates = 4096;

class Collector {
 public:
  explicit Collector(const DetectOptions& options) : options_(options) {}

  void add_corners(float x0, float y0, float x1, float y1, float score, int64_t class_index) {
    bool finite = std::isfinite(x0) && std::isfinite(y0) && std::isfinite(x1) && std::isfinite(y1);
    // Written so that a NaN score is refused.
    if (!(score >= options_.min_score) || !finite || x1 <= x0 || y1 <= y0) return;
    std::string label;
    if (class_index < static_cast<int64_t>(options_.labels.size())) label = options_.labels[class_index];
    boxes_.push_back({x0, y0, x1, y1, score, class_index, label});
  }
  void add_center(float x, float y, float w, float h, float score, int64_t class_index) {
    add_corners(x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, class_index);
  }
  std::vector<Detection> finish() {
    return suppress(std::move(boxes_), options_.max_overlap, options_.max_count);
  }

 private:
  const DetectOptions& options_;
  std::vector<Detection> boxes_;
};

// Index of the largest of `count` values that stand `step` apart.
int64_t best_of(const float* values, int64_t count, int64_t step) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i)
    if (values[i * step] > values[best * step]) best = i;
  return best;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

[[noreturn]] void wrong_shapes(const std::vector<Tensor>& outputs) {
  std::string shapes;
  for (const Tensor& t : outputs) shapes += (shapes.empty() ? "" : ", ") + to_string(t.shape());
  fail(ErrorKind::kUnsupported,
       "outputs of shapes {} are no known form of a detector's outputs; known are scores [1, N, C] with "
       "boxes [1, N, 4], [1, 5 + C, H, W], [1, N, 5 + C] and [1, 4 + C, N]", shapes);
}

bool is_row_form(const Shape& s, int64_t last_at_least) {
  return s.size() == 3 && s[0] == 1 && s[1] > 0 && s[2] >= last_at_least;
}

void decode_scores_boxes(const std::vector<Tensor>& outputs, Collector& collector) {
  // The boxes are the output with rows of 4; of two such, the second.
  bool swapped = outputs[1].shape()[2] != 4;
  std::vector<float> scores = outputs[swapped].to_f32(), boxes = outputs[!swapped].to_f32();
  int64_t count = outputs[swapped].shape()[1], classes = outputs[swapped].shape()[2];
  for (int64_t i = 0; i < count; ++i) {
    const float* row = &scores[i * classes];
    int64_t best = classes == 1 ? 0 : 1 + best_of(row + 1, classes - 1, 1);
    const float* box = &boxes[4 * i];
    // Background takes no index: the first real class is 0, as label files have it.
    collector.add_corners(box[0], box[1], box[2], box[3], row[best], std::max<int64_t>(best - 1, 0));
  }
}

// As published with FastestDet: score = objectness^0.6 · class^0.4, centre = (cell + tanh) / cells,
// size = sigmoid, all relative to the picture; the network itself ends in sigmoid and softmax.
void decode_fastest_det(const Tensor& output, Collector& collector) {
  std::vector<float> v = output.to_f32();
  size_t skip = output.shape().size() - 3;
  int64_t channels = output.shape()[skip], height = output.shape()[skip + 1], width = output.shape()[skip + 2];
  int64_t cells = height * width;
  for (int64_t cell = 0; cell < cells; ++cell) {
    auto at = [&](int64_t channel) { return v[channel * cells + cell]; };
    int64_t best = best_of(&v[5 * cells + cell], channels - 5, cells);
    float score = std::pow(at(0), 0.6f) * std::pow(at(5 + best), 0.4f);
    int64_t row = cell / width;
    float x = (static_cast<float>(cell % width) + std::tanh(at(1))) / static_cast<float>(width);
    float y = (static_cast<float>(row) + std::tanh(at(2))) / static_cast<float>(height);
    collector.add_center(x, y, sigmoid(at(3)), sigmoid(at(4)), score, best);
  }
}

// `rows`: each box is a row with an objectness; else each box is a column without one.
void decode_yolo(const Tensor& output, bool rows, const DetectOptions& options, Collector& collector) {
  if (options.input_width < 1 || options.input_height < 1)
    fail(ErrorKind::kUsage, "a YOLO detector's boxes need the size of the network's input");
  std::vector<float> v = output.to_f32();
  int64_t count = output.shape()[rows ? 1 : 2], fields = output.shape()[rows ? 2 : 1];
  int64_t box_step = rows ? fields : 1, field_step = rows ? 1 : count, first_class = rows ? 5 : 4;
  auto width = static_cast<float>(options.input_width), height = static_cast<float>(options.input_height);
  for (int64_t i = 0; i < count; ++i) {
    auto at = [&](int64_t field) { return v[i * box_step + field * field_step]; };
    int64_t best = best_of(&v[i * box_step + first_class * field_step], fields - first_class, field_step);
    float score = at(first_class + best) * (rows ? at(4) : 1.0f);
    collector.add_center(at(0) / width, at(1) / height, at(2) / width, at(3) / height, score, best);
  }
}

}  // namespace

nlohmann::json to_json(const Detection& d) {
  return {{"box", {d.x0, d.y0, d.x1, d.y1}}, {"score", d.score}, {"class", d.class_index},
          {"label", d.label}};
}

namespace {

std::optional<DetectorForm> form_of(const std::vector<Tensor>& outputs) {
  // A map of classes has such a shape too, but holds integers.
  for (const Tensor& t : outputs)
    if (!is_float(t.dtype())) return std::nullopt;
  if (outputs.size() == 2 && is_row_form(outputs[0].shape(), 1) && is_row_form(outputs[1].shape(), 1) &&
      outputs[0].shape()[1] == outputs[1].shape()[1] &&
      (outputs[0].shape()[2] == 4 || outputs[1].shape()[2] == 4))
    return DetectorForm::kScoresBoxes;
  if (outputs.size() != 1) return std::nullopt;
  const Shape& s = outputs[0].shape();
  if (s.size() == 4 && s[0] == 1 && s[1] > 5 && s[2] > 0 && s[3] > 0) return DetectorForm::kFastestDet;
  if (s.size() != 3) return std::nullopt;
  // [1, 84, 8400] against [1, 25200, 85]: there are always more boxes than fields. Without a batch, a
  // FastestDet grid is three sizes of more than 1.
  if (s[0] > 5 && s[1] > 0 && s[2] > 0) return DetectorForm::kFastestDet;
  if (is_row_form(s, 6) && s[1] >= s[2]) return DetectorForm::kYoloRows;
  if (is_row_form(s, 1) && s[1] >= 5) return DetectorForm::kYoloColumns;
  return std::nullopt;
}

}  // namespace

bool is_detector(const std::vector<Tensor>& outputs) { return form_of(outputs).has_value(); }

DetectorForm detector_form(const std::vector<Tensor>& outputs) {
  auto form = form_of(outputs);
  if (!form) wrong_shapes(outputs);
  return *form;
}

std::vector<Detection> detect(const std::vector<Tensor>& outputs, DetectorForm form,
                              const DetectOptions& options) {
  Collector collector(options);
  auto shape_of = [&](size_t i) { return outputs[i].shape(); };
  switch (form) {
    case DetectorForm::kScoresBoxes:
      if (outputs.size() != 2 || detector_form(outputs) != form) wrong_shapes(outputs);
      decode_scores_boxes(outputs, collector);
      break;
    case DetectorForm::kFastestDet: {
      if (outputs.size() != 1) wrong_shapes(outputs);
      Shape s = shape_of(0);
      if (s.size() == 4 && s[0] == 1) s.erase(s.begin());
      if (s.size() != 3 || s[0] < 6 || s[1] < 1 || s[2] < 1) wrong_shapes(outputs);
      decode_fastest_det(outputs[0], collector);
      break;
    }
    case DetectorForm::kYoloRows:
      if (outputs.empty() || !is_row_form(shape_of(0), 6)) wrong_shapes(outputs);
      decode_yolo(outputs[0], true, options, collector);
      break;
    case DetectorForm::kYoloColumns:
      if (outputs.empty() || !is_row_form(shape_of(0), 1) || shape_of(0)[1] < 5) wrong_shapes(outputs);
      decode_yolo(outputs[0], false, options, collector);
      break;
  }
  return collector.finish();
}

float overlap(const Detection& a, const Detection& b) { return overlap(Box{a.x0, a.y0, a.x1, a.y1}, Box{b.x0, b.y0, b.x1, b.y1}); }

std::vector<Detection> suppress(std::vector<Detection> boxes, float max_overlap, int64_t max_count) {
  std::stable_sort(boxes.begin(), boxes.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  if (boxes.size() > kMaxCandidates) boxes.erase(boxes.begin() + kMaxCandidates, boxes.end());
  std::vector<Detection> kept;
  for (Detection& box : boxes) {
    if (static_cast<int64_t>(kept.size()) >= max_count) break;
    bool covered = std::any_of(kept.begin(), kept.end(), [&](const Detection& k) {
      return k.class_index == box.class_index && overlap(k, box) > max_overlap;
    });
    if (!covered) kept.push_back(std::move(box));
  }
  return kept;
}

std::vector<Detection> to_picture(std::vector<Detection> boxes, const Preprocess& preprocess, int width,
                                  int height) {
  auto [x, y, w, h] = preprocess.visible_part(width, height);
  auto map = [](float value, double start, double length, int limit) {
    return static_cast<float>(std::clamp(start + value * length, 0.0, static_cast<double>(limit)));
  };
  for (Detection& d : boxes) {
    d.x0 = map(d.x0, x, w, width);
    d.x1 = map(d.x1, x, w, width);
    d.y0 = map(d.y0, y, h, height);
    d.y1 = map(d.y1, y, h, height);
  }
  return boxes;
}

}  // namespace lathe
