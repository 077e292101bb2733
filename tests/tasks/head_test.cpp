#include "tasks/head.h"

#include <gtest/gtest.h>

#include "tasks/detect.h"

namespace lathe {
namespace {

Tensor floats(const Shape& shape, float value = 2) {
  Tensor t(DType::kF32, shape);
  std::fill_n(t.data<float>(), t.size(), value);
  return t;
}
Tensor integers(const Shape& shape) {
  Tensor t(DType::kI64, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.set_int(i, i % 3);
  return t;
}

TEST(Head, TellsEveryKnownForm) {
  EXPECT_EQ(head_of({floats({2, 10})}), Head::kClasses);
  EXPECT_EQ(head_of({floats({1, 1000, 1, 1})}), Head::kClasses);
  EXPECT_EQ(head_of({floats({1, 8, 2}), floats({1, 8, 4})}), Head::kBoxes);
  EXPECT_EQ(head_of({floats({1, 30, 7})}), Head::kBoxes);
  EXPECT_EQ(head_of({floats({1, 85, 4, 4})}), Head::kBoxes);
  EXPECT_EQ(head_of({floats({1, 4, 9, 9})}), Head::kMap);
  EXPECT_EQ(head_of({floats({1, 1, 16, 16}, 0.5f)}), Head::kText);
}

// A segmentation network that ends in ArgMax: [1, H, W] once was taken for rows of boxes with scores of 22500 %.
TEST(Head, AMapOfClassesIsNotADetector) {
  EXPECT_EQ(head_of({integers({1, 16, 16})}), Head::kMap);
  EXPECT_FALSE(is_detector({integers({1, 16, 16})}));
  EXPECT_THROW(detector_form({integers({1, 16, 16})}), Error);
}

TEST(Head, OtherOutputsHaveNone) {
  EXPECT_EQ(head_of({}), Head::kNone);
  EXPECT_EQ(head_of({floats({})}), Head::kNone);
  EXPECT_EQ(head_of({integers({1, 10})}), Head::kNone);
  EXPECT_EQ(head_of({floats({1, 1, 16, 16}, 2)}), Head::kNone) << "no probabilities";
  EXPECT_EQ(head_of({floats({1, 10}), floats({1, 10})}), Head::kNone);
}

}  // namespace
}  // namespace lathe
