#include "tasks/draw.h"

#include <algorithm>
#include <cmath>

namespace lathe {
namespace {

constexpr int kGlyphWidth = 5, kGlyphHeight = 7, kAdvance = 6;

// Drawn for lathe: the printable characters from ' ' to '~', seven rows each from the top, the leftmost
// pixel in bit 4.
constexpr uint8_t kFont[95][kGlyphHeight] = {
    {0,0,0,0,0,0,0}, {4,4,4,4,4,0,4}, {10,10,0,0,0,0,0}, {10,10,31,10,31,10,10},
    {4,15,20,14,5,30,4}, {24,25,2,4,8,19,3}, {12,18,20,8,21,18,13}, {4,4,0,0,0,0,0},
    {2,4,8,8,8,4,2}, {8,4,2,2,2,4,8}, {0,21,14,31,14,21,0}, {0,4,4,31,4,4,0}, {0,0,0,0,4,4,8},
    {0,0,0,31,0,0,0}, {0,0,0,0,0,0,8}, {1,1,2,4,8,16,16}, {14,17,19,21,25,17,14},
    {4,12,4,4,4,4,14}, {14,17,1,2,4,8,31}, {30,1,1,14,1,1,30}, {2,6,10,18,31,2,2},
    {31,16,30,1,1,17,14}, {14,16,16,30,17,17,14}, {31,1,2,4,4,8,8}, {14,17,17,14,17,17,14},
    {14,17,17,15,1,1,14}, {0,4,0,0,0,4,0}, {0,4,0,0,4,4,8}, {2,4,8,16,8,4,2}, {0,0,31,0,31,0,0},
    {8,4,2,1,2,4,8}, {14,17,1,6,4,0,4}, {14,17,23,21,23,16,14}, {4,10,17,17,31,17,17},
    {30,17,17,30,17,17,30}, {14,17,16,16,16,17,14}, {30,17,17,17,17,17,30},
    {31,16,16,30,16,16,31}, {31,16,16,30,16,16,16}, {14,17,16,19,17,17,14},
    {17,17,17,31,17,17,17}, {14,4,4,4,4,4,14}, {7,2,2,2,2,18,12}, {17,18,20,24,20,18,17},
    {16,16,16,16,16,16,31}, {17,27,21,21,17,17,17}, {17,25,21,21,19,17,17},
    {14,17,17,17,17,17,14}, {30,17,17,30,16,16,16}, {14,17,17,17,21,18,13},
    {30,17,17,30,20,18,17}, {15,16,16,14,1,1,30}, {31,4,4,4,4,4,4}, {17,17,17,17,17,17,14},
    {17,17,17,17,10,10,4}, {17,17,17,21,21,27,17}, {17,17,10,4,10,17,17}, {17,17,10,4,4,4,4},
    {31,1,2,4,8,16,31}, {14,8,8,8,8,8,14}, {16,16,8,4,2,1,1}, {14,2,2,2,2,2,14},
    {4,10,17,0,0,0,0}, {0,0,0,0,0,0,31}, {8,4,0,0,0,0,0}, {0,0,14,1,15,17,15},
    {16,16,30,17,17,17,30}, {0,0,15,16,16,16,15}, {1,1,15,17,17,17,15}, {0,0,14,17,31,16,14},
    {6,8,30,8,8,8,8}, {0,15,17,17,15,1,14}, {16,16,30,17,17,17,17}, {4,0,12,4,4,4,14},
    {2,0,6,2,2,18,12}, {16,16,18,20,24,20,18}, {12,4,4,4,4,4,14}, {0,0,26,21,21,21,21},
    {0,0,30,17,17,17,17}, {0,0,14,17,17,17,14}, {0,30,17,17,30,16,16}, {0,15,17,17,15,1,1},
    {0,0,22,24,16,16,16}, {0,0,15,16,14,1,30}, {8,8,30,8,8,8,6}, {0,0,17,17,17,17,15},
    {0,0,17,17,17,10,4}, {0,0,17,21,21,21,10}, {0,0,17,10,4,10,17}, {0,17,17,17,15,1,14},
    {0,0,31,2,4,8,31}, {3,4,4,8,4,4,3}, {4,4,4,4,4,4,4}, {12,2,2,1,2,2,12}, {0,0,8,21,2,0,0},
};

}  // namespace

// Hues a golden ratio of the circle apart never come close together among neighbouring indices.
Color class_color(int64_t class_index) {
  double hue = std::fmod(static_cast<double>(class_index) * 0.618033988749895 + 0.33, 1.0) * 6.0;
  Color color;
  for (int c = 0; c < 3; ++c) {
    double k = std::fmod(5.0 - 2.0 * c + hue, 6.0);  // the closed form of HSV, value 1, saturation 0.75
    double level = 1.0 - 0.75 * std::clamp(std::min(k, 4.0 - k), 0.0, 1.0);
    color[c] = static_cast<uint8_t>(std::lround(level * 255.0));
  }
  return color;
}

void fill_rectangle(Image& image, int x, int y, int width, int height, Color color) {
  // In 64 bits: boxes may lie far outside.
  auto x1 = static_cast<int>(std::min<int64_t>(int64_t{x} + width, image.width));
  auto y1 = static_cast<int>(std::min<int64_t>(int64_t{y} + height, image.height));
  for (int row = std::max(y, 0); row < y1; ++row)
    for (int column = std::max(x, 0); column < x1; ++column)
      std::copy(color.begin(), color.end(), image.pixel(column, row));
}

void draw_rectangle(Image& image, int x0, int y0, int x1, int y1, int thickness, Color color) {
  fill_rectangle(image, x0, y0, x1 - x0, thickness, color);
  fill_rectangle(image, x0, y1 - thickness, x1 - x0, thickness, color);
  fill_rectangle(image, x0, y0, thickness, y1 - y0, color);
  fill_rectangle(image, x1 - thickness, y0, thickness, y1 - y0, color);
}

int text_width(std::string_view text, int scale) { return static_cast<int>(text.size()) * kAdvance * scale; }

void draw_text(Image& image, int x, int y, std::string_view text, int scale, Color color) {
  for (char character : text) {
    bool printable = character >= ' ' && character <= '~';
    const uint8_t* glyph = kFont[(printable ? character : '?') - ' '];
    for (int row = 0; row < kGlyphHeight; ++row)
      for (int column = 0; column < kGlyphWidth; ++column)
        if (glyph[row] >> (kGlyphWidth - 1 - column) & 1)
          fill_rectangle(image, x + column * scale, y + row * scale, scale, scale, color);
    x += kAdvance * scale;
  }
}

void draw_detections(Image& image, const std::vector<Detection>& detections) {
  int scale = std::max(1, std::min(image.width, image.height) / 300);
  int margin = 2 * scale, height = kGlyphHeight * scale + 2 * margin;
  // The weakest first, so that the best lie on top.
  for (size_t i = detections.size(); i-- > 0;) {
    const Detection& d = detections[i];
    Color color = class_color(d.class_index);
    auto x0 = static_cast<int>(std::lround(d.x0)), y0 = static_cast<int>(std::lround(d.y0));
    auto x1 = static_cast<int>(std::lround(d.x1)), y1 = static_cast<int>(std::lround(d.y1));
    draw_rectangle(image, x0, y0, x1, y1, margin, color);
    std::string name = d.label.empty() ? fmt::format("class {}", d.class_index) : d.label;
    std::string text = fmt::format("{} {:.2f}", name, d.score);
    int width = text_width(text, scale) + 2 * margin - scale;
    int x = std::max(0, std::min(x0, image.width - width));
    int y = y0 >= height ? y0 - height : y0;  // above the box, or inside it at the picture's edge
    fill_rectangle(image, x, y, width, height, color);
    draw_text(image, x + margin, y + margin, text, scale, {0, 0, 0});
  }
}

void draw_segmentation(Image& image, const Segmentation& map, float opacity) {
  if (!(opacity >= 0 && opacity <= 1))
    fail(ErrorKind::kUsage, "the opacity of a mask must be in 0 … 1, found {}", opacity);
  Segmentation sized = resize(map, image.width, image.height);
  for (size_t i = 0; i < sized.classes.size(); ++i) {
    if (sized.classes[i] == 0) continue;
    Color color = class_color(sized.classes[i]);
    for (int c = 0; c < 3; ++c) {
      uint8_t& value = image.rgb[3 * i + c];
      value = static_cast<uint8_t>(std::lround(value * (1 - opacity) + color[c] * opacity));
    }
  }
}

}  // namespace lathe
