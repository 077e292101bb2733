#include "data/color.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

namespace lathe {
namespace {

using Table = std::array<uint8_t, 256>;

uint8_t to_pixel(double value) { return static_cast<uint8_t>(std::clamp(value + 0.5, 0.0, 255.0)); }
uint8_t to_pixel(float value) { return static_cast<uint8_t>(std::clamp(value + 0.5f, 0.0f, 255.0f)); }

int64_t plane_of(const Tensor& picture) { return picture.size() / std::max<int64_t>(picture.dim(0), 1); }

void look_up(uint8_t* values, int64_t count, const Table& table) {
  for (int64_t i = 0; i < count; ++i) values[i] = table[values[i]];
}

template <class Function>
Table table_of(Function&& f) {
  Table table;
  for (int v = 0; v < 256; ++v) table[static_cast<size_t>(v)] = f(v);
  return table;
}

std::array<int64_t, 256> histogram(const uint8_t* values, int64_t count) {
  std::array<int64_t, 256> h{};
  for (int64_t i = 0; i < count; ++i) ++h[values[i]];
  return h;
}

// Rec. ITU-R BT.601, as for JPEG.
float luma(const uint8_t* picture, int64_t plane, int64_t channels, int64_t i) {
  if (channels != 3) return picture[i];
  return 0.299f * picture[i] + 0.587f * picture[plane + i] + 0.114f * picture[2 * plane + i];
}

}  // namespace

void adjust_saturation(Tensor& picture, double factor) {
  const int64_t plane = plane_of(picture), channels = picture.dim(0);
  if (channels != 3) return;
  auto* p = picture.data<uint8_t>();
  const auto f = static_cast<float>(factor);
  for (int64_t i = 0; i < plane; ++i) {
    const float grey = luma(p, plane, 3, i);
    for (int64_t c = 0; c < 3; ++c) p[c * plane + i] = to_pixel(grey + f * (p[c * plane + i] - grey));
  }
}

void adjust_contrast(Tensor& picture, double factor) {
  const int64_t plane = plane_of(picture);
  auto* p = picture.data<uint8_t>();
  double sum = 0;
  for (int64_t i = 0; i < plane; ++i) sum += luma(p, plane, picture.dim(0), i);
  const double mean = std::floor(sum / static_cast<double>(std::max<int64_t>(plane, 1)) + 0.5);
  look_up(p, picture.size(), table_of([&](int v) { return to_pixel(mean + factor * (v - mean)); }));
}

void adjust_brightness(Tensor& picture, double factor) {
  look_up(picture.data<uint8_t>(), picture.size(), table_of([&](int v) { return to_pixel(factor * v); }));
}

void adjust_sharpness(Tensor& picture, double factor) {
  const int64_t height = picture.dim(-2), width = picture.dim(-1), planes = picture.size() / std::max<int64_t>(height * width, 1);
  if (height < 3 || width < 3) return;
  const Tensor before = picture.clone();
  const auto f = static_cast<float>(factor);
  for (int64_t k = 0; k < planes; ++k) {
    const uint8_t* in = before.data<uint8_t>() + k * height * width;
    uint8_t* out = picture.data<uint8_t>() + k * height * width;
    for (int64_t y = 1; y + 1 < height; ++y) {
      for (int64_t x = 1; x + 1 < width; ++x) {
        const uint8_t* m = in + y * width + x;
        const int sum = m[-width - 1] + m[-width] + m[-width + 1] + m[-1] + 5 * m[0] + m[1] + m[width - 1] + m[width] + m[width + 1];
        const int smooth = (sum + 6) / 13;
        out[y * width + x] = to_pixel(static_cast<float>(smooth) + f * static_cast<float>(m[0] - smooth));
      }
    }
  }
}

void adjust_hue(Tensor& picture, double turn) {
  require(picture.dim(0) == 3, "hue of {} channels", picture.dim(0));
  const int64_t plane = plane_of(picture);
  auto* p = picture.data<uint8_t>();
  for (int64_t i = 0; i < plane; ++i) {
    const float r = p[i], g = p[plane + i], b = p[2 * plane + i], high = std::max({r, g, b}), range = high - std::min({r, g, b});
    if (range == 0) continue;
    float hue = high == r ? (g - b) / range : high == g ? 2 + (b - r) / range : 4 + (r - g) / range;  // in sixths of the circle
    hue += static_cast<float>(6 * turn);
    hue -= 6 * std::floor(hue / 6);
    // Smith 1978 in closed form: each channel falls from `high` by the range where the hue is far from its own.
    auto value = [&](float n) {
      const float k = std::fmod(n + hue, 6.0f);
      return to_pixel(high - range * std::clamp(std::min(k, 4 - k), 0.0f, 1.0f));
    };
    p[i] = value(5);
    p[plane + i] = value(3);
    p[2 * plane + i] = value(1);
  }
}

void stretch_contrast(Tensor& picture) {
  const int64_t plane = plane_of(picture);
  for (int64_t c = 0; c < picture.dim(0); ++c) {
    uint8_t* p = picture.data<uint8_t>() + c * plane;
    if (plane == 0) return;
    auto [low, high] = std::minmax_element(p, p + plane);
    if (*low == *high) continue;
    const double from = *low, scale = 255.0 / (*high - from);
    look_up(p, plane, table_of([&](int v) { return to_pixel((v - from) * scale); }));
  }
}

void equalize(Tensor& picture) {
  const int64_t plane = plane_of(picture);
  for (int64_t c = 0; c < picture.dim(0); ++c) {
    uint8_t* p = picture.data<uint8_t>() + c * plane;
    const auto h = histogram(p, plane);
    int64_t last = 0;
    for (int64_t n : h)
      if (n != 0) last = n;
    const int64_t step = (plane - last) / 255;
    if (step == 0) continue;
    int64_t sum = step / 2;
    Table table;
    for (size_t v = 0; v < 256; ++v) {
      table[v] = static_cast<uint8_t>(std::min<int64_t>(sum / step, 255));
      sum += h[v];
    }
    look_up(p, plane, table);
  }
}

void solarize(Tensor& picture, int threshold) {
  look_up(picture.data<uint8_t>(), picture.size(), table_of([&](int v) { return static_cast<uint8_t>(v < threshold ? v : 255 - v); }));
}

void posterize(Tensor& picture, int bits) {
  const int mask = 0xff << (8 - std::clamp(bits, 1, 8)) & 0xff;
  look_up(picture.data<uint8_t>(), picture.size(), table_of([&](int v) { return static_cast<uint8_t>(v & mask); }));
}

void warp(Tensor& picture, const Affine& m) {
  const int64_t height = picture.dim(-2), width = picture.dim(-1), planes = picture.size() / std::max<int64_t>(height * width, 1);
  const Tensor before = picture.clone();
  const double middle_x = static_cast<double>(width - 1) / 2, middle_y = static_cast<double>(height - 1) / 2;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double dx = static_cast<double>(x) - middle_x, dy = static_cast<double>(y) - middle_y;
      const double from_x = m.a * dx + m.b * dy + m.c + middle_x, from_y = m.d * dx + m.e * dy + m.f + middle_y;
      const double floor_x = std::floor(from_x), floor_y = std::floor(from_y);
      const auto wx = static_cast<float>(from_x - floor_x), wy = static_cast<float>(from_y - floor_y);
      // Beyond this the four neighbours are outside; the clamp keeps the conversion in range.
      const auto x0 = static_cast<int64_t>(std::clamp(floor_x, -2.0, static_cast<double>(width) + 1));
      const auto y0 = static_cast<int64_t>(std::clamp(floor_y, -2.0, static_cast<double>(height) + 1));
      const float weights[4] = {(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy};
      int64_t at[4];
      for (int64_t k = 0; k < 4; ++k) {
        const int64_t nx = x0 + (k & 1), ny = y0 + (k >> 1);
        at[k] = nx >= 0 && nx < width && ny >= 0 && ny < height ? ny * width + nx : -1;
      }
      const uint8_t* in = before.data<uint8_t>();
      uint8_t* out = picture.data<uint8_t>() + y * width + x;
      for (int64_t k = 0; k < planes; ++k, in += height * width, out += height * width) {
        float sum = 0;
        for (int n = 0; n < 4; ++n)
          if (at[n] >= 0) sum += weights[n] * in[at[n]];
        *out = to_pixel(sum);
      }
    }
  }
}

void rand_augment_operation(Tensor& picture, int operation, double magnitude, Random& random) {
  const double part = std::clamp(magnitude, 0.0, kMaxMagnitude) / kMaxMagnitude;
  const double sign = random.chance(0.5) ? -1 : 1;  // drawn for all, so that streams stay alike
  const auto height = static_cast<double>(picture.dim(-2)), width = static_cast<double>(picture.dim(-1));
  constexpr double kShear = 0.3, kTranslate = 150.0 / 331, kFactor = 0.9;
  switch (operation) {
    case 0: return;
    case 1: return stretch_contrast(picture);
    case 2: return equalize(picture);
    case 3: {
      const double angle = sign * part * std::numbers::pi / 6;
      return warp(picture, {std::cos(angle), -std::sin(angle), 0, std::sin(angle), std::cos(angle), 0});
    }
    case 4: return solarize(picture, static_cast<int>(std::lround(255 * (1 - part))));
    case 5: return adjust_saturation(picture, 1 + sign * kFactor * part);
    case 6: return posterize(picture, 8 - static_cast<int>(std::lround(4 * part)));
    case 7: return adjust_contrast(picture, 1 + sign * kFactor * part);
    case 8: return adjust_brightness(picture, 1 + sign * kFactor * part);
    case 9: return adjust_sharpness(picture, 1 + sign * kFactor * part);
    case 10: return warp(picture, {1, sign * kShear * part, 0, 0, 1, 0});
    case 11: return warp(picture, {1, 0, 0, sign * kShear * part, 1, 0});
    case 12: return warp(picture, {1, 0, sign * kTranslate * part * width, 0, 1, 0});
    case 13: return warp(picture, {1, 0, 0, 0, 1, sign * kTranslate * part * height});
    default: fail(ErrorKind::kInternal, "RandAugment has {} operations, not one of number {}", kRandAugmentOperations, operation);
  }
}

}  // namespace lathe
