// SpaRTAN: Pay et al. 2025, SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition (IJCNN).
// Blocks of two mixers: of space, two paths of convolutions with one and two reaches; of channels, features as waves whose
// amplitudes are those of two projections, strengthened by each pixel's strongest channel, and whose phases are learnt.
#include "models/family_options.h"

namespace lathe::family {

namespace {

class Spartan {
 public:
  Spartan(const BuildOptions& o)
      : o_(o), set_("spartan", o), stages_(stages_of("spartan", o, {3, 3, 12, 2}, {32, 64, 128, 256})), b_("spartan", o) {
    const size_t count = stages_.count();
    scale_ = set_.number("layer_scale", 1e-5, 0, 1e6);
    drop_path_ = set_.number("drop_path", 0.1, 0, 0.99);
    std::vector<int64_t> ratios{4, 4, 2, 2};
    ratios.resize(count, 2);
    ratios_ = set_.integers("ratios", ratios, count, 1);
    small_ = set_.choice("stem", "published", {"published", "small"}) == "small";
    waves_ = set_.flag("waves", true);
    dilated_ = set_.flag("dilated", true);
    for (size_t i = 0; i < count; ++i) {
      if (stages_.widths[i] % 8 != 0)
        fail(ErrorKind::kUsage, "spartan: widths: {} channels of stage {} are no multiple of 8", stages_.widths[i], i + 1);
      if (ratios_[i] < 2) set_.refuse("ratios", fmt::format("holds an expansion of {}: 2 is the least", ratios_[i]));
    }
    const int64_t least = (small_ ? 1 : 4) << (count - 1);
    if (std::min(o.input[1], o.input[2]) < least)
      fail(ErrorKind::kUsage, "spartan: an input of {} is smaller than {}, which the stages need", to_string(o.input), least);
    b_.batch_norm_epsilon = 1e-6;
    b_.linear_init = Init::truncated(0.02);
  }

  Graph build() {
    ValueId x = b_.input(o_.input);
    {
      auto scope = b_.scope("stem");
      const int64_t stride = small_ ? 1 : 2;
      x = b_.gelu(conv_norm("conv1", x, {.out = stages_.widths[0] / 2, .kernel = 3, .stride = stride, .pad = 1}));
      x = b_.gelu(conv_norm("conv2", x, {.out = stages_.widths[0], .kernel = 3, .stride = stride, .pad = 1}));
    }
    int64_t block = 0;
    for (size_t stage = 0; stage < stages_.count(); ++stage) {
      if (stage > 0) {
        auto scope = b_.scope(fmt::format("stages.{}", stage));
        x = b_.silu(conv_norm("downsample", x, {.out = stages_.widths[stage], .kernel = 2, .stride = 2}));
      }
      for (int64_t i = 0; i < stages_.depths[stage]; ++i, ++block) {
        auto scope = b_.scope(fmt::format("stages.{}.blocks.{}", stage, i));
        const double rate = drop_path_ * static_cast<double>(block) / static_cast<double>(stages_.blocks());
        x = branch("1", x, rate, [&](ValueId y) { return space_mixer(y, stage); });
        x = branch("2", x, rate, [&](ValueId y) { return channel_mixer(y, stage); });
      }
    }
    auto scope = b_.scope("head");
    return b_.finish({b_.linear(b_.pooled(x), o_.classes)});
  }

 private:
  // x + drop_path(s·f(GN1(x)))
  template <class F>
  ValueId branch(const std::string& number, ValueId x, double rate, F f) {
    ValueId y;
    {
      auto scope = b_.scope("norm" + number);
      y = b_.group_norm(x, 1e-6);
    }
    y = f(y);
    if (scale_ != 0) y = b_.mul(y, b_.parameter("layer_scale" + number, {b_.channels(y), 1, 1}, Init::constant(scale_)));
    return b_.add(x, b_.drop_path(y, rate));
  }

  ValueId conv(const std::string& name, ValueId x, const ConvSpec& spec) {
    auto scope = b_.scope(name);
    b_.conv_init = {Init::Kind::kHeNormalOut};
    return b_.conv(x, spec);
  }
  ValueId conv_norm(const std::string& name, ValueId x, const ConvSpec& spec) {
    auto scope = b_.scope(name);
    x = conv("conv", x, spec);
    auto norm = b_.scope("norm");
    return b_.batch_norm(x);
  }
  // v·sigmoid(W_e·relu(W_s·mean(v)))
  ValueId squeeze_excite(const std::string& name, ValueId x, int64_t middle) {
    auto scope = b_.scope(name);
    const ValueId squeezed = b_.relu(conv("squeeze", b_.global_average(x), {.out = middle, .bias = true}));
    return b_.mul(x, b_.sigmoid(conv("excite", squeezed, {.out = b_.channels(x), .bias = true})));
  }

  ValueId space_mixer(ValueId x, size_t stage) {
    auto scope = b_.scope("space");
    const int64_t width = b_.channels(x), half = width / 2, groups = stage < 2 ? 1 : half;
    ValueId y = conv("reduce", x, {.out = half, .bias = true});
    const ValueId apart = b_.op("Sub", {y, b_.global_average(y)});
    y = b_.add(y, b_.mul(apart, b_.parameter("gamma", {half, 1, 1}, Init::constant(1e-5))));
    const ValueId near =
        squeeze_excite("near_scale", b_.gelu(conv_norm("near", y, {.out = half, .kernel = 3, .pad = 1, .groups = groups})), half / 4);
    const int64_t reach = dilated_ ? 2 : 1;
    ValueId far = conv("far1", y, {.out = half, .kernel = 3, .pad = reach, .dilation = reach, .groups = groups});
    far = squeeze_excite("far_scale",
                         b_.gelu(conv_norm("far2", far, {.out = half, .kernel = 3, .pad = reach, .dilation = reach, .groups = groups})),
                         half / 4);
    return conv("expand", b_.concat({near, far}), {.out = width, .bias = true});
  }

  ValueId channel_mixer(ValueId x, size_t stage) {
    auto scope = b_.scope("channel");
    const int64_t width = b_.channels(x), wide = ratios_[stage] * width;
    const ValueId phase = b_.gelu(conv("phase", x, {.out = wide, .bias = true})),
                  amplitude = conv("amplitude", x, {.out = wide, .bias = true});
    ValueId f = b_.mul(amplitude, phase);
    if (waves_) {
      // Each pixel's strongest channel i of the input; w[i]·θ[i] is element i of the product.
      const ValueId strongest = b_.op("ArgMax", {x}, {{"axis", int64_t{1}}, {"keepdims", int64_t{1}}});
      f = b_.add(f, b_.op("GatherElements", {f, strongest}, {{"axis", int64_t{1}}}));
      f = rotate(f);
    }
    ValueId y = b_.gelu(conv_norm("mix", f, {.out = wide, .kernel = 3, .pad = 1, .groups = stage < 2 ? wide : width}));
    return conv("project", squeeze_excite("scale", y, width / 4), {.out = width, .bias = true});
  }

  // Channels 2k and 2k + 1 are the real and the imaginary part of a number, which is multiplied by the learnt number k.
  ValueId rotate(ValueId f) {
    const int64_t half = b_.channels(f) / 2;
    const auto each_second = [&](int64_t first) {
      const auto number = [&](int64_t v) { return b_.graph().add_constant(Tensor::of_i64({v})); };
      return b_.op("Slice", {f, number(first), number(2 * half), number(1), number(2)});
    };
    const ValueId real = each_second(0), imaginary = each_second(1), c = b_.parameter("wave_real", {half, 1, 1}, Init::normal(1)),
                  d = b_.parameter("wave_imaginary", {half, 1, 1}, Init::normal(1));
    const ValueId parts = b_.concat({b_.op("Sub", {b_.mul(real, c), b_.mul(imaginary, d)}), b_.add(b_.mul(real, d), b_.mul(imaginary, c))});
    const Shape s = b_.shape(f);  // all real, then all imaginary parts: one of each in turn
    return b_.reshape(b_.transpose(b_.reshape(parts, {0, 2, half, s[2], s[3]}), {0, 2, 1, 3, 4}), {0, 2 * half, s[2], s[3]});
  }

  const BuildOptions& o_;
  FamilyOptions set_;
  Stages stages_;
  Builder b_;
  double scale_, drop_path_;
  std::vector<int64_t> ratios_;  // of the channels of waves to those of the stage
  bool small_, waves_, dilated_;
};

}  // namespace

std::vector<ModelEntry> spartan() {
  ModelEntry m{
      .name = "spartan",
      .family = "spartan",
      .source = "Pay et al. 2025, SpaRTAN",
      .input = {3, 256, 256},
      .counts = {3'820'296, 0, 1'044'147'968},
      .published_parameters = "3.8M",
      .published_macs = "1.0G",
      .published_accuracy = "77.7 %",
      .options = {"stem: small has no strides, for pictures of 28×28", "ratios: channels of the waves to those of the stage, with commas",
                  "layer_scale: where the factors of the branches start; 0 leaves them out",
                  "drop_path: of the rate of blocks, in training",
                  "waves: 0 leaves the product of the projections as it is, without strongest channel and rotation",
                  "dilated: 0 gives the second path the first one's reach"}};
  m.variants = {{"224²", {.input = {3, 224, 224}}, {3'820'296, 0, 799'589'888}}};
  m.build = [](const BuildOptions& o) { return Spartan(o).build(); };
  return {m};
}

}  // namespace lathe::family
