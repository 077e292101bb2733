// Where Resize reads: the positions and weights along one axis, which every kernel of it takes from here.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "graph/op.h"

namespace lathe::ops {

struct ResampleTap {
  int64_t index;  // −1: outside the image, worth zero
  double weight;
};

// Keys' cubic convolution with parameter a.
inline double cubic(double x, double a) {
  x = std::fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// How one axis is resized: where each output position reads, and with what weights.
class AxisResampler {
 public:
  AxisResampler(const Node& node, int64_t in, int64_t out, float scale, float roi_start, float roi_end)
      : node_(node), in_(in), out_(out), scale_(scale), roi_start_(roi_start), roi_end_(roi_end),
        transformation_(node.get_string("coordinate_transformation_mode")), mode_(node.get_string("mode")) {
    check_model(mode_ == "nearest" || mode_ == "linear" || mode_ == "cubic",
                "mode is '{}', expected nearest, linear or cubic", mode_);
  }

  bool crops() const { return transformation_ == "tf_crop_and_resize"; }
  bool is_identity() const { return in_ == out_ && scale_ == 1.0f && !crops(); }

  // Outside the image, where tf_crop_and_resize takes the extrapolation value.
  bool extrapolates(int64_t x) const {
    float at = position(x);
    return crops() && (at < 0 || at > static_cast<float>(in_ - 1));
  }

  int64_t nearest(int64_t x) const {
    const std::string& how = node_.get_string("nearest_mode");
    float at = position(x), result = 0;
    check_model(std::isfinite(at), "a resampling position of {} is not possible", at);
    if (how == "round_prefer_floor") {
      result = std::ceil(at - 0.5f);
    } else if (how == "round_prefer_ceil") {
      result = std::floor(at + 0.5f);
    } else if (how == "floor") {
      result = std::floor(at);
    } else if (how == "ceil") {
      result = std::ceil(at);
    } else {
      fail(ErrorKind::kModel, "nearest_mode is '{}', expected round_prefer_floor, round_prefer_ceil, floor or ceil", how);
    }
    return clamp(result);
  }

  std::vector<ResampleTap> taps(int64_t x) const {
    double at = position(x), a = node_.get_float("cubic_coeff_a");
    // An antialiasing filter is as wide as an output pixel is in the input.
    double shrink = node_.get_int("antialias") != 0 ? std::min(1.0, static_cast<double>(scale_)) : 1.0;
    double support = (mode_ == "linear" ? 1 : 2) / shrink;
    bool exclude = node_.get_int("exclude_outside") != 0;
    check_model(std::isfinite(at) && support < 1e7, "a resampling position of {} is not possible", at);
    std::vector<ResampleTap> taps;
    double sum = 0;
    for (double i = std::ceil(at - support), last = std::floor(at + support); i <= last; ++i) {
      double distance = (i - at) * shrink;
      double weight = mode_ == "linear" ? std::max(0.0, 1 - std::fabs(distance)) : cubic(distance, a);
      if (weight == 0 || (exclude && (i < 0 || i > static_cast<double>(in_ - 1)))) continue;
      taps.push_back({clamp(i), weight});
      sum += weight;
    }
    for (ResampleTap& tap : taps) tap.weight /= sum;
    return taps;
  }

 private:
  int64_t clamp(double index) const {
    return static_cast<int64_t>(std::min(std::max(index, 0.0), static_cast<double>(in_ - 1)));
  }

  // The input coordinate of an output position, in single precision as other runtimes compute it.
  float position(int64_t output) const {
    auto x = static_cast<float>(output), in = static_cast<float>(in_), out = scale_ * in;
    if (transformation_ == "half_pixel") return (x + 0.5f) / scale_ - 0.5f;
    if (transformation_ == "asymmetric") return x / scale_;
    if (transformation_ == "pytorch_half_pixel") return out_ > 1 ? (x + 0.5f) / scale_ - 0.5f : 0;
    if (transformation_ == "align_corners") return out_ > 1 ? x * (in - 1) / (out - 1) : 0;
    if (transformation_ == "half_pixel_symmetric")
      return in / 2 * (1 - static_cast<float>(out_) / out) + (x + 0.5f) / scale_ - 0.5f;
    if (transformation_ == "tf_crop_and_resize") {
      if (out_ > 1)
        return roi_start_ * (in - 1) +
               x * (roi_end_ - roi_start_) * (in - 1) / static_cast<float>(out_ - 1);
      return 0.5f * (roi_start_ + roi_end_) * (in - 1);
    }
    fail(ErrorKind::kModel, "coordinate_transformation_mode '{}' is not one of the standard's", transformation_);
  }

  const Node& node_;
  int64_t in_, out_;
  float scale_, roi_start_, roi_end_;
  const std::string &transformation_, &mode_;
};

}  // namespace lathe::ops
