#include "tasks/classify.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/file.h"

namespace lathe {
namespace {

constexpr int64_t kMaxLabelBytes = 64 << 20;
constexpr size_t kMaxLabels = 1 << 20;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t end; (end = text.find(separator, at)) != std::string::npos; at = end + 1)
    parts.push_back(text.substr(at, end - at));
  parts.push_back(text.substr(at));
  return parts;
}

std::optional<size_t> index_in(const std::string& text) {
  size_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value >= kMaxLabels) return std::nullopt;
  return value;
}

std::string label_of(int64_t index, int64_t classes, const std::vector<std::string>& labels) {
  if (labels.empty()) return "";
  bool lacks_background = static_cast<int64_t>(labels.size()) + 1 == classes;
  if (lacks_background && index == 0) return "background";
  size_t at = index - (lacks_background ? 1 : 0);
  return at < labels.size() ? labels[at] : "";
}

}  // namespace

nlohmann::json to_json(const ClassScore& result) {
  return {{"index", result.index}, {"probability", result.probability}, {"label", result.label}};
}

std::vector<std::string> read_labels(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, kMaxLabelBytes);
  std::vector<std::string> lines = split(std::string(bytes.begin(), bytes.end()), '\n'), labels;
  for (std::string& line : lines)
    if (!line.empty() && line.back() == '\r') line.pop_back();
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  if (lines.empty()) fail(ErrorKind::kInput, "{}: holds no labels", path);
  if (lines.size() > kMaxLabels)
    fail(ErrorKind::kInput, "{}: has {} lines; at most {} labels are allowed", path, lines.size(), kMaxLabels);
  if (lines[0].find('\t') == std::string::npos) return lines;
  for (size_t i = 0; i < lines.size(); ++i) {
    std::vector<std::string> cells = split(lines[i], '\t');
    size_t column = 0;
    while (column < cells.size() && !index_in(cells[column])) ++column;
    if (column + 1 >= cells.size()) {
      if (i == 0) continue;  // a line of column titles
      fail(ErrorKind::kInput, "{}: line {} has no column with a class index before its last", path, i + 1);
    }
    size_t index = *index_in(cells[column]);
    if (labels.size() <= index) labels.resize(index + 1);
    labels[index] = cells[column + 1];
  }
  return labels;
}

std::string labels_beside(const std::string& model_path) { return std::filesystem::path(model_path).replace_extension(".labels.txt").string(); }

std::vector<float> probabilities(const std::vector<float>& scores) {
  double sum = 0;
  bool in_range = true;
  float largest = -INFINITY;
  for (float score : scores) {
    if (std::isnan(score)) fail(ErrorKind::kInput, "the network's output holds NaN: no class can be told");
    sum += score;
    in_range = in_range && score >= 0 && score <= 1;
    largest = std::max(largest, score);
  }
  if (in_range && std::fabs(sum - 1) < 0.01) return scores;
  if (!std::isfinite(largest))
    fail(ErrorKind::kInput, "the network's output holds infinities: no class can be told");
  std::vector<float> result(scores.size());
  double total = 0;
  for (float score : scores) total += std::exp(static_cast<double>(score) - largest);
  for (size_t i = 0; i < scores.size(); ++i)
    result[i] = static_cast<float>(std::exp(static_cast<double>(scores[i]) - largest) / total);
  return result;
}

std::vector<std::vector<ClassScore>> classify(const Tensor& scores, int64_t count,
                                              const std::vector<std::string>& labels) {
  const Shape& shape = scores.shape();
  int64_t batch = shape.size() > 1 ? shape[0] : 1;
  int64_t classes = shape.empty() ? 0 : shape[shape.size() > 1 ? 1 : 0];
  if (scores.size() == 0 || batch * classes != scores.size())
    fail(ErrorKind::kInput, "class scores must have the shape [N, classes], found {}", to_string(shape));
  if (count < 1) fail(ErrorKind::kUsage, "the number of classes to show must be 1 or more, found {}", count);
  std::vector<float> all = scores.to_f32();
  std::vector<std::vector<ClassScore>> results;
  for (int64_t n = 0; n < batch; ++n) {
    auto first = all.begin() + n * classes;
    std::vector<float> p = probabilities({first, first + classes});
    std::vector<int64_t> order(classes);
    std::iota(order.begin(), order.end(), 0);
    int64_t kept = std::min(count, classes);
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](int64_t a, int64_t b) {
      return p[a] != p[b] ? p[a] > p[b] : a < b;
    });
    auto& best = results.emplace_back();
    for (int64_t i = 0; i < kept; ++i)
      best.push_back({order[i], p[order[i]], label_of(order[i], classes, labels)});
  }
  return results;
}

}  // namespace lathe
