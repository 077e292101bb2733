#include "tasks/text.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

Tensor map_of(int64_t height, int64_t width) {
  Tensor t(DType::kF32, {1, 1, height, width});
  std::fill_n(t.data<float>(), t.size(), 0.0f);
  return t;
}

TEST(Text, FindsSeparateRegionsAndGrowsThem) {
  Tensor map = map_of(40, 60);
  for (int y = 10; y < 14; ++y)
    for (int x = 5; x < 25; ++x) map.data<float>()[y * 60 + x] = 0.9f;
  for (int y = 30; y < 35; ++y)
    for (int x = 40; x < 50; ++x) map.data<float>()[y * 60 + x] = 0.8f;
  map.data<float>()[0] = 1.0f;  // too small
  auto found = text_regions(map);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[0].score, 0.9f, 1e-5);
  EXPECT_NEAR(found[0].x0 * 60, 5 - 20 * 4 * 1.5 / 48, 1e-3);
  EXPECT_NEAR(found[0].y1 * 40, 14 + 20 * 4 * 1.5 / 48, 1e-3);
  EXPECT_GT(found[1].y0, found[0].y0);
}

TEST(Text, WeakRegionsAndOtherFormsAreRefused) {
  Tensor map = map_of(20, 20);
  for (int i = 100; i < 200; ++i) map.data<float>()[i] = 0.5f;
  EXPECT_TRUE(text_regions(map).empty());
  EXPECT_FALSE(is_text_map(Tensor::of_f32({1, 2}, {0, 1})));
  map.data<float>()[0] = 7;
  EXPECT_FALSE(is_text_map(map));
  EXPECT_THROW(text_regions(map), Error);
}

}  // namespace
}  // namespace lathe
