// Draws results into pictures: boxes with their labels, and segmentation masks.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "formats/image.h"
#include "tasks/detect.h"
#include "tasks/segment.h"

namespace lathe {

using Color = std::array<uint8_t, 3>;
// A distinct colour for each class; class 0 of a mask is not drawn.
Color class_color(int64_t class_index);

// All of these draw only what lies inside the picture.
void fill_rectangle(Image& image, int x, int y, int width, int height, Color color);
void draw_rectangle(Image& image, int x0, int y0, int x1, int y1, int thickness, Color color);
// Printable ASCII in a 5x7 font, magnified by `scale`; other characters become '?'.
void draw_text(Image& image, int x, int y, std::string_view text, int scale, Color color);
int text_width(std::string_view text, int scale);

// Boxes in pixels (to_picture()), with label or class number and score.
void draw_detections(Image& image, const std::vector<Detection>& detections);
// Blends the colour of each class into the picture; the map is resized to it. Class 0 stays clear.
void draw_segmentation(Image& image, const Segmentation& map, float opacity = 0.5f);

}  // namespace lathe
