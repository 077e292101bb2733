#include "formats/label_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/file.h"
#include "formats/picture_folder.h"

namespace lathe {
namespace {

constexpr int64_t kMaxLabelFile = 64 << 20;

std::optional<float> finite_number(std::string_view text) {
  float value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::vector<std::string_view> cells_of(std::string_view row) {
  std::vector<std::string_view> cells;
  for (size_t at = 0; at <= row.size();) {
    size_t end = std::min(row.find('\t', at), row.size());
    cells.push_back(row.substr(at, end - at));
    at = end + 1;
  }
  return cells;
}

}  // namespace

std::vector<LabelRow> read_label_table(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, kMaxLabelFile);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<LabelRow> rows;
  for (size_t at = 0, line = 1; at < text.size(); ++line) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view row = text.substr(at, end - at);
    at = end + 1;
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    if (row.empty()) continue;
    std::vector<std::string_view> cells = cells_of(row);
    std::optional<int64_t> label = cells.size() > 1 ? whole_number(cells[1]) : std::nullopt;
    if (!label && line == 1) continue;
    if (!label)
      fail(ErrorKind::kInput, "{}, line {}: expected FILE<tab>CLASS with a class index, found '{}'", path, line, row.substr(0, 80));
    LabelRow r{std::string(cells[0]), *label, std::nullopt};
    if (cells.size() >= 6) {
      std::array<float, 4> box{};
      bool numbers = true;
      for (size_t i = 0; i < 4; ++i) {
        std::optional<float> x = finite_number(cells[2 + i]);
        numbers = numbers && x;
        box[i] = x.value_or(0);
      }
      if (numbers && (box[2] <= box[0] || box[3] <= box[1])) fail(ErrorKind::kInput, "{}, line {}: the box has no area", path, line);
      if (numbers) r.box = box;
    }
    if (!rows.empty() && rows[0].box.has_value() != r.box.has_value())
      fail(ErrorKind::kInput, "{}, line {}: {} box, other lines {}", path, line, r.box ? "a" : "no", r.box ? "none" : "one");
    rows.push_back(std::move(r));
  }
  if (rows.empty()) fail(ErrorKind::kInput, "{} holds no label", path);
  return rows;
}

}  // namespace lathe
