#include "planner/arena_picture.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"

namespace lathe {

std::string arena_svg(const std::vector<ArenaBox>& boxes, size_t step_count, int64_t arena_bytes, int64_t lower_bound) {
  constexpr double kWidth = 1000, kHeight = 500, kLeft = 70, kTop = 30;
  const auto steps = static_cast<double>(std::max<size_t>(step_count, 1)), arena = static_cast<double>(std::max<int64_t>(arena_bytes, 1));
  const auto amount = [](int64_t bytes) { return bytes < 1 << 20 ? fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024) : fmt::format("{:.2f} MiB", static_cast<double>(bytes) / 1048576); };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n"
      "<text x=\"{}\" y=\"18\">memory over time: arena {}, lower bound {}</text>\n",
      kWidth + kLeft + 20, kHeight + kTop + 40, kLeft, amount(arena_bytes), amount(lower_bound));
  int colour = 0;
  for (const ArenaBox& b : boxes) {
    const double x = kLeft + b.first_step / steps * kWidth, w = (b.last_step - b.first_step + 1) / steps * kWidth;
    const double h = static_cast<double>(b.bytes) / arena * kHeight, y = kTop + kHeight - static_cast<double>(b.offset) / arena * kHeight - h;
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"hsl({},60%,65%)\" stroke=\"#333\" "
                       "stroke-width=\"0.4\"><title>{} ({} bytes, steps {} to {})</title></rect>\n",
                       x, y, w, h, colour = (colour + 137) % 360, escape_markup(b.name), b.bytes, b.first_step, b.last_step);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\">step 0 to {}</text><text x=\"4\" y=\"{}\">{}</text><text x=\"4\" y=\"{}\">0</text>\n</svg>\n", kLeft, kHeight + kTop + 18, step_count, kTop + 10,
                     amount(arena_bytes), kHeight + kTop);
  return svg;
}

}  // namespace lathe
