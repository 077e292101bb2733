// Sets that are drawn when they are asked for: any size, no files, the same pictures everywhere.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "data/random.h"
#include "data/sources.h"

namespace lathe {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;
enum Part : uint64_t { kTrainPart = 1, kValidationPart, kTestPart };

struct Point {
  double x, y;
};
using Polygon = std::vector<Point>;

Polygon regular(int corners) {
  Polygon p;
  for (int i = 0; i < corners; ++i) p.push_back({std::sin(kTurn * i / corners), -std::cos(kTurn * i / corners)});
  return p;
}

Polygon placed(const Polygon& p, double x, double y, double radius, double angle) {
  Polygon result;
  const double c = radius * std::cos(angle), s = radius * std::sin(angle);
  for (Point v : p) result.push_back({x + c * v.x - s * v.y, y + s * v.x + c * v.y});
  return result;
}

// How much of each pixel lies in the polygon (even-odd), from kLines lines through every row, exact along them. Added to `cover`
// [size, size]; what lies outside of it comes in at the other side where `wrap`, and is left out otherwise.
void cover_polygon(const Polygon& polygon, int64_t size, bool wrap, std::vector<float>& cover) {
  constexpr int kLines = 4;
  double top = polygon[0].y, bottom = polygon[0].y;
  for (Point p : polygon) top = std::min(top, p.y), bottom = std::max(bottom, p.y);
  std::vector<double> crossings;
  for (auto y = static_cast<int64_t>(std::floor(top)); y <= static_cast<int64_t>(std::floor(bottom)); ++y) {
    if (!wrap && (y < 0 || y >= size)) continue;
    float* row = cover.data() + ((y % size + size) % size) * size;
    for (int line = 0; line < kLines; ++line) {
      const double at = static_cast<double>(y) + (line + 0.5) / kLines;
      crossings.clear();
      for (size_t i = 0; i < polygon.size(); ++i) {
        Point a = polygon[i], b = polygon[(i + 1) % polygon.size()];
        if ((a.y <= at) != (b.y <= at)) crossings.push_back(a.x + (at - a.y) / (b.y - a.y) * (b.x - a.x));
      }
      std::sort(crossings.begin(), crossings.end());
      for (size_t i = 0; i + 1 < crossings.size(); i += 2) {
        const double from = crossings[i], to = crossings[i + 1];
        for (auto x = static_cast<int64_t>(std::floor(from)); static_cast<double>(x) < to; ++x) {
          if (!wrap && (x < 0 || x >= size)) continue;
          const double part = std::min(to, static_cast<double>(x + 1)) - std::max(from, static_cast<double>(x));
          row[(x % size + size) % size] += static_cast<float>(part / kLines);
        }
      }
    }
  }
}

// About normal, deviation 1: the sum of four bytes (Irwin and Hall), two from one draw.
class Noise {
 public:
  explicit Noise(Random& random) : random_(random) {}
  float operator()() {
    if (left_ == 0) bits_ = random_.bits(), left_ = 2;
    uint32_t four = static_cast<uint32_t>(bits_);
    bits_ >>= 32;
    --left_;
    const auto sum = static_cast<int>((four & 255) + (four >> 8 & 255) + (four >> 16 & 255) + (four >> 24));
    constexpr float kDeviation = 147.8f;  // √(4 · (256² − 1) / 12)
    return static_cast<float>(sum - 510) / kDeviation;
  }

 private:
  Random& random_;
  uint64_t bits_ = 0;
  int left_ = 0;
};

using Color = std::array<double, 3>;
double luma(const Color& c) { return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]; }
Color any_color(Random& random) { return {random.uniform(), random.uniform(), random.uniform()}; }
// Two colours that a grey picture tells apart as well.
std::pair<Color, Color> two_colors(Random& random) {
  constexpr double kContrast = 0.35;
  for (;;) {
    Color a = any_color(random), b = any_color(random);
    if (std::fabs(luma(a) - luma(b)) >= kContrast) return {a, b};
  }
}
double channel(const Color& color, int64_t c, int64_t channels) { return channels == 1 ? luma(color) : color[static_cast<size_t>(c)]; }
uint8_t pixel(double value) { return static_cast<uint8_t>(std::clamp(std::lround(value * 255), 0l, 255l)); }

// None looks the same before and after the largest turn of one frame, 20 degrees.
const std::vector<Polygon>& moving_forms() {
  static const std::vector<Polygon> forms = {regular(3),
                                             regular(4),
                                             {{-1, -0.35}, {1, -0.35}, {1, 0.35}, {-1, 0.35}},
                                             {{-0.3, -1},
                                              {0.3, -1},
                                              {0.3, -0.3},
                                              {1, -0.3},
                                              {1, 0.3},
                                              {0.3, 0.3},
                                              {0.3, 1},
                                              {-0.3, 1},
                                              {-0.3, 0.3},
                                              {-1, 0.3},
                                              {-1, -0.3},
                                              {-0.3, -0.3}},
                                             {{-0.7, -0.9}, {-0.1, -0.9}, {-0.1, 0.3}, {0.7, 0.3}, {0.7, 0.9}, {-0.7, 0.9}}};
  return forms;
}

const std::vector<std::string> kMotions = {"right",   "down-right", "down",     "down-left", "left",
                                           "up-left", "up",         "up-right", "clockwise", "counter-clockwise"};
constexpr int64_t kDirections = 8;

class MovingShapes : public TrainingSet {
 public:
  struct Options {
    uint64_t seed = 1;
    int64_t channels = 3, frames = 16, size = 32;
    double noise = 0.05;
  };
  MovingShapes(const Options& options, Part part, int64_t count) : o_(options), part_(part), count_(count) { classes_ = kMotions; }
  size_t size() const override { return static_cast<size_t>(count_); }
  // As many of each class, whatever the count.
  int64_t label(size_t i) const override { return static_cast<int64_t>(i % kMotions.size()); }
  std::string name(size_t i) const override { return fmt::format("moving-shapes[{}]", i); }
  bool in_memory() const override { return false; }
  Sample sample(size_t i) const override {
    const uint64_t seed = Random(o_.seed, part_, i).bits();
    return {draw_moving_shape(label(i), seed, o_.channels, o_.frames, o_.size, o_.noise), label(i), {}, {}};
  }

 private:
  Options o_;
  Part part_;
  int64_t count_;
};

// --- shapes to detect ------------------------------------------------------------------------------

const std::vector<std::string> kShapes = {"circle", "square", "triangle", "star", "cross"};

// All corners within the radius of 1.
Polygon form_of(int64_t shape) {
  switch (shape) {
    case 0: return regular(48);  // to 0.2 % of the radius
    case 1: return regular(4);
    case 2: return regular(3);
    case 3: {
      Polygon star = regular(10);
      for (size_t i = 1; i < star.size(); i += 2) star[i] = {0.45 * star[i].x, 0.45 * star[i].y};
      return star;
    }
    default: {
      const Polygon& cross = moving_forms()[3];
      return placed(cross, 0, 0, 1 / std::hypot(cross[0].x, cross[0].y), 0);
    }
  }
}

float overlap(const TrueBox& a, const TrueBox& b) {
  float w = std::min(a.x1, b.x1) - std::max(a.x0, b.x0), h = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  if (w <= 0 || h <= 0) return 0;
  auto area = [](const TrueBox& x) { return (x.x1 - x.x0) * (x.y1 - x.y0); };
  return w * h / (area(a) + area(b) - w * h);
}

class Shapes : public TrainingSet {
 public:
  struct Options {
    uint64_t seed = 1;
    int64_t channels = 3, size = 96, classes = 3, objects = 4;
    double noise = 0.05;
  };
  Shapes(const Options& options, Part part, int64_t count) : o_(options), part_(part), count_(count) {
    classes_.assign(kShapes.begin(), kShapes.begin() + o_.classes);
    truth_ = TrainingTruth::kBoxes;
  }
  size_t size() const override { return static_cast<size_t>(count_); }
  int64_t label(size_t) const override { return -1; }
  std::string name(size_t i) const override { return fmt::format("shapes[{}]", i); }
  bool in_memory() const override { return false; }

  Sample sample(size_t i) const override {
    constexpr int kTries = 20;
    constexpr float kMostOverlap = 0.2f;
    constexpr double kLeastContrast = 0.2;
    Random random(o_.seed, part_, i);
    const int64_t size = o_.size, plane = size * size;
    const auto whole = static_cast<double>(size);
    // A background that goes from one colour to another in some direction.
    const Color from = any_color(random), to = any_color(random);
    const double angle = random.uniform(0, kTurn), dx = std::cos(angle), dy = std::sin(angle);
    std::vector<double> picture(static_cast<size_t>(o_.channels * plane));
    auto background = [&](double x, double y, int64_t c) {
      const double t = 0.5 + ((x / whole - 0.5) * dx + (y / whole - 0.5) * dy) / std::numbers::sqrt2;
      return channel(from, c, o_.channels) * (1 - t) + channel(to, c, o_.channels) * t;
    };
    for (int64_t c = 0; c < o_.channels; ++c)
      for (int64_t y = 0; y < size; ++y)
        for (int64_t x = 0; x < size; ++x)
          picture[static_cast<size_t>(c * plane + y * size + x)] =
              background(static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5, c);
    Sample s;
    const auto wanted = 1 + random.below(static_cast<uint64_t>(o_.objects));
    for (int attempt = 0; attempt < kTries && s.boxes.size() < wanted; ++attempt) {
      const auto shape = static_cast<int64_t>(random.below(static_cast<uint64_t>(o_.classes)));
      const double radius = whole * random.uniform(0.08, 0.25), x = random.uniform(radius, whole - radius),
                   y = random.uniform(radius, whole - radius);
      const Polygon polygon = placed(form_of(shape), x, y, radius, random.uniform(0, kTurn));
      // Told apart, in grey too, from what lies below its middle.
      Color below{};
      for (int64_t c = 0; c < o_.channels; ++c) below[static_cast<size_t>(c)] = background(x, y, c);
      const double grey = o_.channels == 1 ? below[0] : luma(below);
      Color color = any_color(random);
      while (std::fabs(luma(color) - grey) < kLeastContrast) color = any_color(random);
      TrueBox box{static_cast<float>(size), static_cast<float>(size), 0, 0, shape};
      for (Point p : polygon) {
        box.x0 = std::min(box.x0, static_cast<float>(p.x));
        box.y0 = std::min(box.y0, static_cast<float>(p.y));
        box.x1 = std::max(box.x1, static_cast<float>(p.x));
        box.y1 = std::max(box.y1, static_cast<float>(p.y));
      }
      if (std::any_of(s.boxes.begin(), s.boxes.end(), [&](const TrueBox& b) { return overlap(b, box) > kMostOverlap; })) continue;
      s.boxes.push_back(box);
      std::vector<float> cover(static_cast<size_t>(plane));
      cover_polygon(polygon, size, false, cover);
      for (int64_t c = 0; c < o_.channels; ++c)
        for (int64_t p = 0; p < plane; ++p) {
          double& v = picture[static_cast<size_t>(c * plane + p)];
          v += (channel(color, c, o_.channels) - v) * std::min(cover[static_cast<size_t>(p)], 1.0f);
        }
    }
    s.input = Tensor(DType::kU8, {o_.channels, size, size});
    Noise noise(random);
    for (int64_t p = 0; p < o_.channels * plane; ++p)
      s.input.data<uint8_t>()[p] = pixel(picture[static_cast<size_t>(p)] + o_.noise * noise());
    return s;
  }

 private:
  Options o_;
  Part part_;
  int64_t count_;
};

struct Counts {
  int64_t train, validation, test;
};

Counts counts_of(DataSpec& spec, int64_t usual) {
  constexpr int64_t kMost = 100'000'000;
  const int64_t train = spec.integer("count", usual, 1, kMost), tenth = std::max<int64_t>(train / 10, 1);
  return {train, spec.integer("validation", tenth, 0, kMost), spec.integer("test", tenth, 0, kMost)};
}

template <class Set>
DataParts parts_of(const typename Set::Options& options, const Counts& n, const std::string& what) {
  auto train = std::make_shared<Set>(options, kTrainPart, n.train);
  return {train, std::make_shared<Set>(options, kValidationPart, n.validation), std::make_shared<Set>(options, kTestPart, n.test),
          fmt::format("{}, {} train / {} validation / {} test, {} classes", what, n.train, n.validation, n.test, train->classes().size())};
}

}  // namespace

Tensor draw_moving_shape(int64_t class_index, uint64_t seed, int64_t channels, int64_t frames, int64_t size, double noise_strength) {
  require(class_index >= 0 && class_index < static_cast<int64_t>(kMotions.size()), "moving shapes: class {}", class_index);
  Random random(seed);
  const auto whole = static_cast<double>(size);
  // All of this is drawn alike for every class. The place and the angle are uniform on circles around which the movement goes, so that
  // they are uniform at any later time too: no single frame says anything about the class.
  const Polygon& form = moving_forms()[random.below(moving_forms().size())];
  const double radius = whole * random.uniform(0.15, 0.22), x = random.uniform(0, whole), y = random.uniform(0, whole);
  const double angle = random.uniform(0, kTurn), speed = whole * random.uniform(0.03, 0.08), turn = kTurn / 360 * random.uniform(8, 20);
  const auto [front, back] = two_colors(random);
  const bool turns = class_index >= kDirections;
  const double direction = kTurn * static_cast<double>(class_index) / kDirections;
  const double dx = turns ? 0 : speed * std::cos(direction), dy = turns ? 0 : speed * std::sin(direction);
  const double spin = !turns ? 0 : class_index == kDirections ? turn : -turn;
  Tensor clip(DType::kU8, {channels, frames, size, size});
  const int64_t plane = size * size;
  std::vector<float> cover(static_cast<size_t>(plane));
  for (int64_t t = 0; t < frames; ++t) {
    std::fill(cover.begin(), cover.end(), 0.0f);
    const auto time = static_cast<double>(t);
    cover_polygon(placed(form, std::fmod(x + dx * time, whole), std::fmod(y + dy * time, whole), radius, angle + spin * time), size, true,
                  cover);
    Noise noise(random);
    for (int64_t c = 0; c < channels; ++c) {
      const double low = channel(back, c, channels), high = channel(front, c, channels);
      uint8_t* to = clip.data<uint8_t>() + (c * frames + t) * plane;
      for (int64_t p = 0; p < plane; ++p)
        to[p] = pixel(low + (high - low) * std::min(cover[static_cast<size_t>(p)], 1.0f) + noise_strength * noise());
    }
  }
  return clip;
}

DataParts open_generated(DataSpec& spec) {
  const auto seed = static_cast<uint64_t>(spec.integer("seed", 1, 0, int64_t{1} << 52));
  const int64_t channels = spec.integer("channels", 3, 1, 3);
  if (channels == 2) fail(ErrorKind::kUsage, "data {}: channels must be 1 or 3", spec.text());
  const double noise = spec.number("noise", 0.05, 0, 1);
  if (spec.path() == "generated:moving-shapes") {
    MovingShapes::Options o{seed, channels, spec.integer("frames", 16, 1, 4096), spec.integer("size", 32, 8, 512), noise};
    Counts n = counts_of(spec, 2000);
    spec.finish();
    return parts_of<MovingShapes>(
        o, n, fmt::format("generated clips {} of moving shapes, seed {}", to_string({channels, o.frames, o.size, o.size}), seed));
  }
  if (spec.path() == "generated:shapes") {
    Shapes::Options o{seed,
                      channels,
                      spec.integer("size", 96, 16, 2048),
                      spec.integer("classes", 3, 1, static_cast<int64_t>(kShapes.size())),
                      spec.integer("objects", 4, 1, 16),
                      noise};
    Counts n = counts_of(spec, 5000);
    spec.finish();
    return parts_of<Shapes>(o, n, fmt::format("generated pictures {} of shapes, seed {}", to_string({channels, o.size, o.size}), seed));
  }
  fail(ErrorKind::kUsage, "data {}: there are generated:moving-shapes and generated:shapes", spec.text());
}

}  // namespace lathe
