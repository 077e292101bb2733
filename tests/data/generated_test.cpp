// What the generated sets promise: the same everywhere, nothing to learn from a single frame, boxes that fit.
#include <cmath>
#include <complex>
#include <numbers>

#include "data/sources.h"
#include "fixture.h"

namespace lathe {
namespace {

using testing::HasSubstr;

TEST_F(DataTest, GeneratedPartsAreTheSameEachTimeAndApart) {
  for (const char* name : {"generated:moving-shapes,count=40,frames=4,size=16", "generated:shapes,count=40,size=32"}) {
    DataParts a = open_dataset(name), b = open_dataset(name), other = open_dataset(std::string(name) + ",seed=2");
    EXPECT_EQ(a.train->size(), 40u);
    EXPECT_EQ(a.test->size(), 4u);
    EXPECT_TRUE(same(a.train->sample(7).input, b.train->sample(7).input));
    EXPECT_FALSE(same(a.train->sample(7).input, other.train->sample(7).input));
    EXPECT_FALSE(same(a.train->sample(3).input, a.test->sample(3).input));
    EXPECT_FALSE(same(a.train->sample(3).input, a.validation->sample(3).input));
    // More of them begin with the same ones.
    EXPECT_TRUE(same(open_dataset(std::string(name).replace(std::string(name).find("=40"), 3, "=90")).train->sample(7).input,
                     a.train->sample(7).input));
  }
  EXPECT_EQ(open_dataset("generated:moving-shapes,count=20,channels=1,frames=5,size=24").train->sample(0).input.shape(),
            (Shape{1, 5, 24, 24}));
  EXPECT_THAT(fault_of("generated:moving-shapes,limit=3", ErrorKind::kUsage), HasSubstr("no option 'limit'"));
  EXPECT_THAT(fault_of("generated:cats", ErrorKind::kUsage), HasSubstr("generated:shapes"));
  EXPECT_THAT(fault_of("generated:shapes,classes=9", ErrorKind::kUsage), HasSubstr("from 1 to 5"));
}

constexpr int64_t kSize = 32;

// The first harmonic along an axis: its angle is where a shape stands on a picture that goes around.
double place(const Tensor& clip, int64_t frame, bool vertical) {
  std::complex<double> sum = 0;
  const uint8_t* p = clip.data<uint8_t>() + frame * kSize * kSize;
  for (int64_t y = 0; y < kSize; ++y)
    for (int64_t x = 0; x < kSize; ++x)
      sum += static_cast<double>(p[y * kSize + x]) * std::polar(1.0, 2 * std::numbers::pi * static_cast<double>(vertical ? y : x) / kSize);
  return std::arg(sum);
}

double turned(double from, double to) { return std::remainder(to - from, 2 * std::numbers::pi); }

TEST_F(DataTest, MovingShapesAreToldApartByTheirMovement) {
  DataParts d = open_dataset("generated:moving-shapes,count=400,channels=1,noise=0");
  int64_t right = 0, directions = 0;
  for (size_t i = 0; i < d.train->size(); ++i) {
    Sample s = d.train->sample(i);
    const double dx = turned(place(s.input, 0, false), place(s.input, 2, false)),
                 dy = turned(place(s.input, 0, true), place(s.input, 2, true));
    if (s.label >= 8) {
      EXPECT_LT(std::hypot(dx, dy), 0.2) << "rotation stays where it is";
      continue;
    }
    ++directions;
    const double angle = std::atan2(dy, dx);
    right += (static_cast<int64_t>(std::lround(angle / (std::numbers::pi / 4))) + 8) % 8 == s.label;
  }
  EXPECT_EQ(directions, 320);
  EXPECT_GE(right, 310);
}

TEST_F(DataTest, TheFirstFrameDoesNotDependOnTheClass) {
  for (uint64_t seed : {1, 2, 3}) {
    auto clip_of = [](int64_t c, uint64_t s) { return draw_moving_shape(c, s, 3, 4, kSize, 0.05); };
    Tensor first = clip_of(0, seed);
    for (int64_t c = 1; c < 10; ++c) {
      Tensor other = clip_of(c, seed);
      for (int64_t channel = 0; channel < 3; ++channel)
        EXPECT_EQ(std::memcmp(first.data<uint8_t>() + channel * 4 * kSize * kSize, other.data<uint8_t>() + channel * 4 * kSize * kSize,
                              kSize * kSize),
                  0);
      EXPECT_FALSE(same(first, other));
    }
  }
}

// Nearest neighbour by single frames at any time stays at chance, by differences of two frames it does not: a class is in the movement
// only.
TEST_F(DataTest, SingleFramesSayNothingAboutTheClass) {
  DataParts d = open_dataset("generated:moving-shapes,count=1500,channels=1,noise=0.02,validation=500");
  for (int64_t frame : {0, 7, 15}) {
    auto features = [&](const TrainingSet& set) {
      std::vector<std::vector<float>> rows;
      for (size_t i = 0; i < set.size(); ++i) {
        Sample s = set.sample(i);
        const uint8_t* p = s.input.data<uint8_t>() + frame * kSize * kSize;
        std::vector<float>& row = rows.emplace_back();
        for (int64_t y = 0; y < kSize; y += 2)
          for (int64_t x = 0; x < kSize; x += 2)
            row.push_back(
                static_cast<float>(p[y * kSize + x] + p[y * kSize + x + 1] + p[(y + 1) * kSize + x] + p[(y + 1) * kSize + x + 1]));
      }
      return rows;
    };
    const auto known = features(*d.train), asked = features(*d.validation);
    int hits = 0;
    for (size_t i = 0; i < asked.size(); ++i) {
      float best = INFINITY;
      size_t at = 0;
      for (size_t k = 0; k < known.size(); ++k) {
        float distance = 0;
        for (size_t e = 0; e < asked[i].size(); ++e) distance += (asked[i][e] - known[k][e]) * (asked[i][e] - known[k][e]);
        if (distance < best) best = distance, at = k;
      }
      hits += d.train->label(at) == d.validation->label(i);
    }
    // 500 at a chance of 0.1: 50 ± 6.7; beyond four deviations is no chance.
    EXPECT_LT(hits, 77) << frame;
    EXPECT_GT(hits, 23) << frame;
  }
}

TEST_F(DataTest, BoxesOfShapesFitThem) {
  // Without noise and of one object, the pixels that differ from a picture of the same background would be the box: the background is
  // smooth, so edges are where neighbouring pixels jump.
  DataParts d = open_dataset("generated:shapes,count=200,size=96,objects=1,noise=0,channels=1,classes=5");
  int64_t counted = 0;
  for (size_t i = 0; i < d.train->size(); ++i) {
    Sample s = d.train->sample(i);
    ASSERT_EQ(s.boxes.size(), 1u);
    const TrueBox& b = s.boxes[0];
    EXPECT_GE(b.x0, 0);
    EXPECT_GE(b.y0, 0);
    EXPECT_LE(b.x1, 96);
    EXPECT_LE(b.y1, 96);
    float x0 = 96, y0 = 96, x1 = 0, y1 = 0;
    const uint8_t* p = s.input.data<uint8_t>();
    for (int y = 0; y < 95; ++y)
      for (int x = 0; x < 95; ++x)
        if (std::abs(p[y * 96 + x] - p[y * 96 + x + 1]) > 12 || std::abs(p[y * 96 + x] - p[(y + 1) * 96 + x]) > 12) {
          x0 = std::min(x0, static_cast<float>(x + 1));
          y0 = std::min(y0, static_cast<float>(y + 1));
          x1 = std::max(x1, static_cast<float>(x + 1));
          y1 = std::max(y1, static_cast<float>(y + 1));
        }
    if (x1 == 0) continue;  // grey of too little contrast to find
    counted += std::fabs(x0 - b.x0) < 3 && std::fabs(y0 - b.y0) < 3 && std::fabs(x1 - b.x1) < 3 && std::fabs(y1 - b.y1) < 3;
  }
  EXPECT_GE(counted, 180);
  std::vector<int> classes(3);
  size_t boxes = 0;
  DataParts more = open_dataset("generated:shapes,count=300");
  for (size_t i = 0; i < more.train->size(); ++i)
    for (const TrueBox& b : more.train->sample(i).boxes) ++classes.at(static_cast<size_t>(b.class_index)), ++boxes;
  EXPECT_GT(boxes, 500u);
  for (int n : classes) EXPECT_GT(n, static_cast<int>(boxes / 4));
}

}  // namespace
}  // namespace lathe
