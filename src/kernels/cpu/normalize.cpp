// Softmax and layer normalization over the last axis, f32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/normalize.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Calls f(vector, mask, index) over a row; lanes past the end are `fill`.
template <class F>
HWY_INLINE void OverRow(const float* x, int64_t n, float fill, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(hn::LoadU(d, x + i), hn::FirstN(d, hn::Lanes(d)), i);
  if (i < n) {
    auto m = hn::FirstN(d, static_cast<size_t>(n - i));
    f(hn::IfThenElse(m, LoadMasked(m, d, x + i), hn::Set(d, fill)), m, i);
  }
}

// Two passes over registers' worth of a row; the greatest is subtracted first, so nothing overflows.
void SoftmaxRow(const float* x, float* y, int64_t n) {
  const D d;
  V top = hn::Set(d, -INFINITY);
  OverRow(x, n, -INFINITY, [&](V v, hn::Mask<D>, int64_t) { top = hn::Max(top, v); });
  const V greatest = hn::MaxOfLanes(d, top);
  V sum = hn::Zero(d);
  OverRow(x, n, -INFINITY, [&](V v, hn::Mask<D> m, int64_t i) {
    V e = FastExp(d, hn::Sub(v, greatest));
    e = hn::IfThenZeroElse(hn::Lt(hn::Sub(v, greatest), hn::Set(d, -87.3f)), e);
    e = hn::IfThenElseZero(m, hn::IfThenElse(hn::IsNaN(v), v, e));
    sum = hn::Add(sum, e);
    StoreMasked(e, m, d, y + i);
  });
  const V scale = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  OverRow(y, n, 0, [&](V v, hn::Mask<D> m, int64_t i) { StoreMasked(hn::Mul(v, scale), m, d, y + i); });
}

void LayerNormRow(const float* x, const float* scale, const float* bias, float* y, int64_t n, float epsilon) {
  const D d;
  V sum = hn::Zero(d);
  OverRow(x, n, 0, [&](V v, hn::Mask<D>, int64_t) { sum = hn::Add(sum, v); });
  const V mean = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum)) / static_cast<float>(n));
  V squares = hn::Zero(d);
  OverRow(x, n, 0, [&](V v, hn::Mask<D> m, int64_t) {
    V c = hn::IfThenElseZero(m, hn::Sub(v, mean));
    squares = hn::MulAdd(c, c, squares);
  });
  float variance = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(n);
  const V factor = hn::Set(d, 1.0f / std::sqrt(variance + epsilon));
  OverRow(x, n, 0, [&](V v, hn::Mask<D> m, int64_t i) {
    V r = hn::Mul(hn::Sub(v, mean), factor);
    r = hn::Mul(r, LoadMasked(m, d, scale + i));
    if (bias) r = hn::Add(r, LoadMasked(m, d, bias + i));
    StoreMasked(r, m, d, y + i);
  });
}

// y = activation(x·scale + shift) for rows of n channels.
template <class T>
void AffineOf(const void* from, const float* scale, const float* shift, void* to, int64_t rows, int64_t n, ActivationSpec spec) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V alpha = hn::Set(d, spec.alpha), beta = hn::Set(d, spec.beta);
  WithActivation(spec.kind, [&]<ActivationKind kKind>() {
    const T* x = static_cast<const T*>(from);
    T* y = static_cast<T*>(to);
    auto part = [&]<bool kFull>(int64_t i, hn::Mask<D> m) {
      V t = hn::MulAdd(LoadChannels<kFull>(d, x + i, m), LoadChannels<kFull>(d, scale + i, m), LoadChannels<kFull>(d, shift + i, m));
      StoreChannels<kFull>(d, Activate<kKind>(d, t, alpha, beta), y + i, m);
    };
    for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
      int64_t i = 0;
      for (; i + lanes <= n; i += lanes) part.template operator()<true>(i, FirstLanes(d, lanes));
      if (i < n) part.template operator()<false>(i, FirstLanes(d, n - i));
    }
  });
}
void AffineRows(const void* x, const float* scale, const float* shift, void* y, int64_t rows, int64_t n, ActivationSpec spec) {
  AffineOf<float>(x, scale, shift, y, rows, n, spec);
}
void AffineRowsHalf(const void* x, const float* scale, const float* shift, void* y, int64_t rows, int64_t n, ActivationSpec spec) {
  if (has_bf16_instructions()) AffineOf<NativeHalf>(x, scale, shift, y, rows, n, spec);
  else AffineOf<uint16_t>(x, scale, shift, y, rows, n, spec);
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(SoftmaxRow);
HWY_EXPORT(LayerNormRow);
HWY_EXPORT(AffineRows);
HWY_EXPORT(AffineRowsHalf);

namespace {

class Softmax : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t width = in[0]->shape().back(), rows = in[0]->size() / width;
    const float* x = in[0]->data<float>();
    float* y = out[0]->data<float>();
    parallel_for(rows, kParallelGrain / (8 * width) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) HWY_DYNAMIC_DISPATCH(SoftmaxRow)(x + r * width, y + r * width, width);
    });
  }
  int in_place_input() const override { return 0; }
};

class LayerNorm : public Kernel {
 public:
  explicit LayerNorm(const KernelRequest& r) : epsilon_(r.node.get_float("epsilon")) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t width = in[0]->shape().back(), rows = in[0]->size() / width;
    const float *x = in[0]->data<float>(), *scale = in[1]->data<float>();
    const float* bias = in[2] ? in[2]->data<float>() : nullptr;
    float* y = out[0]->data<float>();
    parallel_for(rows, kParallelGrain / (4 * width) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        HWY_DYNAMIC_DISPATCH(LayerNormRow)(x + r * width, scale, bias, y + r * width, width, epsilon_);
    });
  }
  int in_place_input() const override { return 0; }

 private:
  float epsilon_;
};

class Affine : public Kernel {
 public:
  explicit Affine(const KernelRequest& r) : spec_(activation_of(r.node)) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t width = in[0]->shape().back(), rows = in[0]->size() / width;
    const float *scale = in[1]->data<float>(), *shift = in[2]->data<float>();
    const bool half = in[0]->dtype() == DType::kBF16;
    const int64_t bytes = width * static_cast<int64_t>(size_of(in[0]->dtype()));
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    parallel_for(rows, kParallelGrain / (width + 1) + 1, [&](int64_t begin, int64_t end) {
      if (half) HWY_DYNAMIC_DISPATCH(AffineRowsHalf)(x + begin * bytes, scale, shift, y + begin * bytes, end - begin, width, spec_);
      else HWY_DYNAMIC_DISPATCH(AffineRows)(x + begin * bytes, scale, shift, y + begin * bytes, end - begin, width, spec_);
    });
  }
  int in_place_input() const override { return 0; }

 private:
  ActivationSpec spec_;
};

bool last_axis(const KernelRequest& r) {
  if (!r.all_f32() || r.in_shape().empty() || r.in_shape().back() < 1) return false;
  auto rank = static_cast<int64_t>(r.in_shape().size());
  return normalize_axis(r.node.get_int("axis"), rank) == rank - 1;
}

}  // namespace

void register_normalize(KernelRegistry& r) {
  r.add("Softmax", "", {"f32.softmax", last_axis, [](const KernelRequest&) -> std::unique_ptr<Kernel> {
          return std::make_unique<Softmax>();
        }});
  r.add("Affine", "ai.lathe", {"affine", [](const KernelRequest& q) {
                                 DType type = q.input(0).dtype;
                                 return (type == DType::kF32 || type == DType::kBF16) && q.output().dtype == type && q.input(1).dtype == DType::kF32 &&
                                        q.input(2).dtype == DType::kF32;
                               },
                               [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Affine>(q); }});
  r.add("LayerNormalization", "", {"f32.layer_norm", [](const KernelRequest& q) {
          return last_axis(q) && q.node.outputs.size() == 1 && q.node.inputs.size() == 3 && q.has_input(2) &&
                 q.in_shape(1).size() == 1 && q.in_shape(1)[0] == q.in_shape().back() && q.in_shape(2) == q.in_shape(1);
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<LayerNorm>(q); }});
}

}  // namespace lathe
#endif
