// SpaRTAN's waves: amplitude times phase, strengthened by the product at each pixel's strongest channel, as complex numbers
// times learnt ones, in one walk over each pixel. f32, channels last. An exchange of neighbouring lanes brings real and
// imaginary parts together.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/wave.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/wave.h"

#ifndef LATHE_WAVE_SHARED
#define LATHE_WAVE_SHARED
namespace lathe {
struct WaveArgs {
  const float *amplitude, *phase;
  const int64_t* strongest;  // one for each pixel
  const float *own, *other;  // factors of a channel itself, and of its neighbour in the pair
  float* y;
  int64_t channels;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

void WavePixels(const WaveArgs& a, int64_t begin, int64_t end) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t p = begin; p < end; ++p) {
    const float *amplitude = a.amplitude + p * a.channels, *phase = a.phase + p * a.channels;
    float* y = a.y + p * a.channels;
    const float most = amplitude[a.strongest[p]] * phase[a.strongest[p]];
#if HWY_TARGET == HWY_SCALAR
    for (int64_t k = 0; k < a.channels; k += 2) {
      const float real = amplitude[k] * phase[k] + most, imaginary = amplitude[k + 1] * phase[k + 1] + most;
      y[k] = real * a.own[k] + imaginary * a.other[k];
      y[k + 1] = imaginary * a.own[k + 1] + real * a.other[k + 1];
    }
    (void)lanes;
#else
    const V add = hn::Set(d, most);
    auto part = [&]<bool kFull>(int64_t k, hn::Mask<D> m) {
      const V f = hn::Add(hn::Mul(LoadChannels<kFull>(d, amplitude + k, m), LoadChannels<kFull>(d, phase + k, m)), add);
      const V turned = hn::Mul(hn::Shuffle2301(f), LoadChannels<kFull>(d, a.other + k, m));
      StoreChannels<kFull>(d, hn::MulAdd(f, LoadChannels<kFull>(d, a.own + k, m), turned), y + k, m);
    };
    int64_t k = 0;
    for (; k + lanes <= a.channels; k += lanes) part.template operator()<true>(k, FirstLanes(d, lanes));
    if (k < a.channels) part.template operator()<false>(k, FirstLanes(d, a.channels - k));
#endif
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(WavePixels);

namespace {

class Wave : public Kernel {
 public:
  explicit Wave(const KernelRequest& r) : channels_(r.in_shape().back()) {
    // [K]: the real part of each number twice; its imaginary part, taken off at first.
    const auto paired = [&](double sign) {
      return [this, sign](const Tensor& t) {
        Tensor twice(DType::kF32, {channels_});
        for (int64_t k = 0; k < channels_; ++k) twice.data<float>()[k] = t.data<float>()[k / 2] * static_cast<float>(k % 2 == 0 ? sign : 1);
        return twice;
      };
    };
    own_ = r.packed_input(3, DType::kF32, {channels_}, kLayout, paired(1));
    other_ = r.packed_input(4, DType::kF32, {channels_}, kLayout, paired(-1));
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const int64_t pixels = in[2]->size();
    const int64_t* strongest = in[2]->data<int64_t>();
    for (int64_t p = 0; p < pixels; ++p)
      if (strongest[p] < 0 || strongest[p] >= channels_) fail(ErrorKind::kInput, "channel {} of {}", strongest[p], channels_);
    const WaveArgs args{in[0]->data<float>(), in[1]->data<float>(),  strongest, own_.data<float>(),
                        other_.data<float>(), out[0]->data<float>(), channels_};
    parallel_for(pixels, kParallelGrain / (4 * channels_ + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(WavePixels)(args, begin, end);
    });
  }
  int in_place_input() const override { return 0; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {}, {}, {own_, kLayout}, {other_, kLayout}}; }

 private:
  static constexpr uint64_t kLayout = 1;
  int64_t channels_;
  Tensor own_, other_;
};

bool supported(const KernelRequest& r) {
  const auto rank = static_cast<int64_t>(r.in_shape().size());
  return r.all_f32_but_indices() && normalize_axis(r.node.get_int("axis"), rank) == rank - 1 && element_count(r.in_shape()) > 0 &&
         r.input(3).is_constant() && r.input(4).is_constant();
}

}  // namespace

void register_wave(KernelRegistry& r) {
  r.add("Wave", kLatheDomain,
        {"wave", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Wave>(q); }});
}

}  // namespace lathe
#endif
