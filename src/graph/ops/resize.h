// What Resize makes of its scales, sizes and aspect-ratio policy: the output sizes and the scale of each axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "graph/op.h"

namespace lathe::ops {

struct ResizePlan {
  Shape outputs;              // one size an axis of the input
  std::vector<float> scales;  // of every axis; 1 for those that are not resized
  std::vector<int64_t> axes;  // the resized ones, in the order of the node's attribute (roi follows it too)
};

// `scales` or `sizes` may be null, not both. The input's sizes may be unknown; then so are the outputs and
// the scales that follow from sizes.
inline ResizePlan resize_plan(const Node& node, const Shape& input, const Tensor* scales, const Tensor* sizes) {
  auto rank = static_cast<int64_t>(input.size());
  ResizePlan plan{input, std::vector<float>(input.size(), 1.0f), {}};
  for (int64_t axis : node.get_ints("axes")) plan.axes.push_back(normalize_axis(axis, rank));
  if (plan.axes.empty())
    for (int64_t axis = 0; axis < rank; ++axis) plan.axes.push_back(axis);
  const Tensor& given = scales ? *scales : *sizes;
  auto count = static_cast<int64_t>(plan.axes.size());
  check_model(given.size() == count, "{} has {} entries for {} axes", scales ? "scales" : "sizes", given.size(), count);
  if (scales) {
    for (int64_t i = 0; i < count; ++i) {
      auto scale = static_cast<float>(scales->get(i));
      check_model(std::isfinite(scale) && scale > 0, "a scale is {}, expected a positive number", scale);
      int64_t axis = plan.axes[i];
      plan.scales[axis] = scale;
      if (input[axis] == kUnknownDim) continue;
      // In single precision, as other runtimes have it: 10 · 0.7f is 7, not a little less.
      float size = std::floor(static_cast<float>(input[axis]) * scale);
      check_model(size < 2147483648.0f, "scale {} makes axis {} too large", scale, axis);
      plan.outputs[axis] = static_cast<int64_t>(size);
    }
    return plan;
  }
  std::vector<int64_t> wanted = sizes->to_i64();
  const std::string& policy = node.get_string("keep_aspect_ratio_policy");
  check_model(policy == "stretch" || policy == "not_larger" || policy == "not_smaller",
              "keep_aspect_ratio_policy is '{}', expected stretch, not_larger or not_smaller", policy);
  float common = 0;
  bool all_known = true;
  for (int64_t i = 0; i < count; ++i) {
    int64_t axis = plan.axes[i];
    check_model(wanted[i] >= 0 && wanted[i] < (int64_t{1} << 31), "an output size is {}", wanted[i]);
    all_known = all_known && input[axis] != kUnknownDim;
    plan.outputs[axis] = wanted[i];
    if (input[axis] == kUnknownDim) continue;
    check_model(input[axis] > 0 || wanted[i] == 0, "an axis of size 0 cannot be resized to {}", wanted[i]);
    float scale = input[axis] == 0 ? 1.0f : static_cast<float>(wanted[i]) / static_cast<float>(input[axis]);
    plan.scales[axis] = scale;
    if (i == 0 || (policy == "not_larger" ? scale < common : scale > common)) common = scale;
  }
  if (policy == "stretch") return plan;
  for (int64_t axis : plan.axes) {
    plan.scales[axis] = common;
    plan.outputs[axis] = all_known ? static_cast<int64_t>(std::floor(
                                         static_cast<double>(common) * static_cast<double>(input[axis]) + 0.5))
                                   : kUnknownDim;
  }
  return plan;
}

}  // namespace lathe::ops
