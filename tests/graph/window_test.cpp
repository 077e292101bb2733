#include "graph/ops/window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe::ops {
namespace {

using testing::ElementsAre;

TEST(Window, ExplicitPadsStridesAndDilations) {
  Window w = resolve_window({224, 224}, {.kernel = {7, 7}, .strides = {2, 2}, .pads = {3, 3, 3, 3}});
  EXPECT_THAT(w.outputs, ElementsAre(112, 112));
  w = resolve_window({10}, {.kernel = {3}, .strides = {2}, .dilations = {3}, .pads = {1, 2}});
  EXPECT_THAT(w.outputs, ElementsAre(4));
}

TEST(Window, SamePadsSplitTheOddOneByTheMode) {
  Window upper = resolve_window({5}, {.kernel = {4}, .auto_pad = "SAME_UPPER"});
  EXPECT_THAT(upper.outputs, ElementsAre(5));
  EXPECT_THAT(upper.begin, ElementsAre(1));
  EXPECT_THAT(upper.end, ElementsAre(2));
  Window lower = resolve_window({5}, {.kernel = {4}, .auto_pad = "SAME_LOWER"});
  EXPECT_THAT(lower.begin, ElementsAre(2));
  EXPECT_THAT(lower.end, ElementsAre(1));
}

TEST(Window, CeilModeLeavesOutWindowsThatStartInTheEndPadding) {
  EXPECT_THAT(resolve_window({4}, {.kernel = {3}, .strides = {2}, .ceil_mode = true}).outputs, ElementsAre(2));
  EXPECT_THAT(resolve_window({2}, {.kernel = {1}, .strides = {2}, .ceil_mode = true}).outputs, ElementsAre(1));
  EXPECT_THAT(resolve_window({3}, {.kernel = {2}, .strides = {3}, .pads = {1, 1}, .ceil_mode = true}).outputs,
              ElementsAre(2));
}

TEST(Window, UnknownSizesStayUnknown) {
  EXPECT_THAT(resolve_window({kUnknownDim, 8}, {.kernel = {3, 3}}).outputs, ElementsAre(kUnknownDim, 6));
}

TEST(Window, TransposedFollowsPaddingAndRequestedSizes) {
  WindowAttributes a{.kernel = {3, 3}, .strides = {3, 2}};
  EXPECT_THAT(resolve_transposed_window({3, 3}, a, {}, {}).outputs, ElementsAre(9, 7));
  EXPECT_THAT(resolve_transposed_window({3, 3}, a, {1, 1}, {}).outputs, ElementsAre(10, 8));
  Window asked = resolve_transposed_window({3, 3}, a, {}, {8, 6});
  EXPECT_THAT(asked.outputs, ElementsAre(8, 6));
  EXPECT_THAT(asked.begin, ElementsAre(1, 1));  // without SAME_UPPER the odd one goes to the beginning
}

TEST(Window, ImpossibleAttributesAreErrors) {
  EXPECT_THROW(resolve_window({4}, {.kernel = {5}}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {3}, .strides = {0}}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {3}, .pads = {-1, 0}}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {3}, .pads = {0}}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {3, 3}}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {3}, .auto_pad = "SOME"}), Error);
  EXPECT_THROW(resolve_window({4}, {.kernel = {int64_t{1} << 40}}), Error);
}

}  // namespace
}  // namespace lathe::ops
