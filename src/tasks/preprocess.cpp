#include "tasks/preprocess.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/json.h"

namespace lathe {
namespace {

using nlohmann::json;
constexpr int kMaxSide = 16384;

// For each output position the first input position and the weights from there on.
struct Filter {
  std::vector<int> first;
  std::vector<std::vector<float>> weights;
};

// A triangle of half-width 1 in input pixels when enlarging, of half-width `in/out` when reducing, so that
// every input pixel counts; weights that fall outside are left out and the rest normalized (Pillow's rule).
Filter triangle_filter(int in, int out) {
  Filter filter;
  double step = static_cast<double>(in) / out, support = std::max(step, 1.0);
  for (int i = 0; i < out; ++i) {
    double center = (i + 0.5) * step;
    int from = std::max(static_cast<int>(std::lround(center - support)), 0);
    int to = std::min(static_cast<int>(std::lround(center + support)), in);
    std::vector<double> raw;
    double sum = 0;
    for (int x = from; x < to; ++x) {
      raw.push_back(std::max(0.0, 1.0 - std::fabs((x + 0.5 - center) / support)));
      sum += raw.back();
    }
    filter.first.push_back(from);
    auto& weights = filter.weights.emplace_back();
    for (double w : raw) weights.push_back(static_cast<float>(w / sum));
  }
  return filter;
}

// By way of int32, to which a vector unit converts.
uint8_t to_pixel(float value) { return static_cast<uint8_t>(static_cast<int32_t>(std::min(std::max(value + 0.5f, 0.0f), 255.0f))); }

Image resize_nearest(const Image& image, int width, int height) {
  Image result{width, height, std::vector<uint8_t>(size_t{3} * width * height)};
  for (int y = 0; y < height; ++y) {
    int from_y = static_cast<int>((y + 0.5) * image.height / height);
    for (int x = 0; x < width; ++x) {
      int from_x = static_cast<int>((x + 0.5) * image.width / width);
      std::copy_n(image.pixel(from_x, from_y), 3, result.pixel(x, y));
    }
  }
  return result;
}

// `rows` rows of `width` pixels of kChannels bytes. Some rows at a time, turned so that those of one column lie side by side: sums of
// all of them go through the vector unit together.
template <int kChannels>
void resize_rows(const uint8_t* in, int64_t rows, int width, uint8_t* out, const Filter& filter) {
  constexpr int64_t kRows = 16, kLanes = kRows * kChannels;
  const auto out_width = static_cast<int64_t>(filter.first.size());
  std::vector<float> turned(static_cast<size_t>(width * kLanes));
  for (int64_t y = 0; y < rows; y += kRows) {
    const int64_t count = std::min(kRows, rows - y);
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* from = in + (y + r) * width * kChannels;
      for (int64_t x = 0; x < width; ++x)
        for (int64_t c = 0; c < kChannels; ++c) turned[static_cast<size_t>(x * kLanes + r * kChannels + c)] = from[x * kChannels + c];
    }
    for (int64_t x = 0; x < out_width; ++x) {
      float sum[kLanes] = {};
      const float* from = turned.data() + filter.first[x] * kLanes;
      for (float weight : filter.weights[x]) {
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) sum[l] += weight * from[l];
        from += kLanes;
      }
      uint8_t pixels[kLanes];
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) pixels[l] = to_pixel(sum[l]);
      for (int64_t r = 0; r < count; ++r)
        for (int64_t c = 0; c < kChannels; ++c) out[((y + r) * out_width + x) * kChannels + c] = pixels[r * kChannels + c];
    }
  }
}

// Rows of `row` bytes.
void resize_columns(const uint8_t* in, size_t row, uint8_t* out, const Filter& filter) {
  std::vector<float> sum(row);
  for (size_t y = 0; y < filter.first.size(); ++y, out += row) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    const uint8_t* from = in + row * filter.first[y];
    for (float weight : filter.weights[y]) {
      for (size_t i = 0; i < row; ++i) sum[i] += weight * from[i];
      from += row;
    }
    for (size_t i = 0; i < row; ++i) out[i] = to_pixel(sum[i]);
  }
}

// Rows first, then columns, rounded to 8 bits in between as Pillow does.
Image resize_width(const Image& image, int width) {
  if (width == image.width) return image;
  Image result{width, image.height, std::vector<uint8_t>(size_t{3} * width * image.height)};
  resize_rows<3>(image.rgb.data(), image.height, image.width, result.rgb.data(), triangle_filter(image.width, width));
  return result;
}

Image resize_height(const Image& image, int height) {
  if (height == image.height) return image;
  Image result{image.width, height, std::vector<uint8_t>(size_t{3} * image.width * height)};
  resize_columns(image.rgb.data(), size_t{3} * image.width, result.rgb.data(), triangle_filter(image.height, height));
  return result;
}

// The size after the resize step.
std::pair<int, int> resized_size(const Preprocess& p, int width, int height) {
  if (p.resize_shorter > 0) {
    double factor = static_cast<double>(p.resize_shorter) / std::min(width, height);
    // torchvision truncates; the bound keeps absurd proportions for resize() to refuse.
    int longer = static_cast<int>(std::min(std::max(width, height) * factor, 1e9));
    longer = std::max(longer, p.resize_shorter);
    return width <= height ? std::pair(p.resize_shorter, longer) : std::pair(longer, p.resize_shorter);
  }
  if (p.resize_width > 0) return {p.resize_width, p.resize_height};
  return {width, height};
}

int side(const json& value, const std::string& key, const std::string& name) {
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxSide)
    fail(ErrorKind::kInput, "{}: \"{}\" must be made of integers of 1 to {}, found {}", name, key, kMaxSide,
         value.dump());
  return value.get<int>();
}

std::pair<int, int> size_pair(const json& value, const std::string& key, const std::string& name) {
  if (!value.is_array() || value.size() != 2)
    fail(ErrorKind::kInput, "{}: \"{}\" must be [width, height], found {}", name, key, value.dump());
  return {side(value[0], key, name), side(value[1], key, name)};
}

float number(const json& value, const std::string& key, const std::string& name) {
  float result = value.is_number() ? value.get<float>() : NAN;
  if (!std::isfinite(result))
    fail(ErrorKind::kInput, "{}: \"{}\" must be made of finite numbers, found {}", name, key, value.dump());
  return result;
}

// One number for all channels or one for each.
std::array<float, 3> channels(const json& value, const std::string& key, const std::string& name) {
  if (value.is_number()) {
    float all = number(value, key, name);
    return {all, all, all};
  }
  if (!value.is_array() || value.size() != 3)
    fail(ErrorKind::kInput, "{}: \"{}\" must be a number or three, found {}", name, key, value.dump());
  return {number(value[0], key, name), number(value[1], key, name), number(value[2], key, name)};
}

// Index of the word among the two allowed.
int choice(const json& value, const std::string& key, const std::string& name, const char* first,
           const char* second) {
  if (value == first) return 0;
  if (value == second) return 1;
  fail(ErrorKind::kInput, "{}: \"{}\" must be \"{}\" or \"{}\", found {}", name, key, first, second,
       value.dump());
}

}  // namespace

Preprocess Preprocess::imagenet(int width, int height) {
  Preprocess p;
  p.resize_shorter = static_cast<int>(std::lround(256.0 * std::max(width, height) / 224.0));
  p.crop_width = width;
  p.crop_height = height;
  return p;
}

Preprocess Preprocess::stretch(int width, int height) {
  Preprocess p;
  p.resize_width = width;
  p.resize_height = height;
  p.mean = {0, 0, 0};
  p.std = {1, 1, 1};
  return p;
}

Preprocess Preprocess::from_json(const json& object, const std::string& name) {
  if (!object.is_object()) fail(ErrorKind::kInput, "{}: must hold a JSON object", name);
  Preprocess p;
  for (const auto& [key, value] : object.items()) {
    if (key == "resize" && value.is_array()) {
      std::tie(p.resize_width, p.resize_height) = size_pair(value, key, name);
    } else if (key == "resize") {
      p.resize_shorter = side(value, key, name);
    } else if (key == "crop") {
      std::tie(p.crop_width, p.crop_height) = size_pair(value, key, name);
    } else if (key == "mean") {
      p.mean = channels(value, key, name);
    } else if (key == "std") {
      p.std = channels(value, key, name);
    } else if (key == "scale") {
      p.scale = number(value, key, name);
    } else if (key == "layout") {
      p.layout = choice(value, key, name, "NCHW", "NHWC") ? Layout::kNHWC : Layout::kNCHW;
    } else if (key == "colors") {
      p.colors = choice(value, key, name, "RGB", "BGR") ? Colors::kBGR : Colors::kRGB;
    } else if (key == "interpolation") {
      p.interpolation = choice(value, key, name, "bilinear", "nearest") ? Interpolation::kNearest
                                                                        : Interpolation::kBilinear;
    } else {
      fail(ErrorKind::kInput,
           "{}: unknown key \"{}\"; known are resize, crop, mean, std, scale, layout, colors, interpolation",
           name, key);
    }
  }
  if (std::find(p.std.begin(), p.std.end(), 0.0f) != p.std.end())
    fail(ErrorKind::kInput, "{}: \"std\" must not be 0", name);
  return p;
}

json Preprocess::to_json() const {
  json object;
  if (resize_shorter > 0) {
    object["resize"] = resize_shorter;
  } else if (resize_width > 0) {
    object["resize"] = {resize_width, resize_height};
  }
  if (crop_width > 0) object["crop"] = {crop_width, crop_height};
  object["mean"] = mean;
  object["std"] = std;
  object["scale"] = scale;
  object["layout"] = layout == Layout::kNCHW ? "NCHW" : "NHWC";
  object["colors"] = colors == Colors::kRGB ? "RGB" : "BGR";
  object["interpolation"] = interpolation == Interpolation::kBilinear ? "bilinear" : "nearest";
  return object;
}

Preprocess Preprocess::read(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, 1 << 20);
  return from_json(parse_json(bytes, path), path);
}

void Preprocess::write(const std::string& path) const { write_file(path, to_json().dump(2) + "\n"); }

std::string Preprocess::path_beside(const std::string& model_path) {
  size_t dot = model_path.rfind('.'), slash = model_path.rfind('/');
  bool has_extension = dot != std::string::npos && (slash == std::string::npos || dot > slash);
  return model_path.substr(0, has_extension ? dot : std::string::npos) + ".preprocess.json";
}

std::string Preprocess::describe() const {
  std::string text;
  if (resize_shorter > 0) {
    text += fmt::format("shorter side to {}, ", resize_shorter);
  } else if (resize_width > 0) {
    text += fmt::format("resize to {}x{}, ", resize_width, resize_height);
  }
  if (crop_width > 0) text += fmt::format("crop {}x{}, ", crop_width, crop_height);
  text += fmt::format("x*{:.6g}", scale);
  if (mean != std::array{0.0f, 0.0f, 0.0f})
    text += fmt::format(", minus mean ({:.4g} {:.4g} {:.4g})", mean[0], mean[1], mean[2]);
  if (std != std::array{1.0f, 1.0f, 1.0f})
    text += fmt::format(", over std ({:.4g} {:.4g} {:.4g})", std[0], std[1], std[2]);
  return text + fmt::format(", {} {}", colors == Colors::kRGB ? "RGB" : "BGR",
                            layout == Layout::kNCHW ? "NCHW" : "NHWC");
}

Tensor Preprocess::apply(const Image& image) const {
  auto [width, height] = resized_size(*this, image.width, image.height);
  Image seen = resize(image, width, height, interpolation);
  if (crop_width > 0) seen = center_crop(seen, crop_width, crop_height);
  int64_t w = seen.width, h = seen.height;
  bool planar = layout == Layout::kNCHW;
  Tensor tensor(DType::kF32, planar ? Shape{1, 3, h, w} : Shape{1, h, w, 3});
  auto* values = tensor.data<float>();
  for (int c = 0; c < 3; ++c) {
    int source = colors == Colors::kRGB ? c : 2 - c;
    for (int64_t i = 0; i < w * h; ++i)
      values[planar ? c * w * h + i : 3 * i + c] =
          (static_cast<float>(seen.rgb[3 * i + source]) * scale - mean[source]) / std[source];
  }
  return tensor;
}

std::array<double, 4> Preprocess::visible_part(int image_width, int image_height) const {
  auto [width, height] = resized_size(*this, image_width, image_height);
  if (crop_width <= 0) return {0, 0, static_cast<double>(image_width), static_cast<double>(image_height)};
  double sx = static_cast<double>(image_width) / width, sy = static_cast<double>(image_height) / height;
  // As center_crop: integer positions, negative where it adds a border.
  int x = static_cast<int>(std::floor((width - crop_width) / 2.0)),
      y = static_cast<int>(std::floor((height - crop_height) / 2.0));
  return {x * sx, y * sy, crop_width * sx, crop_height * sy};
}

Image resize(const Image& image, int width, int height, Preprocess::Interpolation interpolation) {
  if (image.width < 1 || image.height < 1) fail(ErrorKind::kInput, "cannot resize an empty picture");
  if (width < 1 || height < 1 || int64_t{width} * height > kMaxPixels)
    fail(ErrorKind::kInput, "cannot resize a picture of {}x{} pixels to {}x{}: sizes must be positive and "
         "at most {} megapixels", image.width, image.height, width, height, kMaxPixels / 1'000'000);
  if (interpolation == Preprocess::Interpolation::kNearest) return resize_nearest(image, width, height);
  if (int64_t{width} * image.height > kMaxPixels)
    return resize_width(resize_height(image, height), width);
  return resize_height(resize_width(image, width), height);
}

void resize_planes(const uint8_t* from, int64_t planes, int height, int width, uint8_t* to, int to_height, int to_width) {
  require(planes >= 0 && std::min({height, width, to_height, to_width}) > 0, "resize_planes: {} x {} to {} x {}", height, width, to_height, to_width);
  std::vector<uint8_t> between;
  if (to_width != width) {
    between.resize(static_cast<size_t>(planes) * height * to_width);
    resize_rows<1>(from, planes * height, width, between.data(), triangle_filter(width, to_width));
    from = between.data();
  }
  const size_t in_plane = static_cast<size_t>(height) * to_width, out_plane = static_cast<size_t>(to_height) * to_width;
  if (to_height == height) {
    std::copy_n(from, static_cast<size_t>(planes) * in_plane, to);
    return;
  }
  const Filter filter = triangle_filter(height, to_height);
  for (int64_t p = 0; p < planes; ++p) resize_columns(from + p * in_plane, static_cast<size_t>(to_width), to + p * out_plane, filter);
}

Image center_crop(const Image& image, int width, int height) {
  if (width < 1 || height < 1 || int64_t{width} * height > kMaxPixels)
    fail(ErrorKind::kInput, "cannot crop a picture to {}x{}", width, height);
  Image result{width, height, std::vector<uint8_t>(size_t{3} * width * height)};  // black border
  int x0 = static_cast<int>(std::floor((image.width - width) / 2.0)),
      y0 = static_cast<int>(std::floor((image.height - height) / 2.0));
  int from = std::max(x0, 0), to = std::min(x0 + width, image.width);
  for (int y = std::max(y0, 0); y < std::min(y0 + height, image.height) && from < to; ++y)
    std::copy_n(image.pixel(from, y), size_t{3} * (to - from), result.pixel(from - x0, y - y0));
  return result;
}

}  // namespace lathe
