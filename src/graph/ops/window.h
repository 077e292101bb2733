// Sliding windows: the sizes and paddings of convolutions and poolings, worked out in one place for shape
// rules, reference kernels and fast kernels alike.
//
//   Window w = resolve_window({224, 224}, {.kernel = {7, 7}, .strides = {2, 2}, .pads = {3, 3, 3, 3}});
//   w.outputs  // {112, 112}
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "graph/op.h"

namespace lathe::ops {

// What the attributes say; empty lists stand for the defaults (strides and dilations 1, pads 0).
struct WindowAttributes {
  std::vector<int64_t> kernel = {}, strides = {}, dilations = {};
  std::vector<int64_t> pads = {};  // beginnings of all axes, then ends, as ONNX has them
  std::string auto_pad = "NOTSET";
  bool ceil_mode = false;
};

// What they mean for given input sizes; every list has one entry an axis.
struct Window {
  std::vector<int64_t> kernel, strides, dilations, begin, end, outputs;
  int64_t reach(size_t axis) const { return (kernel[axis] - 1) * dilations[axis] + 1; }
};

// Sizes, strides and the like beyond this are refused, so that products of two of them cannot overflow.
constexpr int64_t kMaxWindowNumber = std::numeric_limits<int32_t>::max();

inline std::vector<int64_t> window_list(const std::vector<int64_t>& given, size_t count, int64_t fallback,
                                        int64_t minimum, const char* name) {
  if (given.empty()) return std::vector<int64_t>(count, fallback);
  check_model(given.size() == count, "{} has {} entries, expected {}", name, given.size(), count);
  for (int64_t value : given)
    check_model(value >= minimum && value <= kMaxWindowNumber, "{} holds {}, expected at least {}", name,
                value, minimum);
  return given;
}

// Strides, dilations and explicit pads, checked, with defaults filled in; no outputs yet.
inline Window window_of(size_t axes, const WindowAttributes& a) {
  Window w;
  check_model(a.kernel.size() == axes, "kernel_shape has {} entries for {} spatial axes", a.kernel.size(), axes);
  w.kernel = window_list(a.kernel, axes, 1, 1, "kernel_shape");
  w.strides = window_list(a.strides, axes, 1, 1, "strides");
  w.dilations = window_list(a.dilations, axes, 1, 1, "dilations");
  std::vector<int64_t> pads = window_list(a.pads, 2 * axes, 0, 0, "pads");
  check_model(a.auto_pad == "NOTSET" || a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER" ||
                  a.auto_pad == "VALID",
              "auto_pad is '{}', expected NOTSET, SAME_UPPER, SAME_LOWER or VALID", a.auto_pad);
  if (a.auto_pad != "NOTSET") pads.assign(2 * axes, 0);
  w.begin.assign(pads.begin(), pads.begin() + axes);
  w.end.assign(pads.begin() + axes, pads.end());
  return w;
}

// Resolves pads and output sizes for the spatial input sizes (batch and channels left out). Where an input
// size is unknown the output size is too, and SAME pads are 0. Throws kModel for impossible attributes and
// for windows larger than the padded input.
inline Window resolve_window(const Shape& spatial, const WindowAttributes& a) {
  Window w = window_of(spatial.size(), a);
  w.outputs.assign(spatial.size(), kUnknownDim);
  bool same = a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER";
  for (size_t i = 0; i < spatial.size(); ++i) {
    int64_t size = spatial[i], reach = w.reach(i), stride = w.strides[i];
    if (size == kUnknownDim) continue;
    if (same) {
      int64_t count = (size + stride - 1) / stride;
      int64_t total = std::max<int64_t>(0, (count - 1) * stride + reach - size);
      w.begin[i] = a.auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
      w.end[i] = total - w.begin[i];
      w.outputs[i] = count;
      continue;
    }
    int64_t slack = size + w.begin[i] + w.end[i] - reach;
    check_model(slack >= 0, "a window that spans {} does not fit an axis of size {} with pads {} and {}",
                reach, size, w.begin[i], w.end[i]);
    int64_t count = slack / stride + 1;
    // VALID gives the same number with and without ceil_mode. A last window that would start in the padding
    // at the end sees no input and is left out.
    if (a.ceil_mode && a.auto_pad == "NOTSET" && slack % stride != 0 &&
        count * stride < size + w.begin[i])
      ++count;
    w.outputs[i] = count;
  }
  return w;
}

// The attributes of a node; `kernel` stands in where the node has no kernel_shape.
inline WindowAttributes window_attributes(const Node& node, std::vector<int64_t> kernel = {}) {
  WindowAttributes a;
  a.kernel = node.get_ints("kernel_shape");
  if (a.kernel.empty()) a.kernel = std::move(kernel);
  a.strides = node.get_ints("strides");
  a.pads = node.get_ints("pads");
  if (node.op->find("dilations")) a.dilations = node.get_ints("dilations");
  if (node.op->find("auto_pad")) a.auto_pad = node.get_string("auto_pad");
  if (node.op->find("ceil_mode")) a.ceil_mode = node.get_int("ceil_mode") != 0;
  return a;
}

inline Shape spatial_of(const Shape& shape) {
  check_model(shape.size() >= 3, "shape {} has no spatial axes: expected [N, C, D1, ...]", to_string(shape));
  return Shape(shape.begin() + 2, shape.end());
}

// ConvTranspose: `outputs` and pads resolved from output_padding, output_shape (may be empty) and auto_pad.
inline Window resolve_transposed_window(const Shape& spatial, const WindowAttributes& a,
                                        const std::vector<int64_t>& output_padding,
                                        const std::vector<int64_t>& output_shape) {
  Window w = window_of(spatial.size(), a);
  std::vector<int64_t> extra = window_list(output_padding, spatial.size(), 0, 0, "output_padding");
  w.outputs.assign(spatial.size(), kUnknownDim);
  check_model(output_shape.empty() || output_shape.size() == spatial.size(),
              "output_shape has {} entries for {} spatial axes", output_shape.size(), spatial.size());
  bool same = a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER";
  for (size_t i = 0; i < spatial.size(); ++i) {
    int64_t size = spatial[i];
    if (!output_shape.empty()) w.outputs[i] = output_shape[i];
    if (size == kUnknownDim) continue;
    int64_t full = (size - 1) * w.strides[i] + extra[i] + w.reach(i);
    if (output_shape.empty() && !same) {
      w.outputs[i] = full - w.begin[i] - w.end[i];
    } else {
      if (output_shape.empty()) w.outputs[i] = size * w.strides[i];
      int64_t total = std::max<int64_t>(0, full - w.outputs[i]);
      w.begin[i] = a.auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
      w.end[i] = total - w.begin[i];
    }
    check_model(w.outputs[i] > 0 && w.outputs[i] <= kMaxWindowNumber,
                "output size {} along spatial axis {} is not possible", w.outputs[i], i);
  }
  return w;
}

}  // namespace lathe::ops
