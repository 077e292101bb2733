// Anchors, codes of boxes, matching and suppression against plain code and against the figures of tensorflow/models.
#include "models/ssd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/error.h"
#include "models/models.h"
#include "tasks/detect.h"

namespace lathe {
namespace {

const std::vector<std::array<int64_t, 2>> kMaps = {{20, 20}, {10, 10}, {5, 5}, {3, 3}, {2, 2}, {1, 1}};

void expect_box(const Box& box, double y0, double x0, double y1, double x1, double within, const std::string& text) {
  EXPECT_NEAR(box.y0, y0, within) << text;
  EXPECT_NEAR(box.x0, x0, within) << text;
  EXPECT_NEAR(box.y1, y1, within) << text;
  EXPECT_NEAR(box.x1, x1, within) << text;
}

TEST(Anchors, EqualTheKnownOnes) {
  const std::vector<Box> a = grid_anchors(kMaps);
  ASSERT_EQ(a.size(), 2034u);
  expect_box(a[0], -0.025, -0.025, 0.075, 0.075, 1e-6, "0");
  expect_box(a[1], -0.045711, -0.116421, 0.095711, 0.166421, 1e-6, "1");
  expect_box(a[1200], -0.125, -0.125, 0.225, 0.225, 1e-6, "1200");
  expect_box(a[1204], -0.253124, -0.051031, 0.353124, 0.151031, 1e-6, "1204");
  expect_box(a[2028], 0.025, 0.025, 0.975, 0.975, 1e-6, "2028");
  expect_box(a[2033], 0.01266, 0.01266, 0.98734, 0.98734, 1e-5, "2033");
  EXPECT_THAT(anchors_per_cell(6), ::testing::ElementsAre(3, 6, 6, 6, 6, 6));
}

TEST(Anchors, EqualACountOfTheirOwn) {
  // From the last to the first, each from its index.
  const std::vector<Box> a = grid_anchors(kMaps);
  const double ratio[] = {1, 2, 0.5, 3, 0.3333, 1};
  for (size_t index = a.size(); index-- > 0;) {
    size_t rest = index, map = 0, each = 3;
    while (rest >= each * kMaps[map][0] * kMaps[map][1]) {
      rest -= each * kMaps[map][0] * kMaps[map][1];
      ++map;
      each = 6;
    }
    const size_t form = rest % each, cell = rest / each;
    const auto side = static_cast<double>(kMaps[map][0]);
    const double y = static_cast<double>(cell / kMaps[map][0]) / side + 0.5 / side, x = static_cast<double>(cell % kMaps[map][0]) / side + 0.5 / side;
    double scale = 0.2 + 0.15 * static_cast<double>(map);
    if (form == 5) scale = std::sqrt(scale * (map == 5 ? 1.0 : scale + 0.15));
    if (map == 0 && form == 0) scale = 0.1;
    const double h = scale / std::sqrt(ratio[form]), w = scale * std::sqrt(ratio[form]);
    expect_box(a[index], y - h / 2, x - w / 2, y + h / 2, x + w / 2, 1e-6, std::to_string(index));
  }
}

TEST(Anchors, OfAWidePictureAreSquareOnIt) {
  const std::vector<Box> a = grid_anchors({{2, 4}, {1, 2}}, {.few_in_first = false, .height = 100, .width = 200});
  ASSERT_EQ(a.size(), 6u * (8 + 2));
  for (size_t i = 0; i < a.size(); i += 6) EXPECT_NEAR((a[i].x1 - a[i].x0) * 200, (a[i].y1 - a[i].y0) * 100, 1e-4) << i;
  EXPECT_NEAR(a[0].y1 - a[0].y0, 0.2, 1e-6);
}

TEST(Anchors, WhatIsWrongIsNamed) {
  EXPECT_THROW(grid_anchors({{0, 1}}), Error);
  EXPECT_THROW(grid_anchors({{1, 1}}, {.ratios = {0}}), Error);
  EXPECT_THROW(grid_anchors({{1, 1}}, {.ratios = {std::nan("")}}), Error);
  EXPECT_THROW(grid_anchors({{1, 1}}, {.smallest = 0}), Error);
  EXPECT_TRUE(grid_anchors({}).empty());
}

TEST(BoxCodes, DecodingIsTheInverse) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> place(0, 1), size(0.01f, 1.0f);
  const std::vector<Box> anchors = grid_anchors(kMaps);
  for (int i = 0; i < 10000; ++i) {
    const float x = place(random), y = place(random), w = size(random), h = size(random);
    const Box box{x - w / 2, y - h / 2, x + w / 2, y + h / 2}, &anchor = anchors[static_cast<size_t>(random() % anchors.size())];
    expect_box(decode_box(encode_box(box, anchor), anchor), box.y0, box.x0, box.y1, box.x1, 1e-5, "box");
  }
}

TEST(BoxCodes, AreWhatTheyAreDefinedAs) {
  // Centre (0.5, 0.25), height 0.4, width 0.2 by an anchor at (0.4, 0.3) of 0.2 by 0.4.
  const Box anchor{0.1f, 0.3f, 0.5f, 0.5f}, box{0.15f, 0.3f, 0.35f, 0.7f};
  const BoxCode code = encode_box(box, anchor);
  EXPECT_NEAR(code[0], 10 * 0.1 / 0.2, 1e-4);
  EXPECT_NEAR(code[1], 10 * -0.05 / 0.4, 1e-4);
  EXPECT_NEAR(code[2], 5 * std::log(2.0), 1e-4);
  EXPECT_NEAR(code[3], 5 * std::log(0.5), 1e-4);
  // The anchor itself is nought; an empty box is finite; a wild code is held.
  for (float v : encode_box(anchor, anchor)) EXPECT_NEAR(v, 0, 1e-5);
  for (float v : encode_box({0.2f, 0.2f, 0.2f, 0.2f}, anchor)) EXPECT_TRUE(std::isfinite(v));
  const Box held = decode_box({0, 0, 1e6f, 1e30f}, anchor);
  EXPECT_NEAR(held.y1 - held.y0, 62.5 * 0.2, 1e-3);
  EXPECT_NEAR(held.x1 - held.x0, 62.5 * 0.4, 1e-3);
}

double shared(const Box& a, const Box& b) {
  const double w = std::max(0.0, std::min<double>(a.x1, b.x1) - std::max<double>(a.x0, b.x0)), h = std::max(0.0, std::min<double>(a.y1, b.y1) - std::max<double>(a.y0, b.y0));
  const double both = w * h, all = (static_cast<double>(a.x1) - a.x0) * (static_cast<double>(a.y1) - a.y0) + (static_cast<double>(b.x1) - b.x0) * (static_cast<double>(b.y1) - b.y0) - both;
  return both > 0 ? both / all : 0;
}

// Corners on a coarse grid of powers of two: areas are exact, ties and equal boxes are common, and some boxes are empty.
Box coarse_box(std::mt19937& random) {
  const auto corner = [&] { return static_cast<float>(random() % 9) / 8; };
  float x0 = corner(), x1 = corner(), y0 = corner(), y1 = corner();
  return {std::min(x0, x1), std::min(y0, y1), std::max(x0, x1), std::max(y0, y1)};
}

TEST(Matching, EqualsBruteForce) {
  std::mt19937 random(2);
  for (int turn = 0; turn < 500; ++turn) {
    std::vector<Box> anchors(random() % 40), boxes(random() % 6);
    for (Box& b : anchors) b = coarse_box(random);
    for (Box& b : boxes) b = coarse_box(random);
    std::vector<int64_t> expected(anchors.size(), -1);
    for (size_t i = 0; i < anchors.size(); ++i) {
      double most = 0;
      for (const Box& b : boxes) most = std::max(most, shared(anchors[i], b));
      for (size_t k = boxes.size(); k-- > 0;)
        if (most >= 0.5 && shared(anchors[i], boxes[k]) == most) expected[i] = static_cast<int64_t>(k);
    }
    // The first box last, so that it stands where two want the same anchor.
    for (size_t k = boxes.size(); k-- > 0;) {
      double most = 0;
      for (const Box& a : anchors) most = std::max(most, shared(a, boxes[k]));
      for (size_t i = 0; i < anchors.size() && most > 0; ++i)
        if (shared(anchors[i], boxes[k]) == most) {
          expected[i] = static_cast<int64_t>(k);
          break;
        }
    }
    EXPECT_EQ(match_anchors(anchors, boxes), expected) << turn;
  }
}

TEST(Matching, RefusesWhatIsNoBox) {
  const std::vector<Box> anchors = grid_anchors({{2, 2}});
  EXPECT_EQ(match_anchors(anchors, {}), std::vector<int64_t>(anchors.size(), -1));
  EXPECT_TRUE(match_anchors({}, {{0, 0, 1, 1}}).empty());
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    try {
      match_anchors(anchors, {{0, 0, 1, 1}, {0, bad, 1, 1}});
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput);
      EXPECT_THAT(e.what(), ::testing::HasSubstr("box 1 is"));
    }
  }
}

// A box goes when one of its class that stays, scored higher (or as high, and before it), shares more than the limit with it.
TEST(Suppression, EqualsBruteForce) {
  std::mt19937 random(3);
  for (int turn = 0; turn < 1000; ++turn) {
    std::vector<Detection> all(random() % 60);
    for (Detection& d : all) {
      const Box b = coarse_box(random);
      d = {b.x0, b.y0, b.x1, b.y1, static_cast<float>(random() % 8) / 8, static_cast<int64_t>(random() % 3), ""};
    }
    const auto box_of = [](const Detection& d) { return Box{d.x0, d.y0, d.x1, d.y1}; };
    const auto before = [&](size_t a, size_t b) { return all[a].score > all[b].score || (all[a].score == all[b].score && a < b); };
    std::vector<int> stays(all.size(), -1);
    for (size_t decided = 0; decided < all.size(); ++decided) {
      size_t next = all.size();
      for (size_t i = 0; i < all.size(); ++i)
        if (stays[i] < 0 && (next == all.size() || before(i, next))) next = i;
      stays[next] = 1;
      for (size_t k = 0; k < all.size(); ++k)
        if (k != next && stays[k] == 1 && all[k].class_index == all[next].class_index && shared(box_of(all[k]), box_of(all[next])) > 0.6) stays[next] = 0;
    }
    const std::vector<Detection> kept = suppress(all, 0.6f, 100);
    size_t count = 0;
    for (int s : stays) count += s == 1;
    ASSERT_EQ(kept.size(), count) << turn;
    for (size_t i = 0; i < kept.size(); ++i) {
      size_t rank = 0, index = all.size();
      for (size_t k = 0; k < all.size(); ++k) {
        if (stays[k] != 1) continue;
        rank = 0;
        for (size_t j = 0; j < all.size(); ++j) rank += stays[j] == 1 && before(j, k);
        if (rank == i) index = k;
      }
      ASSERT_LT(index, all.size());
      EXPECT_EQ(kept[i].x0, all[index].x0);
      EXPECT_EQ(kept[i].y1, all[index].y1);
      EXPECT_EQ(kept[i].score, all[index].score);
      EXPECT_EQ(kept[i].class_index, all[index].class_index);
    }
  }
}

TEST(Anchors, OfANetworkAreThoseOfItsMaps) {
  const Graph g = build_model("mobiledet_cpu", {.classes = 3, .input = {3, 80, 48}, .width = 0.25, .draw = false});
  const std::vector<Box> found = anchors_of(g), expected = grid_anchors({{5, 3}, {3, 2}, {2, 1}, {1, 1}, {1, 1}, {1, 1}}, {.height = 80, .width = 48});
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) expect_box(found[i], expected[i].y0, expected[i].x0, expected[i].y1, expected[i].x1, 0, std::to_string(i));
}

TEST(Anchors, NetworksWithoutThemAreRefused) {
  const auto refused = [](const Graph& g, const std::string& why) {
    try {
      anchors_of(g);
      ADD_FAILURE() << why;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
      EXPECT_THAT(e.what(), ::testing::HasSubstr(why));
    }
  };
  refused(build_model("resnet18", {.width = 0.125, .draw = false}), "this one has 1 outputs");
  Graph g = build_model("mobiledet_cpu", {.classes = 3, .input = {3, 96, 96}, .width = 0.25, .draw = false});
  Graph swapped = g;
  std::swap(swapped.outputs[0], swapped.outputs[1]);
  EXPECT_NO_THROW(anchors_of(g));
  Graph decoded = build_model("mobiledet_cpu", {.classes = 4, .input = {3, 96, 96}, .width = 0.25, .more = {{"output", "boxes"}}, .draw = false});
  refused(decoded, "these are");
  std::swap(decoded.outputs[0], decoded.outputs[1]);
  refused(decoded, "is not made by");
}

}  // namespace
}  // namespace lathe
