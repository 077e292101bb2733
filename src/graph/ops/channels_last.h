// Shape rules of windows over channels-last pictures, [N, H, W, C], for the operators of ai.lathe.
#pragma once

#include <optional>

#include "graph/ops/window.h"

namespace lathe::ops {

// Numbers of a window come from files too: they are bounded, so that no sum of them overflows.
inline void check_window(const char* what, const std::vector<int64_t>& values, size_t count, int64_t minimum) {
  check_model(values.size() == count, "{} has {} entries, expected {}", what, values.size(), count);
  for (int64_t v : values) check_model(v >= minimum && v <= kMaxWindowNumber, "{} holds {}", what, v);
}

// The output's shape for the node's pads and strides; none when the input's is not known. The window moves over the
// input's axes `axis` and `axis` + 1.
inline std::optional<Shape> window_shape(InferContext& c, const std::vector<int64_t>& kernel, const std::vector<int64_t>& dilations,
                                         int64_t channels, int axis = 1) {
  const auto &pads = c.node().get_ints("pads"), &strides = c.node().get_ints("strides");
  check_window("pads", pads, 4, -kMaxWindowNumber);
  check_window("strides", strides, 2, 1);
  check_window("dilations", dilations, 2, 1);
  check_window("the window", kernel, 2, 1);
  if (!c.shape(0)) return std::nullopt;
  c.expect_rank(0, 4, 4);
  const Shape& x = *c.shape(0);
  Shape y{x[0], kUnknownDim, kUnknownDim, channels};
  for (int i = 0; i < 2; ++i) {
    int64_t reach = (kernel[i] - 1) * dilations[i] + 1;
    if (x[i + axis] < 0) continue;
    int64_t room = x[i + axis] + pads[i] + pads[i + 2] - reach;
    check_model(room >= 0, "the window is larger than the padded input {}", to_string(x));
    y[i + 1] = room / strides[i] + 1;
  }
  return y;
}

// The output's shape for weights [O, C / group, kH, kW] (input 1, whose shape is known) on pictures [N, H, W, C], or
// [N, C, H, W] in `planes`, which are of one group.
inline std::optional<Shape> conv_shape(InferContext& c, bool planes = false) {
  const Shape& w = *c.shape(1);
  const int64_t group = planes ? 1 : c.node().get_int("group");
  const size_t channel_axis = planes ? 1 : 3;
  check_model(group >= 1 && group <= kMaxWindowNumber && w[0] % group == 0, "{} channels cannot form {} groups", w[0], group);
  auto y = window_shape(c, {w[2], w[3]}, c.node().get_ints("dilations"), w[0], planes ? 2 : 1);
  if (c.shape(0) && (*c.shape(0))[channel_axis] >= 0)
    check_model(w[1] <= kMaxTensorBytes && (*c.shape(0))[channel_axis] == w[1] * group, "input {} does not have the channels of weight {} in {} groups",
                to_string(*c.shape(0)), to_string(w), group);
  return y;
}

}  // namespace lathe::ops
