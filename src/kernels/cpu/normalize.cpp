// Softmax, layer and RMS normalization over the last axes, instance and group normalization, affine rows. f32, or bf16
// with sums and variances in f32; those of a whole sample are put together in f64.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/normalize.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/kernel.h"

#ifndef LATHE_NORMALIZE_SHARED
#define LATHE_NORMALIZE_SHARED
namespace lathe {
struct NormArgs {
  const float *scale, *bias;  // by element of a row; bias may be null
  int64_t width;
  float epsilon;
  bool centred;  // the mean is taken off: layer normalization, else RMS
};
// Of a part of a sample: the mean, and the sum of squares about it.
struct PartMoment {
  double mean, squares;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Calls f<whole>(vector, mask, index) over a row; lanes past the end are zero.
template <class T, class F>
HWY_INLINE void OverRow(const T* x, int64_t n, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const hn::Mask<D> all = FirstLanes(d, lanes);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f.template operator()<true>(LoadChannels<true>(d, x + i, all), all, i);
  if (i < n) {
    const hn::Mask<D> m = FirstLanes(d, n - i);
    f.template operator()<false>(LoadChannels<false>(d, x + i, m), m, i);
  }
}

// The greatest is subtracted first, so that nothing overflows. Exponents of bf16 are computed twice rather than
// kept, rounded, for the division.
template <class T>
void SoftmaxOf(const T* x, T* y, int64_t n) {
  const D d;
  const V lowest = hn::Set(d, -INFINITY);
  V top = lowest;
  OverRow(x, n, [&]<bool kWhole>(V v, hn::Mask<D> m, int64_t) { top = hn::Max(top, kWhole ? v : hn::IfThenElse(m, v, lowest)); });
  const V greatest = hn::MaxOfLanes(d, top);
  auto exponent = [&](V v) {
    const V t = hn::Sub(v, greatest), e = hn::IfThenZeroElse(hn::Lt(t, hn::Set(d, -87.3f)), FastExp(d, t));
    return hn::IfThenElse(hn::IsNaN(t), t, e);
  };
  constexpr bool kKeep = sizeof(T) == 4;
  V sum = hn::Zero(d);
  OverRow(x, n, [&]<bool kWhole>(V v, hn::Mask<D> m, int64_t i) {
    const V e = exponent(v);
    sum = hn::Add(sum, kWhole ? e : hn::IfThenElseZero(m, e));
    if constexpr (kKeep) StoreChannels<kWhole>(d, e, y + i, m);
  });
  const V scale = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  OverRow(kKeep ? y : x, n, [&]<bool kWhole>(V v, hn::Mask<D> m, int64_t i) { StoreChannels<kWhole>(d, hn::Mul(kKeep ? v : exponent(v), scale), y + i, m); });
}
void SoftmaxRows(const void* x, void* y, int64_t rows, int64_t n, bool half) {
  WithElements(half, [&]<class T>() {
    for (int64_t r = 0; r < rows; ++r) SoftmaxOf(static_cast<const T*>(x) + r * n, static_cast<T*>(y) + r * n, n);
  });
}

template <class T>
HWY_INLINE float MeanOf(const T* x, int64_t n) {
  const D d;
  V sums[2] = {hn::Zero(d), hn::Zero(d)};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  OverRow(x, n, [&]<bool kWhole>(V v, hn::Mask<D>, int64_t i) { V& sum = sums[i / lanes & 1]; sum = hn::Add(sum, v); });
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sums[0], sums[1]))) / static_cast<float>(n);
}
// The sum of squares about `mean`.
template <class T>
HWY_INLINE float SquaresAbout(V mean, const T* x, int64_t n) {
  const D d;
  V squares = hn::Zero(d);
  OverRow(x, n, [&]<bool kWhole>(V v, hn::Mask<D> m, int64_t) {
    V c = hn::Sub(v, mean);
    if constexpr (!kWhole) c = hn::IfThenElseZero(m, c);
    squares = hn::MulAdd(c, c, squares);
  });
  return hn::GetLane(hn::SumOfLanes(d, squares));
}

// Mean, and one over the root of the mean square about it (or about zero), in two passes: no cancellation.
template <class T>
HWY_INLINE std::pair<V, V> Moments(const T* x, int64_t n, const NormArgs& a) {
  const D d;
  const V mean = a.centred ? hn::Set(d, MeanOf(x, n)) : hn::Zero(d);
  const float variance = SquaresAbout(mean, x, n) / static_cast<float>(n);
  return {mean, hn::Set(d, 1.0f / std::sqrt(variance + a.epsilon))};
}
void PartMoments(const void* x, int64_t n, bool half, PartMoment* part) {
  const D d;
  WithElements(half, [&]<class T>() {
    const float mean = MeanOf(static_cast<const T*>(x), n);
    *part = {mean, SquaresAbout(hn::Set(d, mean), static_cast<const T*>(x), n)};
  });
}

template <class T>
void NormOf(const T* x, T* y, const NormArgs& a) {
  const D d;
  const auto [mean, factor] = Moments(x, a.width, a);
  OverRow(x, a.width, [&, mean = mean, factor = factor]<bool kWhole>(V v, hn::Mask<D> m, int64_t i) {
    V r = hn::Mul(hn::Sub(v, mean), factor);
    const V scale = LoadChannels<kWhole>(d, a.scale + i, m);
    r = a.bias ? hn::MulAdd(r, scale, LoadChannels<kWhole>(d, a.bias + i, m)) : hn::Mul(r, scale);
    StoreChannels<kWhole>(d, r, y + i, m);
  });
}
void NormRows(const void* x, void* y, int64_t rows, bool half, const NormArgs& a) {
  WithElements(half, [&]<class T>() {
    for (int64_t r = 0; r < rows; ++r) NormOf(static_cast<const T*>(x) + r * a.width, static_cast<T*>(y) + r * a.width, a);
  });
}

// One group of channels, each of `pixels` elements in a row; scale and bias by channel of the group.
void NormGroup(const void* from, void* to, int64_t channels, int64_t pixels, bool half, const NormArgs& a) {
  WithElements(half, [&]<class T>() {
    const D d;
    const T* x = static_cast<const T*>(from);
    T* y = static_cast<T*>(to);
    const auto [mean, factor] = Moments(x, channels * pixels, a);
    for (int64_t c = 0; c < channels; ++c, x += pixels, y += pixels) {
      const V scale = hn::Mul(factor, hn::Set(d, a.scale[c])), shift = hn::NegMulAdd(mean, scale, hn::Set(d, a.bias[c]));
      OverRow(x, pixels, [&]<bool kWhole>(V v, hn::Mask<D> m, int64_t i) { StoreChannels<kWhole>(d, hn::MulAdd(v, scale, shift), y + i, m); });
    }
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
void AffineRows(const void* x, const float* scale, const float* shift, void* y, int64_t rows, int64_t n, bool half, ActivationSpec spec) {
  WithElements(half, [&]<class T>() { AffineOf<T>(x, scale, shift, y, rows, n, spec); });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(SoftmaxRows);
HWY_EXPORT(NormRows);
HWY_EXPORT(NormGroup);
HWY_EXPORT(PartMoments);
HWY_EXPORT(AffineRows);

namespace {

int64_t element_bytes(const Tensor& t) { return static_cast<int64_t>(size_of(t.dtype())); }

class Softmax : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const int64_t width = in[0]->shape().back(), rows = in[0]->size() / width, row = width * element_bytes(*in[0]);
    const bool half = in[0]->dtype() == DType::kBF16;
    parallel_for(rows, kParallelGrain / (8 * width) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(SoftmaxRows)(in[0]->data<char>() + begin * row, out[0]->data<char>() + begin * row, end - begin, width, half);
    });
  }
  int in_place_input() const override { return 0; }
};

// LayerNormalization and RMSNormalization, from `axis` to the last.
class RowNorm : public Kernel {
 public:
  explicit RowNorm(const KernelRequest& r) : args_{nullptr, nullptr, 1, r.node.get_float("epsilon"), r.node.op->name == "LayerNormalization"} {
    const int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.in_shape().size()));
    args_.width = product(r.in_shape(), axis, r.in_shape().size());
    biased_ = r.has_input(2);
    if (r.input(1).dtype == DType::kBF16) scale_ = cast(r.input(1).constant, DType::kF32);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    args_.scale = scale_.defined() ? scale_.data<float>() : in[1]->data<float>();
    args_.bias = biased_ ? in[2]->data<float>() : nullptr;
    const int64_t row = args_.width * element_bytes(*in[0]);
    const bool half = in[0]->dtype() == DType::kBF16;
    parallel_for(in[0]->size() / args_.width, kParallelGrain / (4 * args_.width) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(NormRows)(in[0]->data<char>() + begin * row, out[0]->data<char>() + begin * row, end - begin, half, args_);
    });
  }
  int in_place_input() const override { return 0; }

 private:
  NormArgs args_;
  Tensor scale_;  // widened
  bool biased_;
};

// LayerNormalization of whole samples [N, …, C] whose scale and bias repeat every C elements: what GroupNormalization of one
// group is channels-last (transform/layout.cpp). Each part of a sample, small enough to stay in a first-level cache, is read
// twice for its mean and squares; parts are put together in their order, whatever thread made them (Chan et al. 1979).
class SampleNorm : public Kernel {
 public:
  explicit SampleNorm(const KernelRequest& r) : epsilon_(r.node.get_float("epsilon")), biased_(r.has_input(2)) {
    channels_ = r.in_shape().back();
    sample_ = product(r.in_shape(), normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.in_shape().size())), r.in_shape().size());
    parts_ = (sample_ + kPart - 1) / kPart;
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const int64_t bytes = sample_ * element_bytes(*in[0]), samples = in[0]->size() / sample_;
    // Many samples are shared among the threads as wholes, few part by part.
    const int64_t grain = samples < 2 * omp_get_max_threads() ? samples : kParallelGrain / (4 * sample_) + 1;
    parallel_for(samples, grain, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + static_cast<size_t>(omp_get_thread_num()) * thread_scratch();
      for (int64_t s = begin; s < end; ++s) normalize(in, in[0]->data<char>() + s * bytes, out[0]->data<char>() + s * bytes, own);
    });
  }
  size_t scratch_bytes() const override { return thread_scratch() * static_cast<size_t>(omp_get_max_threads()); }
  int in_place_input() const override { return 0; }

 private:
  void normalize(const Tensor* const* in, const char* x, char* y, char* scratch) const {
    const bool half = in[0]->dtype() == DType::kBF16;
    const int64_t bytes = element_bytes(*in[0]), pixels = sample_ / channels_;
    auto* parts = reinterpret_cast<PartMoment*>(scratch);
    float *scale = reinterpret_cast<float*>(parts + parts_), *shift = scale + channels_;
    parallel_for(parts_, kParallelGrain / (2 * kPart) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        HWY_DYNAMIC_DISPATCH(PartMoments)(x + p * kPart * bytes, std::min(kPart, sample_ - p * kPart), half, parts + p);
    });
    double mean = 0, squares = 0, count = 0;
    for (int64_t p = 0; p < parts_; ++p) {
      const auto n = static_cast<double>(std::min(kPart, sample_ - p * kPart)), apart = parts[p].mean - mean;
      squares += parts[p].squares + apart * apart * count * n / (count + n);
      mean += apart * n / (count + n);
      count += n;
    }
    const double factor = 1 / std::sqrt(squares / count + static_cast<double>(epsilon_));
    const float *weight = in[1]->data<float>(), *bias = biased_ ? in[2]->data<float>() : nullptr;
    for (int64_t c = 0; c < channels_; ++c) {
      scale[c] = static_cast<float>(weight[c] * factor);
      shift[c] = static_cast<float>((bias ? bias[c] : 0) - mean * (weight[c] * factor));
    }
    parallel_for(pixels, kParallelGrain / (channels_ + 1) + 1, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * channels_ * bytes;
      HWY_DYNAMIC_DISPATCH(AffineRows)(x + at, scale, shift, y + at, end - begin, channels_, half, {});
    });
  }
  size_t thread_scratch() const {
    return static_cast<size_t>(parts_) * sizeof(PartMoment) + static_cast<size_t>(channels_) * 2 * sizeof(float);
  }

  static constexpr int64_t kPart = 4096;  // elements: 16 KiB of f32, half of a first-level cache
  float epsilon_;
  int64_t channels_ = 1, sample_ = 1, parts_ = 1;
  bool biased_;
};

// InstanceNormalization (every channel a group) and GroupNormalization, [N, C, …].
class GroupNorm : public Kernel {
 public:
  explicit GroupNorm(const KernelRequest& r) : epsilon_(r.node.get_float("epsilon")) {
    const Shape& x = r.in_shape();
    groups_ = r.node.op->name == "GroupNormalization" ? r.node.get_int("num_groups") : x[1];
    channels_ = x[1] / groups_;
    pixels_ = product(x, 2, x.size());
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const int64_t group = channels_ * pixels_ * element_bytes(*in[0]);
    const bool half = in[0]->dtype() == DType::kBF16;
    parallel_for(in[0]->shape()[0] * groups_, kParallelGrain / (4 * channels_ * pixels_) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const int64_t channel = g % groups_ * channels_;
        const NormArgs args{in[1]->data<float>() + channel, in[2]->data<float>() + channel, 0, epsilon_, true};
        HWY_DYNAMIC_DISPATCH(NormGroup)(in[0]->data<char>() + g * group, out[0]->data<char>() + g * group, channels_, pixels_, half, args);
      }
    });
  }
  int in_place_input() const override { return 0; }

 private:
  float epsilon_;
  int64_t groups_ = 1, channels_ = 1, pixels_ = 1;
};

class Affine : public Kernel {
 public:
  explicit Affine(const KernelRequest& r) : spec_(activation_of(r.node)) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t width = in[0]->shape().back(), rows = in[0]->size() / width;
    const float *scale = in[1]->data<float>(), *shift = in[2]->data<float>();
    const bool half = in[0]->dtype() == DType::kBF16;
    const int64_t bytes = width * element_bytes(*in[0]);
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    parallel_for(rows, kParallelGrain / (width + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(AffineRows)(x + begin * bytes, scale, shift, y + begin * bytes, end - begin, width, half, spec_);
    });
  }
  int in_place_input() const override { return 0; }

 private:
  ActivationSpec spec_;
};

bool one_type(const KernelRequest& r) {
  const DType type = r.input(0).dtype;
  return (type == DType::kF32 || type == DType::kBF16) && r.output().dtype == type;
}
bool all_f32(const KernelRequest& r, std::initializer_list<size_t> inputs) {
  return std::all_of(inputs.begin(), inputs.end(), [&](size_t i) { return !r.has_input(i) || r.input(i).dtype == DType::kF32; });
}

bool softmax_supported(const KernelRequest& r) {
  if (!one_type(r) || r.in_shape().empty() || r.in_shape().back() < 1) return false;
  auto rank = static_cast<int64_t>(r.in_shape().size());
  return normalize_axis(r.node.get_int("axis"), rank) == rank - 1;
}

bool row_norm_supported(const KernelRequest& r) {
  // The standard gives an RMSNormalization's result the type of its scale.
  const bool half_scale = r.input(1).dtype == DType::kBF16 && r.input(1).is_constant() && r.input(1).constant.has_elements();
  if (!one_type(r) || !(half_scale ? all_f32(r, {2}) : all_f32(r, {1, 2})) || r.in_shape().empty()) return false;
  for (size_t i = 1; i < r.node.outputs.size(); ++i)
    if (r.node.outputs[i]) return false;
  const Shape& x = r.in_shape();
  const Shape row(x.begin() + normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size())), x.end());
  return r.in_shape(1) == row && (!r.has_input(2) || r.in_shape(2) == row);
}

bool sample_norm_supported(const KernelRequest& r) {
  const Shape& x = r.in_shape();
  if (!one_type(r) || !all_f32(r, {1, 2}) || x.size() < 3 || element_count(x) == 0) return false;
  for (size_t i = 1; i < r.node.outputs.size(); ++i)
    if (r.node.outputs[i]) return false;
  const Shape row{x.back()};
  return normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size())) + 1 < static_cast<int64_t>(x.size()) &&
         r.in_shape(1) == row && (!r.has_input(2) || r.in_shape(2) == row);
}

bool group_norm_supported(const KernelRequest& r) { return one_type(r) && all_f32(r, {1, 2}) && r.in_shape().size() >= 2; }

template <class Made>
std::unique_ptr<Kernel> make(const KernelRequest& r) {
  return std::make_unique<Made>(r);
}

}  // namespace

void register_normalize(KernelRegistry& r) {
  r.add("Softmax", "", {"softmax", softmax_supported, [](const KernelRequest&) -> std::unique_ptr<Kernel> { return std::make_unique<Softmax>(); }});
  r.add("Affine", "ai.lathe", {"affine", [](const KernelRequest& q) { return one_type(q) && all_f32(q, {1, 2}); }, make<Affine>});
  for (const char* op : {"LayerNormalization", "RMSNormalization"}) r.add(op, "", {"row.norm", row_norm_supported, make<RowNorm>});
  r.add("LayerNormalization", "", {"sample.norm", sample_norm_supported, make<SampleNorm>});
  for (const char* op : {"InstanceNormalization", "GroupNormalization"}) r.add(op, "", {"group.norm", group_norm_supported, make<GroupNorm>});
}

}  // namespace lathe
#endif
