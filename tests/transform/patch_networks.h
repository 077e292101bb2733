// Random convolutional networks for tests of patch-based execution: windows of odd sizes with strides, dilations and asymmetric
// padding, 1×N kernels, pooling of each kind, residuals, branches, pads; in f32, or with codes of 8 bits between all operators.
#pragma once

#include <random>

#include "graph/op.h"
#include "runtime/load.h"
#include "transform/passes.h"
#include "transform/patches.h"

namespace lathe::testing {

class PatchNetwork {
 public:
  PatchNetwork(uint64_t seed, bool quantized) : random_(seed), quantized_(quantized) {}

  // Of `length` pieces; all of its maps can run on tiles, one exit. `smallest`: no map becomes smaller.
  Graph make(int length, int64_t smallest = 5) {
    smallest_ = smallest;
    ValueId x = g_.add_input("x", DType::kF32, Shape{1, any(1, 4), any(11, 33), any(11, 33)});
    if (quantized_) x = code(x);
    for (int i = 0; i < length; ++i) x = piece(x, 0);
    g_.outputs = {x};
    g_[x].name = "y";
    specialize(g_, {}, quantized_);
    clean_up(g_, quantized_);
    return std::move(g_);
  }

 private:
  using Ints = std::vector<int64_t>;
  int64_t any(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  bool once_in(int64_t n) { return any(1, n) == 1; }
  const Shape& shape(ValueId v) { return *g_[v].shape; }

  // Codes between operators.
  ValueId code(ValueId v) {
    if (!quantized_) return v;
    Tensor zero(DType::kU8, {});
    zero.set_int(0, any(90, 160));
    const ValueId scale = g_.add_constant(Tensor::of_f32({}, {0.02f + 0.01f * static_cast<float>(any(0, 3))})), at = g_.add_constant(zero);
    return g_.add("DequantizeLinear", {g_.add("QuantizeLinear", {v, scale, at}), scale, at});
  }
  ValueId constant(const Shape& s, double size) {
    Tensor t(DType::kF32, s);
    for (int64_t i = 0; i < t.size(); ++i) t.set(i, size * static_cast<double>(any(-1000, 1000)) / 1000);
    return g_.add_constant(t);
  }
  ValueId weights(const Shape& s, double size) {
    if (!quantized_) return constant(s, size);
    Tensor codes(DType::kI8, s), scale(DType::kF32, {s[0]}), zero(DType::kI8, {s[0]});
    for (int64_t i = 0; i < codes.size(); ++i) codes.set_int(i, any(-127, 127));
    for (int64_t i = 0; i < s[0]; ++i) scale.set(i, size / 127 * static_cast<double>(any(5, 10)) / 10), zero.set_int(i, 0);
    return g_.add("DequantizeLinear", {g_.add_constant(codes), g_.add_constant(scale), g_.add_constant(zero)}, {{"axis", int64_t{0}}});
  }
  ValueId activation(ValueId x) {
    switch (any(0, 3)) {
      case 0: return g_.add("Relu", {x});
      case 1: return g_.add("Clip", {x, g_.add_constant(Tensor::of_f32({}, {0.0f})), g_.add_constant(Tensor::of_f32({}, {1.0f}))});
      case 2: return quantized_ ? x : g_.add("HardSwish", {x});
      default: return x;
    }
  }

  struct Windows {
    Ints kernel, strides, dilations, pads;
  };
  // Sizes whose output is at least as large as the smallest map may be; pads below the window's reach.
  Windows window(ValueId x, bool may_stride, bool may_dilate) {
    for (;;) {
      Windows w;
      for (int a = 0; a < 2; ++a) {
        w.kernel.push_back(any(1, 5));
        w.strides.push_back(may_stride && once_in(3) ? any(2, 3) : 1);
        w.dilations.push_back(may_dilate && once_in(4) ? 2 : 1);
      }
      if (once_in(5)) w.kernel[static_cast<size_t>(any(0, 1))] = 1;
      for (int i = 0; i < 4; ++i) w.pads.push_back(any(0, w.kernel[static_cast<size_t>(i % 2)] - 1));
      bool fits = true;
      for (size_t a = 0; a < 2; ++a) {
        const int64_t slack = shape(x)[a + 2] + w.pads[a] + w.pads[a + 2] - (w.kernel[a] - 1) * w.dilations[a] - 1;
        fits = fits && slack >= 0 && slack / w.strides[a] + 1 >= smallest_;
      }
      if (fits) return w;
    }
  }
  Attributes attributes(const Windows& w, bool dilations) {
    Attributes a{{"kernel_shape", w.kernel}, {"strides", w.strides}, {"pads", w.pads}};
    if (dilations) a["dilations"] = w.dilations;
    return a;
  }

  ValueId conv(ValueId x, bool same) {
    const int64_t in = shape(x)[1];
    Windows w = window(x, !same, true);
    if (same)
      for (size_t a = 0; a < 2; ++a) {
        const int64_t total = (w.kernel[a] - 1) * w.dilations[a];
        w.pads[a] = any(0, total);
        w.pads[a + 2] = total - w.pads[a];
      }
    const bool depthwise = once_in(3);
    const int64_t out = same || depthwise ? in : any(1, 6), group = depthwise ? in : 1;
    Attributes a = attributes(w, true);
    a["group"] = group;
    if (!same && once_in(6)) {
      a.erase("pads");
      a["auto_pad"] = std::string(once_in(2) ? "SAME_UPPER" : "SAME_LOWER");
    }
    std::vector<ValueId> inputs{x, weights({out, in / group, w.kernel[0], w.kernel[1]}, 0.4)};
    if (!quantized_) inputs.push_back(constant({out}, 0.2));
    return code(activation(g_.add("Conv", inputs, a)));
  }
  ValueId pool(ValueId x) {
    Windows w = window(x, true, false);
    Attributes a = attributes(w, false);
    const bool largest = once_in(2);
    if (largest && once_in(2)) a["ceil_mode"] = int64_t{1};
    if (!largest) a["count_include_pad"] = any(0, 1);
    return code(g_.add(largest ? "MaxPool" : "AveragePool", {x}, a));
  }
  ValueId pad(ValueId x) {
    return code(g_.add("Pad", {x, g_.add_constant(Tensor::of_i64({0, 0, any(0, 3), any(0, 3), 0, 0, any(0, 3), any(0, 3)}))}));
  }
  ValueId piece(ValueId x, int depth) {
    const bool large = shape(x)[2] > smallest_ + 4 && shape(x)[3] > smallest_ + 4;
    switch (depth < 2 ? any(0, 7) : any(0, 3)) {
      case 4: {  // a residual
        ValueId y = conv(x, true);
        if (once_in(2)) y = conv(y, true);
        return code(g_.add("Add", {x, y}));
      }
      case 5: {  // branches
        ValueId a = conv(x, true), b = piece_of_same_size(x);
        return code(g_.add("Concat", {a, b, x}, {{"axis", int64_t{1}}}));
      }
      case 6: return pad(x);
      case 7: return large ? pool(x) : conv(x, true);
      default: return conv(x, !large);
    }
  }
  ValueId piece_of_same_size(ValueId x) { return once_in(2) ? conv(x, true) : code(g_.add("Add", {x, conv(conv(x, true), true)})); }

  std::mt19937_64 random_;
  bool quantized_;
  int64_t smallest_ = 5;
  Graph g_;
};

}  // namespace lathe::testing
