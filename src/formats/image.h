// Pictures as 8-bit RGB. The kind of a file is told by its first bytes, not by its name. Grayscale, palette
// and CMYK are converted; 16-bit PNG is reduced to 8 bits; transparent pixels are laid over white, as
// they would be on a page. EXIF orientation and colour profiles are not applied.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace lathe {

// Checked against the header before a pixel is decoded.
constexpr int64_t kMaxPixels = 100'000'000;

struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;  // height × width × 3

  uint8_t* pixel(int x, int y) { return &rgb[(size_t{3} * y) * width + size_t{3} * x]; }
  const uint8_t* pixel(int x, int y) const { return &rgb[(size_t{3} * y) * width + size_t{3} * x]; }
};

// JPEG, PNG or WebP. Throws kInput when the picture is of another kind, broken, cut short or too large.
Image read_image(const std::string& path);
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

// A number for each pixel, row by row.
struct LabelMap {
  int width = 0, height = 0;
  std::vector<uint8_t> labels;
};
// A PNG whose pixels are numbers and no colours: the index into the palette where there is one, else the gray value of 8 bits or
// less. Throws kInput for other PNGs.
LabelMap read_label_map(const std::string& path);
LabelMap decode_label_map(std::span<const uint8_t> bytes, const std::string& name);

void write_png(const std::string& path, const Image& image);
void write_jpeg(const std::string& path, const Image& image, int quality = 90);

}  // namespace lathe
