#include "data/augment.h"

#include <cmath>
#include <set>

#include "data/color.h"
#include "fixture.h"

namespace lathe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A dark picture with one bright rectangle, its box, and a mask of it.
Sample marked(int64_t height, int64_t width, int x0, int y0, int x1, int y1, int64_t frames = 0) {
  Sample s;
  const int64_t planes = 3 * std::max<int64_t>(frames, 1);
  s.input = frames > 0 ? Tensor(DType::kU8, {3, frames, height, width}) : Tensor(DType::kU8, {3, height, width});
  s.mask = Tensor(DType::kU8, {height, width});
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const bool inside = x >= x0 && x < x1 && y >= y0 && y < y1;
      for (int64_t p = 0; p < planes; ++p) s.input.data<uint8_t>()[(p * height + y) * width + x] = inside ? 255 : 1;
      s.mask.data<uint8_t>()[y * width + x] = inside ? 2 : 1;
    }
  s.boxes = {{static_cast<float>(x0), static_cast<float>(y0), static_cast<float>(x1), static_cast<float>(y1), 2}};
  s.label = 2;
  return s;
}

// The rectangle of the pixels above the middle.
std::array<int64_t, 4> bright(const Tensor& t) {
  const int64_t height = t.dim(-2), width = t.dim(-1);
  std::array<int64_t, 4> r{width, height, 0, 0};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      if (t.data<uint8_t>()[y * width + x] > 128) r = {std::min(r[0], x), std::min(r[1], y), std::max(r[2], x + 1), std::max(r[3], y + 1)};
  return r;
}

AugmentOptions with(const std::string& text, int64_t height = 0, int64_t width = 0) {
  AugmentOptions o = parse_augment(text);
  o.height = height;
  o.width = width;
  return o;
}

TEST(Random, IsSpreadAndTheSameEverywhere) {
  EXPECT_EQ(Random(1, 2, 3).bits(), Random(1, 2, 3).bits());
  EXPECT_NE(Random(1, 2, 3).bits(), Random(1, 3, 2).bits());
  EXPECT_NE(Random(0).bits(), Random(0, 1).bits());
  Random r(7);
  double sum = 0, squares = 0, beta = 0, gamma = 0;
  std::vector<int> counts(7);
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = r.normal();
    sum += x;
    squares += x * x;
    beta += r.beta(0.2, 0.2);
    gamma += r.gamma(0.5);
    ++counts[r.below(7)];
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
  EXPECT_NEAR(beta / kDraws, 0.5, 0.01);
  EXPECT_NEAR(gamma / kDraws, 0.5, 0.01);
  for (int n : counts) EXPECT_NEAR(n, kDraws / 7, 600);
  std::vector<size_t> p = r.permutation(100), sorted = p;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NE(p, sorted);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(sorted[i], i);
  EXPECT_EQ(r.below(0), 0u);
}

TEST(Augment, LeavesTheSetsSampleAlone) {
  Sample kept = marked(20, 30, 3, 4, 12, 15), before{kept.input.clone(), 2, kept.boxes, kept.mask.clone()};
  for (const char* text : {"flip=1,crop=3,jitter=0.4:0.4:0.4:0.1,randaugment=3:20,erase=1", "resized-crop,flip", "clip-crop", "ssd-crop"}) {
    Sample s = kept;
    Random random(1, 2, 3);
    augment(s, with(text, 16, 16), random);
    EXPECT_TRUE(same(kept.input, before.input)) << text;
    EXPECT_TRUE(same(kept.mask, before.mask)) << text;
    EXPECT_EQ(s.input.shape(), (Shape{3, 16, 16}));
    EXPECT_EQ(s.mask.shape(), (Shape{16, 16}));
    Sample again = kept;
    Random once_more(1, 2, 3);
    augment(again, with(text, 16, 16), once_more);
    EXPECT_TRUE(same(again.input, s.input)) << text;
  }
}

TEST(Augment, BoxesAndMasksFollowThePicture) {
  int seen = 0;
  for (const char* text : {"flip=1", "crop=6", "flip,crop=6", "resized-crop=0.3,flip", "clip-crop,flip", "ssd-crop,flip"}) {
    for (int64_t side : {0, 48, 64}) {
      for (uint64_t i = 0; i < 60; ++i) {
        Random place(i);
        const auto x0 = static_cast<int>(place.below(30)), y0 = static_cast<int>(place.below(20));
        Sample s = marked(40, 56, x0, y0, x0 + 8 + static_cast<int>(place.below(18)), y0 + 8 + static_cast<int>(place.below(12)));
        Random random(5, i);
        augment(s, with(text, side, side), random);
        const auto r = bright(s.input);
        for (int64_t p = 0; p < s.mask.size(); ++p) {
          const int m = s.mask.data<uint8_t>()[p], v = s.input.data<uint8_t>()[p];
          ASSERT_TRUE(v <= 250 || m == 2) << text;
          ASSERT_TRUE(v == 0 || v >= 5 || m == 1) << text;
        }
        if (s.boxes.empty()) continue;
        ++seen;
        const TrueBox& b = s.boxes[0];
        // Half a pixel of the input is up to two of the output.
        constexpr float kNear = 2.1f;
        ASSERT_NEAR(b.x0, r[0], kNear) << text << " " << i;
        ASSERT_NEAR(b.y0, r[1], kNear) << text << " " << i;
        ASSERT_NEAR(b.x1, r[2], kNear) << text << " " << i;
        ASSERT_NEAR(b.y1, r[3], kNear) << text << " " << i;
      }
    }
  }
  EXPECT_GT(seen, 700);
}

TEST(Augment, BoxesThatLeaveThePictureGo) {
  Sample s = marked(20, 20, 0, 0, 20, 20);
  s.boxes = {{0, 0, 4, 4, 1}, {8, 8, 12, 12, 0}, {3, 8, 7, 12, 2}};
  AugmentOptions o;
  o.height = 20;
  o.width = 10;
  o.fit = Fit::kPad;  // columns 5 … 15
  Random random(1);
  augment(s, o, random);
  ASSERT_EQ(s.boxes.size(), 2u);
  EXPECT_EQ(s.boxes[0].x0, 3);
  EXPECT_EQ(s.boxes[1].x0, 0);  // half of it is left
  EXPECT_EQ(s.boxes[1].x1, 2);
  EXPECT_EQ(s.boxes[1].class_index, 2);
}

TEST(Augment, FlipPadAndCropMoveElementsExactly) {
  for (DType type : {DType::kU8, DType::kF32}) {
    for (Shape shape : {Shape{2, 5, 7}, Shape{1, 1, 1}, Shape{3, 2, 5, 7}}) {
      const Tensor in = noise(shape, 3, type);
      const int64_t h = in.dim(-2), w = in.dim(-1), planes = in.size() / (h * w);
      Sample s{in, 0, {}, {}};
      Random random(1);
      augment(s, with("flip=1"), random);
      for (int64_t i = 0; i < in.size(); ++i) ASSERT_EQ(s.input.get(i), in.get(i - i % w + w - 1 - i % w));
      std::set<std::pair<int64_t, int64_t>> shifts;
      for (uint64_t k = 0; k < 200; ++k) {
        s.input = in;
        Random r(k);
        augment(s, with("crop=2"), r);
        ASSERT_EQ(s.input.shape(), in.shape());
        // Found by search: one of the 25 shifts explains all elements.
        int fits = 0;
        for (int64_t dy = -2; dy <= 2; ++dy)
          for (int64_t dx = -2; dx <= 2; ++dx) {
            bool fit = true;
            for (int64_t p = 0; p < planes && fit; ++p)
              for (int64_t y = 0; y < h && fit; ++y)
                for (int64_t x = 0; x < w && fit; ++x) {
                  const int64_t fy = y + dy, fx = x + dx;
                  const double expected = fy < 0 || fy >= h || fx < 0 || fx >= w ? 0 : in.get((p * h + fy) * w + fx);
                  fit = s.input.get((p * h + y) * w + x) == expected;
                }
            fits += fit;
            if (fit) shifts.insert({dy, dx});
          }
        ASSERT_GE(fits, 1);
      }
      EXPECT_EQ(shifts.size(), 25u);
    }
  }
}

TEST(Augment, FitsSizesWithoutChance) {
  Random random(1);
  Sample s{noise({1, 28, 28}, 1), 0, {}, {}};
  AugmentOptions o;
  augment(s, o, random);
  EXPECT_TRUE(same(s.input, noise({1, 28, 28}, 1)));
  o.height = o.width = 32;
  o.fit = Fit::kPad;
  augment(s, o, random);
  ASSERT_EQ(s.input.shape(), (Shape{1, 32, 32}));
  EXPECT_EQ(s.input.get(0), 0);
  EXPECT_EQ(s.input.get(2 * 32 + 2), noise({1, 28, 28}, 1).get(0));
  for (Fit fit : {Fit::kStretch, Fit::kCrop}) {
    Sample m = marked(30, 60, 20, 5, 40, 25);
    o.fit = fit;
    o.height = o.width = 30;
    augment(m, o, random);
    const auto r = bright(m.input);
    // Stretched, half as wide; cropped, the middle as it was.
    EXPECT_THAT(r, fit == Fit::kStretch ? ElementsAre(10, 5, 20, 25) : ElementsAre(5, 5, 25, 25));
  }
  o.crop_ratio = 0.5;
  o.fit = Fit::kCrop;
  Sample m = marked(30, 60, 25, 10, 35, 20);
  augment(m, o, random);
  EXPECT_NEAR(m.boxes.at(0).x1 - m.boxes[0].x0, 20, 1e-4);
}

TEST(Augment, AClipIsChangedAlikeInAllFrames) {
  for (const char* text : {"flip", "crop=3", "clip-crop,flip", "resized-crop", "jitter=0.5:0.5:0.5:0.3", "randaugment=3:25"}) {
    for (uint64_t i = 0; i < 30; ++i) {
      const Tensor frame = noise({3, 1, 12, 16}, static_cast<unsigned>(i));
      Sample s{clip_window(frame, 0, 4), 0, {}, {}};  // one frame, four times
      AugmentOptions o = with(text, 10, 10);
      o.frames = 4;
      Random random(i);
      augment(s, o, random);
      ASSERT_EQ(s.input.shape(), (Shape{3, 4, 10, 10}));
      for (int64_t c = 0; c < 3; ++c)
        for (int64_t t = 1; t < 4; ++t)
          ASSERT_EQ(std::memcmp(s.input.data<uint8_t>() + c * 400, s.input.data<uint8_t>() + (c * 4 + t) * 100, 100), 0) << text;
    }
  }
}

TEST(Augment, WindowsInTime) {
  Tensor clip(DType::kU8, {2, 5, 1, 1});
  for (int64_t i = 0; i < 10; ++i) clip.set(i, static_cast<double>(i));
  EXPECT_THAT(clip_window(clip, 1, 3).to_f32(), ElementsAre(1, 2, 3, 6, 7, 8));
  EXPECT_THAT(clip_window(clip, 0, 7).to_f32(), ElementsAre(0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 9, 5, 6));  // shorter than wanted: looped
  EXPECT_THAT(clip_windows(40, 16), ElementsAre(0, 16));
  EXPECT_THAT(clip_windows(16, 16), ElementsAre(0));
  EXPECT_THAT(clip_windows(5, 16), ElementsAre(0));
  AugmentOptions o;
  o.frames = 3;
  Sample s{clip, 0, {}, {}};
  Random random(1);
  augment(s, o, random);
  EXPECT_EQ(s.input.get(0), 1);  // the middle one
  o.random = true;
  std::set<double> starts;
  for (uint64_t i = 0; i < 60; ++i) {
    s.input = clip;
    Random r(i);
    augment(s, o, r);
    starts.insert(s.input.get(0));
  }
  EXPECT_EQ(starts, (std::set<double>{0, 1, 2}));
}

TEST(Augment, SsdCropsKeepWhatTheyPromise) {
  int whole = 0;
  constexpr int kDraws = 600;
  for (uint64_t i = 0; i < kDraws; ++i) {
    Sample s = marked(64, 96, 30, 20, 60, 50);
    Random random(9, i);
    augment(s, with("ssd-crop", 64, 96), random);
    ASSERT_LE(s.boxes.size(), 1u);
    // A crop is only taken when it holds some of a box.
    ASSERT_EQ(s.boxes.size(), 1u) << i;
    whole += s.boxes[0].x1 - s.boxes[0].x0 == 30;
  }
  EXPECT_GT(whole, kDraws / 10);  // 15 of 100 keep the original
  EXPECT_LT(whole, kDraws / 2);
}

TEST(Augment, ErasesARectangle) {
  Sample s{Tensor(DType::kU8, {1, 40, 40}), 0, {}, {}};
  std::fill_n(s.input.data<uint8_t>(), 1600, uint8_t{0});
  Random random(3);
  augment(s, with("erase=1"), random);
  int changed = 0;
  for (int64_t i = 0; i < 1600; ++i) changed += s.input.get(i) != 0;
  EXPECT_GT(changed, 25);
  EXPECT_LT(changed, 560);
}

TEST(Color, OperationsAsDefined) {
  auto one = [](std::vector<int> values, int64_t channels = 1) {
    Tensor t(DType::kU8, {channels, 1, static_cast<int64_t>(values.size()) / channels});
    for (size_t i = 0; i < values.size(); ++i) t.set_int(static_cast<int64_t>(i), values[i]);
    return t;
  };
  auto after = [](Tensor t, auto&& f) {
    f(t);
    return t.to_f32();
  };
  EXPECT_THAT(after(one({0, 100, 200}), [](Tensor& t) { adjust_brightness(t, 1.5); }), ElementsAre(0, 150, 255));
  EXPECT_THAT(after(one({50, 100, 150}), [](Tensor& t) { adjust_contrast(t, 0); }), ElementsAre(100, 100, 100));
  EXPECT_THAT(after(one({50, 100, 150}), [](Tensor& t) { adjust_contrast(t, 2); }), ElementsAre(0, 100, 200));
  EXPECT_THAT(after(one({255, 0, 0}, 3), [](Tensor& t) { adjust_saturation(t, 0); }), ElementsAre(76, 76, 76));
  EXPECT_THAT(after(one({9, 8}, 1), [](Tensor& t) { adjust_saturation(t, 0); }), ElementsAre(9, 8));
  EXPECT_THAT(after(one({0, 127, 128, 255}), [](Tensor& t) { solarize(t, 128); }), ElementsAre(0, 127, 127, 0));
  EXPECT_THAT(after(one({0, 127, 128, 255}), [](Tensor& t) { posterize(t, 1); }), ElementsAre(0, 0, 128, 128));
  EXPECT_THAT(after(one({10, 20, 30}), [](Tensor& t) { stretch_contrast(t); }), ElementsAre(0, 128, 255));
  EXPECT_THAT(after(one({7, 7}), [](Tensor& t) { stretch_contrast(t); }), ElementsAre(7, 7));
  // A third of the circle moves red to green to blue.
  EXPECT_THAT(after(one({200, 10, 10}, 3), [](Tensor& t) { adjust_hue(t, 1.0 / 3); }), ElementsAre(10, 200, 10));
  EXPECT_THAT(after(one({200, 10, 10}, 3), [](Tensor& t) { adjust_hue(t, -1.0 / 3); }), ElementsAre(10, 10, 200));
  // A turn and back changes nothing but rounding.
  Tensor t = noise({3, 20, 20}, 5), back = t.clone();
  adjust_hue(back, 0.2);
  adjust_hue(back, -0.2);
  for (int64_t i = 0; i < t.size(); ++i) ASSERT_NEAR(back.get(i), t.get(i), 6);
  // Equalizing spreads a ramp of few values over all.
  Tensor ramp(DType::kU8, {1, 64, 64});
  for (int64_t i = 0; i < ramp.size(); ++i) ramp.set_int(i, 100 + i % 4);
  equalize(ramp);
  EXPECT_THAT((std::vector<double>{ramp.get(0), ramp.get(1), ramp.get(2), ramp.get(3)}),
              ElementsAre(testing::Lt(2), testing::Gt(80), testing::Gt(165), testing::Gt(250)));
  // A sharpness of 1 is the picture, one of 0 its smoothed form.
  Tensor point(DType::kU8, {1, 3, 3});
  for (int64_t i = 0; i < 9; ++i) point.set_int(i, i == 4 ? 130 : 0);
  EXPECT_EQ(after(point.clone(), [](Tensor& x) { adjust_sharpness(x, 1); })[4], 130);
  EXPECT_EQ(after(point.clone(), [](Tensor& x) { adjust_sharpness(x, 0); })[4], 50);
}

TEST(Color, WarpMovesWhereItSays) {
  const Tensor in = noise({2, 9, 9}, 4);
  Tensor shifted = in.clone(), turned = in.clone(), same_ = in.clone();
  warp(shifted, {1, 0, 2, 0, 1, -1});
  warp(turned, {0, 1, 0, -1, 0, 0});
  warp(same_, {});
  EXPECT_TRUE(same(same_, in));
  for (int64_t p = 0; p < 2; ++p)
    for (int64_t y = 0; y < 9; ++y)
      for (int64_t x = 0; x < 9; ++x) {
        const bool inside = x + 2 < 9 && y - 1 >= 0;
        ASSERT_EQ(shifted.get((p * 9 + y) * 9 + x), inside ? in.get((p * 9 + y - 1) * 9 + x + 2) : 0);
        ASSERT_EQ(turned.get((p * 9 + y) * 9 + x), in.get((p * 9 + 8 - x) * 9 + y));
      }
  Tensor far = in.clone();
  warp(far, {1e30, 0, 0, 0, -1e30, 5});
  EXPECT_EQ(far.shape(), in.shape());
}

TEST(Color, RandAugmentOfNoStrengthChangesNothing) {
  for (int operation = 0; operation < kRandAugmentOperations; ++operation) {
    for (Shape shape : {Shape{3, 11, 13}, Shape{1, 28, 28}, Shape{3, 2, 8, 8}, Shape{1, 1, 1}}) {
      const Tensor in = noise(shape, 2);
      Random random(1);
      Tensor out = in.clone();
      rand_augment_operation(out, operation, 0, random);
      // Those of histograms have no strength; solarize from 255 on inverts white to black.
      EXPECT_TRUE(operation == 1 || operation == 2 || operation == 4 || same(out, in)) << operation;
      out = in.clone();
      rand_augment_operation(out, operation, kMaxMagnitude, random);
      EXPECT_EQ(out.shape(), in.shape());
      // This noise has black and white already, and too few pixels for a histogram of 255 equal parts.
      EXPECT_TRUE(shape != (Shape{3, 11, 13}) || operation <= 2 || !same(out, in)) << operation;
    }
  }
}

TEST(Mixing, MixupAndCutmixKeepSums) {
  const int64_t n = 5, classes = 4;
  Tensor labels = Tensor::of_i64({0, 1, 2, 3, 1});
  for (float lambda : {0.0f, 0.3f, 1.0f}) {
    const Tensor x = noise({n, 2, 6, 7}, 1, DType::kF32);
    Tensor mixed = x.clone(), soft = one_hot(labels, classes);
    mixup(mixed, soft, lambda);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t e = 0; e < 84; ++e)
        ASSERT_NEAR(mixed.get(i * 84 + e),
                    i == 2 ? x.get(i * 84 + e) : lambda * x.get(i * 84 + e) + (1 - lambda) * x.get((n - 1 - i) * 84 + e), 1e-3);
    }
    EXPECT_NEAR(soft.get(0), lambda, 1e-6);       // of sample 0: its own
    EXPECT_NEAR(soft.get(1), 1 - lambda, 1e-6);   // and that of sample 4
    EXPECT_EQ(soft.get(2 * classes + 2), 1);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Tensor cut = x.clone(), share = one_hot(labels, classes);
      Random random(seed);
      cutmix(cut, share, lambda, random);
      int64_t own = 0;
      for (int64_t e = 0; e < 84; ++e) {
        const double v = cut.get(e);
        ASSERT_TRUE(v == x.get(e) || v == x.get(4 * 84 + e));
        own += v == x.get(e);
      }
      ASSERT_NEAR(share.get(0), static_cast<double>(own) / 84, 0.02);  // equal elements count as own
      ASSERT_NEAR(share.get(0) + share.get(1), 1, 1e-6);
    }
  }
}

TEST(ParseAugment, ReadsAndRefuses) {
  AugmentOptions o = parse_augment("flip,crop=4,randaugment=2:9,erase=0.25,jitter=0.4:0.3:0.2:0.1");
  EXPECT_TRUE(o.random);
  EXPECT_EQ(o.flip, 0.5);
  EXPECT_EQ(o.pad_crop, 4);
  EXPECT_EQ(o.operations, 2);
  EXPECT_EQ(o.hue, 0.1);
  EXPECT_FALSE(parse_augment("none").random);
  for (const char* text : {"flop", "crop", "crop=x", "crop=1.5", "crop=-1", "flip=0.5:2", "jitter", "erase=", "flip,,crop=2",
                           "randaugment=1e9", "flip=nan", "crop=4,"})
    EXPECT_THROW(parse_augment(text), Error) << text;
  const Sample s = marked(8, 8, 1, 1, 4, 4);
  auto refused = [&](const std::string& text, TrainingTruth truth = TrainingTruth::kClass) {
    try {
      check_augment(with(text, 8, 8), s, truth);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused("flip=2"));
  EXPECT_TRUE(refused("ssd-crop"));
  EXPECT_FALSE(refused("ssd-crop", TrainingTruth::kBoxes));
  EXPECT_TRUE(refused("randaugment", TrainingTruth::kBoxes));
  EXPECT_TRUE(refused("randaugment=2:31"));
  EXPECT_TRUE(refused("ssd-crop,resized-crop", TrainingTruth::kBoxes));
  EXPECT_TRUE(refused("resized-crop=0"));
  EXPECT_TRUE(refused("jitter=0.1:0.1:0.1:0.6"));
  const Sample floats{noise({1, 8, 8}, 1, DType::kF32), 0, {}, {}};
  EXPECT_THROW(check_augment(with("randaugment"), floats, TrainingTruth::kClass), Error);
  EXPECT_THROW(check_augment(with("flip", 16, 16), floats, TrainingTruth::kClass), Error);
  check_augment(with("flip,crop=2"), floats, TrainingTruth::kClass);
}

}  // namespace
}  // namespace lathe
