#include "data/augment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>

#include "data/color.h"
#include "tasks/preprocess.h"

namespace lathe {
namespace {

// Boxes of which less than this stays visible go (the default of the published detectors' crops; SSD crops bring their own).
constexpr double kLeastVisible = 0.3;

struct Rectangle {
  int64_t x, y, width, height;
};

int64_t height_of(const Tensor& picture) { return picture.dim(-2); }
int64_t width_of(const Tensor& picture) { return picture.dim(-1); }

Shape with_sides(const Tensor& picture, int64_t height, int64_t width) {
  Shape shape = picture.shape();
  shape[shape.size() - 2] = height;
  shape[shape.size() - 1] = width;
  return shape;
}

// What lies outside of the picture is zero.
Tensor crop(const Tensor& in, const Rectangle& r) {
  Tensor out(in.dtype(), with_sides(in, r.height, r.width));
  const auto element = static_cast<int64_t>(size_of(in.dtype()));
  const int64_t height = height_of(in), width = width_of(in), planes = in.size() / std::max<int64_t>(height * width, 1);
  const int64_t left = std::clamp<int64_t>(-r.x, 0, r.width), from_x = std::clamp<int64_t>(r.x, 0, width);
  const int64_t count = std::max<int64_t>(std::min(r.x + r.width, width) - from_x, 0);
  const auto* source = in.data<uint8_t>();
  auto* target = out.data<uint8_t>();
  if (count < r.width || r.y < 0 || r.y + r.height > height) std::memset(target, 0, out.bytes());
  for (int64_t p = 0; p < planes; ++p) {
    for (int64_t y = 0; y < r.height && count > 0; ++y) {
      const int64_t from_y = r.y + y;
      if (from_y < 0 || from_y >= height) continue;
      std::memcpy(target + ((p * r.height + y) * r.width + left) * element, source + ((p * height + from_y) * width + from_x) * element,
                  static_cast<size_t>(count * element));
    }
  }
  return out;
}

Tensor resize_picture(const Tensor& in, int64_t height, int64_t width) {
  if (height_of(in) == height && width_of(in) == width) return in;
  Tensor out(in.dtype(), with_sides(in, height, width));
  resize_planes(in.data<uint8_t>(), in.size() / (height_of(in) * width_of(in)), static_cast<int>(height_of(in)),
                static_cast<int>(width_of(in)), out.data<uint8_t>(), static_cast<int>(height), static_cast<int>(width));
  return out;
}

// Classes cannot be averaged: the nearest.
Tensor resize_mask(const Tensor& in, int64_t height, int64_t width) {
  if (in.dim(0) == height && in.dim(1) == width) return in;
  Tensor out(in.dtype(), {height, width});
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      out.data<uint8_t>()[y * width + x] =
          in.data<uint8_t>()[(2 * y + 1) * in.dim(0) / (2 * height) * in.dim(1) + (2 * x + 1) * in.dim(1) / (2 * width)];
  return out;
}

double area(const TrueBox& b) { return std::max(0.0, double{b.x1} - b.x0) * std::max(0.0, double{b.y1} - b.y0); }

// Part of the box that lies in the rectangle.
double visible(const TrueBox& b, const Rectangle& r) {
  const auto x0 = static_cast<float>(r.x), y0 = static_cast<float>(r.y), x1 = static_cast<float>(r.x + r.width),
             y1 = static_cast<float>(r.y + r.height);
  const double whole = area(b);
  return whole > 0 ? area({std::max(b.x0, x0), std::max(b.y0, y0), std::min(b.x1, x1), std::min(b.y1, y1), 0}) / whole : 0;
}

// The rectangle, which may reach beyond the picture, becomes the sample at the given size. Boxes of which `least` or less is visible go,
// the rest is cut off at the edges.
void take(Sample& s, const Rectangle& r, int64_t height, int64_t width, double least) {
  const int64_t old_height = height_of(s.input), old_width = width_of(s.input);
  const bool whole = r.x == 0 && r.y == 0 && r.width == old_width && r.height == old_height;
  if (whole && height == old_height && width == old_width) return;
  s.input = resize_picture(whole ? s.input : crop(s.input, r), height, width);
  if (s.mask.defined()) s.mask = resize_mask(whole ? s.mask : crop(s.mask, r), height, width);
  const float sx = static_cast<float>(width) / static_cast<float>(r.width), sy = static_cast<float>(height) / static_cast<float>(r.height);
  std::vector<TrueBox> boxes;
  for (TrueBox b : s.boxes) {
    if (visible(b, r) <= least) continue;
    auto at = [](float v, int64_t from, float scale, int64_t most) {
      return std::clamp((v - static_cast<float>(from)) * scale, 0.0f, static_cast<float>(most));
    };
    b = {at(b.x0, r.x, sx, width), at(b.y0, r.y, sy, height), at(b.x1, r.x, sx, width), at(b.y1, r.y, sy, height), b.class_index, b.crowd};
    if (area(b) > 0) boxes.push_back(b);
  }
  s.boxes = std::move(boxes);
}

void fit(Sample& s, const AugmentOptions& o, int64_t height, int64_t width) {
  const int64_t h = height_of(s.input), w = width_of(s.input);
  switch (o.fit) {
    case Fit::kStretch: return take(s, {0, 0, w, h}, height, width, 0);
    case Fit::kPad: return take(s, {-((width - w) / 2), -((height - h) / 2), width, height}, height, width, kLeastVisible);
    case Fit::kCrop: {
      // The largest rectangle of the wanted proportions in the middle, times the ratio; resized once.
      const double scale =
          std::min(static_cast<double>(w) / static_cast<double>(width), static_cast<double>(h) / static_cast<double>(height)) *
          o.crop_ratio;
      const int64_t cw = std::clamp<int64_t>(std::llround(scale * static_cast<double>(width)), 1, w);
      const int64_t ch = std::clamp<int64_t>(std::llround(scale * static_cast<double>(height)), 1, h);
      return take(s, {(w - cw) / 2, (h - ch) / 2, cw, ch}, height, width, kLeastVisible);
    }
  }
}

void random_resized_crop(Sample& s, const AugmentOptions& o, int64_t height, int64_t width, Random& random) {
  constexpr int kTries = 10;
  const int64_t h = height_of(s.input), w = width_of(s.input);
  for (int i = 0; i < kTries; ++i) {
    const double pixels = static_cast<double>(h * w) * random.uniform(o.min_area, o.max_area);
    const double aspect = std::exp(random.uniform(-std::log(o.max_aspect), std::log(o.max_aspect)));
    const int64_t cw = std::llround(std::sqrt(pixels * aspect)), ch = std::llround(std::sqrt(pixels / aspect));
    if (cw < 1 || ch < 1 || cw > w || ch > h) continue;
    const auto x = static_cast<int64_t>(random.below(static_cast<uint64_t>(w - cw + 1))),
               y = static_cast<int64_t>(random.below(static_cast<uint64_t>(h - ch + 1)));
    return take(s, {x, y, cw, ch}, height, width, kLeastVisible);
  }
  // Proportions beyond the range: the middle with the nearest that is in it.
  const double aspect = std::clamp(static_cast<double>(w) / static_cast<double>(h), 1 / o.max_aspect, o.max_aspect);
  const int64_t cw = std::clamp<int64_t>(std::llround(static_cast<double>(h) * aspect), 1, w),
                ch = std::clamp<int64_t>(std::llround(static_cast<double>(w) / aspect), 1, h);
  take(s, {(w - cw) / 2, (h - ch) / 2, cw, ch}, height, width, kLeastVisible);
}

void clip_crop(Sample& s, int64_t height, int64_t width, Random& random) {
  const int64_t h = height_of(s.input), w = width_of(s.input);
  const double scale = std::pow(2.0, -0.25 * static_cast<double>(random.below(5)));
  const int64_t side = std::max<int64_t>(std::llround(scale * static_cast<double>(std::min(h, w))), 1);
  const uint64_t place = random.below(5);
  const int64_t x = place == 4 ? (w - side) / 2 : place & 1 ? w - side : 0, y = place == 4 ? (h - side) / 2 : place & 2 ? h - side : 0;
  take(s, {x, y, side, side}, height, width, kLeastVisible);
}

// Liu et al. 2016, section 2.2, with the ranges of the published MobileDets.
void ssd_crop(Sample& s, int64_t height, int64_t width, Random& random) {
  constexpr std::array<double, 7> kLeastOverlap{0, 0.1, 0.3, 0.5, 0.7, 0.9, 1};
  constexpr double kKeepOriginal = 0.15, kMinArea = 0.1, kMinAspect = 0.5, kMaxAspect = 2;
  constexpr int kTries = 100;
  const int64_t h = height_of(s.input), w = width_of(s.input);
  const double least = kLeastOverlap[random.below(kLeastOverlap.size())];
  if (random.chance(kKeepOriginal)) return take(s, {0, 0, w, h}, height, width, 0);
  for (int i = 0; i < kTries; ++i) {
    // The aspect first, then a height uniform among those with which the area is in range and the picture is not left.
    const double aspect = random.uniform(kMinAspect, kMaxAspect), pixels = static_cast<double>(h * w);
    const double most = std::min({std::sqrt(pixels / aspect), static_cast<double>(h), static_cast<double>(w) / aspect});
    const double fewest = std::sqrt(kMinArea * pixels / aspect);
    if (fewest > most) continue;
    const double tall = random.uniform(fewest, most);
    const int64_t ch = std::clamp<int64_t>(std::llround(tall), 1, h), cw = std::clamp<int64_t>(std::llround(tall * aspect), 1, w);
    const Rectangle r{static_cast<int64_t>(random.below(static_cast<uint64_t>(w - cw + 1))),
                      static_cast<int64_t>(random.below(static_cast<uint64_t>(h - ch + 1))), cw, ch};
    // A crop counts when it covers that much of one box; then all boxes with less go. A rounding is allowed for on the whole box.
    constexpr double kRounding = 1e-6;
    const double enough = least - kRounding;
    if (!s.boxes.empty() &&
        std::none_of(s.boxes.begin(), s.boxes.end(), [&](const TrueBox& b) { return visible(b, r) >= enough && visible(b, r) > 0; }))
      continue;
    return take(s, r, height, width, std::max(enough, 0.0));
  }
  take(s, {0, 0, w, h}, height, width, 0);
}

void flip(Sample& s) {
  auto flipped = [](const Tensor& in) {
    Tensor out(in.dtype(), in.shape());
    const int64_t width = width_of(in), rows = in.size() / std::max<int64_t>(width, 1);
    auto reverse = [&](auto* from, auto* to) {
      for (int64_t y = 0; y < rows; ++y) std::reverse_copy(from + y * width, from + (y + 1) * width, to + y * width);
    };
    if (in.dtype() == DType::kU8) reverse(in.data<uint8_t>(), out.data<uint8_t>());
    else reverse(in.data<float>(), out.data<float>());
    return out;
  };
  const auto width = static_cast<float>(width_of(s.input));
  s.input = flipped(s.input);
  if (s.mask.defined()) s.mask = flipped(s.mask);
  for (TrueBox& b : s.boxes) b = {width - b.x1, b.y0, width - b.x0, b.y1, b.class_index, b.crowd};
}

void jitter(Tensor& picture, const AugmentOptions& o, Random& random) {
  auto factor = [&](double range) { return random.uniform(std::max(0.0, 1 - range), 1 + range); };
  const double brightness = factor(o.brightness), contrast = factor(o.contrast), saturation = factor(o.saturation),
               hue = random.uniform(-o.hue, o.hue);
  for (size_t k : random.permutation(4)) {
    if (k == 0 && o.brightness > 0) adjust_brightness(picture, brightness);
    if (k == 1 && o.contrast > 0) adjust_contrast(picture, contrast);
    if (k == 2 && o.saturation > 0) adjust_saturation(picture, saturation);
    if (k == 3 && o.hue > 0 && picture.dim(0) == 3) adjust_hue(picture, hue);
  }
}

// Of a clip the same rectangle in all frames.
void erase(Tensor& picture, Random& random) {
  constexpr int kTries = 10;
  constexpr double kMinArea = 0.02, kMaxArea = 1.0 / 3, kMinAspect = 0.3;
  const int64_t h = height_of(picture), w = width_of(picture), planes = picture.size() / std::max<int64_t>(h * w, 1);
  for (int i = 0; i < kTries; ++i) {
    const double pixels = static_cast<double>(h * w) * random.uniform(kMinArea, kMaxArea),
                 aspect = std::exp(random.uniform(std::log(kMinAspect), -std::log(kMinAspect)));
    const int64_t eh = std::llround(std::sqrt(pixels * aspect)), ew = std::llround(std::sqrt(pixels / aspect));
    if (eh < 1 || ew < 1 || eh >= h || ew >= w) continue;
    const auto y0 = static_cast<int64_t>(random.below(static_cast<uint64_t>(h - eh + 1))),
               x0 = static_cast<int64_t>(random.below(static_cast<uint64_t>(w - ew + 1)));
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t y = y0; y < y0 + eh; ++y)
        for (int64_t x = x0; x < x0 + ew; ++x) picture.data<uint8_t>()[(p * h + y) * w + x] = static_cast<uint8_t>(random.bits() >> 56);
    return;
  }
}

bool changes_colors(const AugmentOptions& o) {
  return o.operations > 0 || o.brightness > 0 || o.contrast > 0 || o.saturation > 0 || o.hue > 0 || o.erase > 0;
}

}  // namespace

void augment(Sample& s, const AugmentOptions& o, Random& random) {
  if (o.frames > 0 && s.input.rank() == 4) {
    const int64_t spare = s.input.dim(1) - o.frames;
    const int64_t start = spare <= 0 ? 0 : o.random ? static_cast<int64_t>(random.below(static_cast<uint64_t>(spare + 1))) : spare / 2;
    if (spare != 0) s.input = clip_window(s.input, start, o.frames);
  }
  const int64_t height = o.height > 0 ? o.height : height_of(s.input), width = o.width > 0 ? o.width : width_of(s.input);
  if (!o.random) return fit(s, o, height, width);
  if (o.ssd_crop) ssd_crop(s, height, width, random);
  else if (o.resized_crop) random_resized_crop(s, o, height, width, random);
  else if (o.clip_crop) clip_crop(s, height, width, random);
  else fit(s, o, height, width);
  if (o.pad_crop > 0) {
    const auto places = static_cast<uint64_t>(2 * o.pad_crop + 1);
    const auto x = static_cast<int64_t>(random.below(places)) - o.pad_crop, y = static_cast<int64_t>(random.below(places)) - o.pad_crop;
    take(s, {x, y, width, height}, height, width, kLeastVisible);
  }
  if (o.flip > 0 && random.chance(o.flip)) flip(s);
  if (!changes_colors(o)) return;
  s.input = s.input.clone();
  for (int i = 0; i < o.operations; ++i)
    rand_augment_operation(s.input, static_cast<int>(random.below(kRandAugmentOperations)), o.magnitude, random);
  if (o.brightness > 0 || o.contrast > 0 || o.saturation > 0 || o.hue > 0) jitter(s.input, o, random);
  if (o.erase > 0 && random.chance(o.erase)) erase(s.input, random);
}

void check_augment(const AugmentOptions& o, const Sample& s, TrainingTruth truth) {
  auto refuse = [](bool condition, const char* what) {
    if (condition) fail(ErrorKind::kUsage, "augmentation: {}", what);
  };
  auto probability = [](double p) { return p >= 0 && p <= 1; };
  refuse(o.height < 0 || o.width < 0 || o.frames < 0 || o.pad_crop < 0 || o.operations < 0, "sizes and counts must not be negative");
  refuse(o.height > 16384 || o.width > 16384 || o.pad_crop > 16384, "sizes are at most 16384");
  refuse(!probability(o.flip) || !probability(o.erase), "probabilities are from 0 to 1");
  refuse(!(o.crop_ratio > 0 && o.crop_ratio <= 1), "crop_ratio must be above 0 and at most 1");
  refuse(!(o.min_area > 0 && o.min_area <= o.max_area && o.max_area <= 1) || !(o.max_aspect >= 1),
         "the area of a random crop is within 0 … 1");
  refuse(!(o.brightness >= 0 && o.contrast >= 0 && o.saturation >= 0 && o.hue >= 0 && o.hue <= 0.5),
         "jitter takes factors of 0 and more, hue 0 to 0.5");
  refuse(!(o.magnitude >= 0 && o.magnitude <= kMaxMagnitude), "RandAugment's magnitude is 0 to 30");
  refuse(int{o.ssd_crop} + int{o.resized_crop} + int{o.clip_crop} > 1, "ssd-crop, resized-crop and clip-crop exclude one another");
  refuse(o.frames > 0 && s.input.rank() != 4, "frames= is for clips");
  const bool resizes =
      o.fit != Fit::kPad && ((o.height > 0 && height_of(s.input) != o.height) || (o.width > 0 && width_of(s.input) != o.width));
  refuse(s.input.dtype() != DType::kU8 && resizes, "f32 samples are not resized; pad or cut them (Fit::kPad), or give pictures as u8");
  if (!o.random) return;
  refuse(o.ssd_crop && truth != TrainingTruth::kBoxes, "ssd-crop is for samples with boxes");
  refuse(o.operations > 0 && truth != TrainingTruth::kClass,
         "RandAugment moves pixels and no boxes or masks with them: use it on classes only");
  refuse(s.input.dtype() != DType::kU8 && (changes_colors(o) || o.ssd_crop || o.resized_crop || o.clip_crop),
         "f32 samples are only flipped, padded and cropped; give pictures as u8");
}

AugmentOptions parse_augment(const std::string& text) {
  AugmentOptions o;
  if (text == "none" || text.empty()) return o;
  o.random = true;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    at = end + 1;
    const size_t equals = part.find('=');
    const std::string name = part.substr(0, equals);
    std::vector<double> values;
    for (size_t v = equals; v != std::string::npos;) {
      const size_t next = part.find(':', v + 1);
      const std::string word = part.substr(v + 1, next == std::string::npos ? next : next - v - 1);
      double value = NAN;
      auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
      if (error != std::errc() || stop != word.data() + word.size() || !std::isfinite(value))
        fail(ErrorKind::kUsage, "augmentation: '{}' holds no number '{}'", part, word);
      values.push_back(value);
      v = next;
    }
    auto expect = [&](size_t least, size_t most) {
      if (values.size() < least || values.size() > most)
        fail(ErrorKind::kUsage, "augmentation: '{}' takes {} to {} numbers", name, least, most);
    };
    auto value = [&](size_t i, double usual) { return i < values.size() ? values[i] : usual; };
    auto count = [&](size_t i, double usual) {
      const double v = value(i, usual);
      if (v != std::floor(v) || v < 0 || v > 16384) fail(ErrorKind::kUsage, "augmentation: '{}' takes a whole number, found {}", name, v);
      return static_cast<int64_t>(v);
    };
    if (name == "flip") {
      expect(0, 1);
      o.flip = value(0, 0.5);
    } else if (name == "crop") {
      expect(1, 1);
      o.pad_crop = count(0, 0);
    } else if (name == "resized-crop") {
      expect(0, 1);
      o.resized_crop = true;
      o.min_area = value(0, o.min_area);
    } else if (name == "clip-crop") {
      expect(0, 0);
      o.clip_crop = true;
    } else if (name == "ssd-crop") {
      expect(0, 0);
      o.ssd_crop = true;
    } else if (name == "jitter") {
      expect(1, 4);
      o.brightness = value(0, 0);
      o.contrast = value(1, o.brightness);
      o.saturation = value(2, o.brightness);
      o.hue = value(3, 0);
    } else if (name == "randaugment") {
      expect(0, 2);
      o.operations = static_cast<int>(count(0, 2));
      o.magnitude = value(1, o.magnitude);
    } else if (name == "erase") {
      expect(1, 1);
      o.erase = value(0, 0);
    } else {
      fail(ErrorKind::kUsage,
           "augmentation: '{}' is not known; there are flip, crop, resized-crop, clip-crop, ssd-crop, jitter, randaugment, erase, none",
           name);
    }
  }
  return o;
}

std::vector<int64_t> clip_windows(int64_t clip_frames, int64_t frames) {
  require(clip_frames > 0 && frames > 0, "windows of {} frames in a clip of {}", frames, clip_frames);
  std::vector<int64_t> starts{0};
  for (int64_t at = frames; at + frames <= clip_frames; at += frames) starts.push_back(at);
  return starts;
}

Tensor clip_window(const Tensor& clip, int64_t start, int64_t frames) {
  require(clip.rank() == 4 && clip.size() > 0 && start >= 0 && frames > 0, "a window of {} frames from {} of a clip {}", frames, start,
          to_string(clip.shape()));
  Shape shape = clip.shape();
  const int64_t channels = shape[0], there = shape[1];
  const size_t frame = static_cast<size_t>(shape[2] * shape[3]) * size_of(clip.dtype());
  shape[1] = frames;
  Tensor out(clip.dtype(), shape);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < frames; ++t)
      std::memcpy(out.data<uint8_t>() + static_cast<size_t>(c * frames + t) * frame,
                  clip.data<uint8_t>() + static_cast<size_t>(c * there + (start + t) % there) * frame, frame);
  return out;
}

namespace {

struct BatchShape {
  int64_t samples, elements, classes;
};

BatchShape check_batch(const Tensor& inputs, const Tensor& labels) {
  require(inputs.dtype() == DType::kF32 && labels.dtype() == DType::kF32 && inputs.rank() >= 3 && labels.rank() == 2 &&
              inputs.dim(0) == labels.dim(0),
          "mixing of inputs {} and labels {}", to_string(inputs.shape()), to_string(labels.shape()));
  const int64_t n = inputs.dim(0);
  return {n, n > 0 ? inputs.size() / n : 0, labels.dim(1)};
}

// Both of a pair at once, so that each sees what the other was before.
void blend_pairs(Tensor& t, int64_t samples, int64_t elements, float lambda) {
  for (int64_t i = 0; i < samples / 2; ++i) {
    float *a = t.data<float>() + i * elements, *b = t.data<float>() + (samples - 1 - i) * elements;
    for (int64_t e = 0; e < elements; ++e) {
      const float x = a[e], y = b[e];
      a[e] = lambda * x + (1 - lambda) * y;
      b[e] = lambda * y + (1 - lambda) * x;
    }
  }
}

}  // namespace

void mixup(Tensor& inputs, Tensor& soft_labels, float lambda) {
  const BatchShape n = check_batch(inputs, soft_labels);
  blend_pairs(inputs, n.samples, n.elements, lambda);
  blend_pairs(soft_labels, n.samples, n.classes, lambda);
}

void cutmix(Tensor& inputs, Tensor& soft_labels, float lambda, Random& random) {
  const BatchShape n = check_batch(inputs, soft_labels);
  const int64_t height = height_of(inputs), width = width_of(inputs);
  const double side = std::sqrt(1.0 - lambda);
  const int64_t rh = std::llround(side * static_cast<double>(height)), rw = std::llround(side * static_cast<double>(width));
  // The centre is anywhere, so that what sticks out is cut off.
  const auto cy = static_cast<int64_t>(random.below(static_cast<uint64_t>(height))),
             cx = static_cast<int64_t>(random.below(static_cast<uint64_t>(width)));
  const int64_t y0 = std::clamp<int64_t>(cy - rh / 2, 0, height), y1 = std::clamp<int64_t>(cy - rh / 2 + rh, 0, height);
  const int64_t x0 = std::clamp<int64_t>(cx - rw / 2, 0, width), x1 = std::clamp<int64_t>(cx - rw / 2 + rw, 0, width);
  const int64_t planes = n.elements / std::max<int64_t>(height * width, 1);
  for (int64_t i = 0; i < n.samples / 2; ++i) {
    float *a = inputs.data<float>() + i * n.elements, *b = inputs.data<float>() + (n.samples - 1 - i) * n.elements;
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t y = y0; y < y1; ++y)
        std::swap_ranges(a + (p * height + y) * width + x0, a + (p * height + y) * width + x1, b + (p * height + y) * width + x0);
  }
  const float kept = 1 - static_cast<float>((y1 - y0) * (x1 - x0)) / static_cast<float>(height * width);
  blend_pairs(soft_labels, n.samples, n.classes, kept);
}

Tensor one_hot(const Tensor& labels, int64_t classes) {
  Tensor out(DType::kF32, {labels.size(), classes});
  std::fill_n(out.data<float>(), out.size(), 0.0f);
  for (int64_t i = 0; i < labels.size(); ++i) {
    const int64_t label = labels.data<int64_t>()[i];
    require(label >= 0 && label < classes, "label {} of {} classes", label, classes);
    out.data<float>()[i * classes + label] = 1;
  }
  return out;
}

}  // namespace lathe
