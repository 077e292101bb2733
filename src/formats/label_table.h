// Tables of what is known of files, one a line: FILE<TAB>CLASS[<TAB>…], or FILE<TAB>CLASS<TAB>X0<TAB>Y0<TAB>X1<TAB>Y1 of boxes in pixels. A
// first line whose class is no number is a heading.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lathe {

struct LabelRow {
  std::string file;
  int64_t label;
  std::optional<std::array<float, 4>> box;  // x0, y0, x1, y1; in all rows or in none
};
// At least one row. Throws kInput, naming the line.
std::vector<LabelRow> read_label_table(const std::string& path);

}  // namespace lathe
