// MobileNet, three generations. V1: Howard et al. 2017, MobileNets, Table 1. V2: Sandler et al. 2018, MobileNetV2, Table 2. V3: Howard et al.
// 2019, Searching for MobileNetV3, Tables 1 and 2, as torchvision has it.
#include "models/family_options.h"

namespace lathe::family {

namespace {

bool small_stem(const std::string& name, const BuildOptions& o) {
  if (!o.depths.empty() || !o.widths.empty()) fail(ErrorKind::kUsage, "{}: its stages are as published; there is width", name);
  return FamilyOptions(name, o).choice("stem", "published", {"published", "small"}) == "small";
}

const char* const kStemOption = "stem: small leaves out the strides of the first convolution and of the first stage that has one, for pictures of 28×28 or 32×32";

using Activation = ValueId (*)(Builder&, ValueId);
ValueId linear(Builder&, ValueId x) { return x; }
ValueId relu(Builder& b, ValueId x) { return b.relu(x); }
ValueId relu6(Builder& b, ValueId x) { return b.relu6(x); }
ValueId hard_swish(Builder& b, ValueId x) { return b.hard_swish(x); }

ValueId conv_norm(Builder& b, const std::string& name, ValueId x, const ConvSpec& spec, Activation act) {
  auto scope = b.scope(name);
  return act(b, b.batch_norm(b.conv(x, spec)));
}
ValueId depthwise_norm(Builder& b, ValueId x, int64_t kernel, int64_t stride, Sizes pad, Activation act) {
  auto scope = b.scope("depthwise");
  return act(b, b.batch_norm(b.depthwise(x, kernel, stride, std::move(pad))));
}

// The first stride that a small stem leaves out.
class Strides {
 public:
  explicit Strides(bool small) : left_out_(small) {}
  int64_t operator()(int64_t stride) {
    if (stride == 1 || !left_out_) return stride;
    left_out_ = false;
    return 1;
  }

 private:
  bool left_out_;
};

Graph build_v1(const BuildOptions& o) {
  const bool small = small_stem("mobilenet_v1", o);
  Builder b("mobilenet_v1", o);
  b.batch_norm_epsilon = 1e-3;
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  struct Separable {
    int64_t out, stride;
  };
  const int64_t repeats = FamilyOptions("mobilenet_v1", o).integers("repeats", {5}, 1, 0, 1000)[0];
  std::vector<Separable> layers = {{64, 1}, {128, 2}, {128, 1}, {256, 2}, {256, 1}, {512, 2}};
  layers.insert(layers.end(), static_cast<size_t>(repeats), {512, 1});
  layers.insert(layers.end(), {{1024, 2}, {1024, 1}});
  ValueId x = conv_norm(b, "stem", b.input(o.input), {.out = width(32), .kernel = 3, .stride = small ? 1 : 2, .pad = kSamePad}, relu6);
  Strides stride(small);
  for (int64_t i = 0; const Separable& s : layers) {
    auto scope = b.scope(fmt::format("blocks.{}", i++));
    x = conv_norm(b, "pointwise", depthwise_norm(b, x, 3, stride(s.stride), kSamePad, relu6), {.out = width(s.out)}, relu6);
  }
  auto scope = b.scope("head");
  return b.finish({b.linear(b.dropout(b.pooled(x), 0.001), o.classes)});
}

Graph build_v2(const BuildOptions& o) {
  const bool small = small_stem("mobilenet_v2", o);
  Builder b("mobilenet_v2", o);
  b.linear_init = Init::normal(0.01);
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  struct Stage {
    int64_t expand, out, depth, stride;
  };
  ValueId x = conv_norm(b, "stem", b.input(o.input), {.out = width(32), .kernel = 3, .stride = small ? 1 : 2, .pad = 1}, relu6);
  Strides stride(small);
  for (int64_t stage = 0; const Stage& s : {Stage{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}}) {
    for (int64_t i = 0; i < s.depth; ++i) {
      auto scope = b.scope(fmt::format("stages.{}.blocks.{}", stage, i));
      const int64_t step = i == 0 ? stride(s.stride) : 1;
      ValueId y = s.expand == 1 ? x : conv_norm(b, "expand", x, {.out = s.expand * b.channels(x)}, relu6);
      y = conv_norm(b, "project", depthwise_norm(b, y, 3, step, 1, relu6), {.out = width(s.out)}, linear);
      x = step == 1 && b.channels(x) == b.channels(y) ? b.add(x, y) : y;
    }
    ++stage;
  }
  x = conv_norm(b, "last", x, {.out = make_divisible(1280 * std::max(1.0, o.width))}, relu6);
  auto scope = b.scope("head");
  return b.finish({b.linear(b.dropout(b.pooled(x), 0.2), o.classes)});
}

struct V3Layer {
  int64_t kernel, expanded, out;
  bool squeeze;
  Activation act;
  int64_t stride;
};

Graph build_v3(const std::string& name, const std::vector<V3Layer>& layers, int64_t features, const BuildOptions& o) {
  const bool small = small_stem(name, o);
  Builder b(name, o);
  b.batch_norm_epsilon = 1e-3;
  b.linear_init = Init::normal(0.01);
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  ValueId x = conv_norm(b, "stem", b.input(o.input), {.out = width(16), .kernel = 3, .stride = small ? 1 : 2, .pad = 1}, hard_swish);
  Strides stride(small);
  for (int64_t i = 0; const V3Layer& l : layers) {
    auto scope = b.scope(fmt::format("blocks.{}", i++));
    const int64_t step = stride(l.stride), expanded = width(l.expanded);
    ValueId y = expanded == b.channels(x) ? x : conv_norm(b, "expand", x, {.out = expanded}, l.act);
    y = depthwise_norm(b, y, l.kernel, step, l.kernel / 2, l.act);
    if (l.squeeze) {
      auto inner = b.scope("squeeze");
      const auto one = [&](const std::string& one_name, ValueId v, int64_t out) {
        auto one_scope = b.scope(one_name);
        return b.conv(v, {.out = out, .bias = true});
      };
      const ValueId gate = one("expand", b.relu(one("reduce", b.global_average(y), make_divisible(static_cast<double>(expanded) / 4))), expanded);
      y = b.mul(y, b.op("HardSigmoid", {gate}, {{"alpha", 1.0f / 6}, {"beta", 0.5f}}));
    }
    y = conv_norm(b, "project", y, {.out = width(l.out)}, linear);
    x = step == 1 && b.channels(x) == b.channels(y) ? b.add(x, y) : y;
  }
  x = conv_norm(b, "last", x, {.out = 6 * b.channels(x)}, hard_swish);
  auto scope = b.scope("head");
  {
    auto inner = b.scope("features");
    x = b.hard_swish(b.linear(b.pooled(x), width(features)));
  }
  return b.finish({b.linear(b.dropout(x, 0.2), o.classes)});
}

const std::vector<V3Layer> kLarge = {{3, 16, 16, false, relu, 1},        {3, 64, 24, false, relu, 2},        {3, 72, 24, false, relu, 1},        {5, 72, 40, true, relu, 2},
                                     {5, 120, 40, true, relu, 1},        {5, 120, 40, true, relu, 1},        {3, 240, 80, false, hard_swish, 2}, {3, 200, 80, false, hard_swish, 1},
                                     {3, 184, 80, false, hard_swish, 1}, {3, 184, 80, false, hard_swish, 1}, {3, 480, 112, true, hard_swish, 1}, {3, 672, 112, true, hard_swish, 1},
                                     {5, 672, 160, true, hard_swish, 2}, {5, 960, 160, true, hard_swish, 1}, {5, 960, 160, true, hard_swish, 1}};
const std::vector<V3Layer> kSmall = {{3, 16, 16, true, relu, 2},       {3, 72, 24, false, relu, 2},      {3, 88, 24, false, relu, 1},      {5, 96, 40, true, hard_swish, 2},
                                     {5, 240, 40, true, hard_swish, 1}, {5, 240, 40, true, hard_swish, 1}, {5, 120, 48, true, hard_swish, 1}, {5, 144, 48, true, hard_swish, 1},
                                     {5, 288, 96, true, hard_swish, 2}, {5, 576, 96, true, hard_swish, 1}, {5, 576, 96, true, hard_swish, 1}};

}  // namespace

std::vector<ModelEntry> mobilenet() {
  const std::vector<std::string> options = {kStemOption};
  return {
      {.name = "mobilenet_v1", .family = "standard", .source = "Howard et al. 2017, MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", .input = {3, 224, 224},
       .counts = {4'231'976, 0, 568'740'352}, .published_parameters = "4.2M", .published_macs = "569M", .published_accuracy = "70.6 %",
       .options = {kStemOption, "repeats: how often the layer of 512 channels that keeps size comes again (5; 0 is the paper's shallow network)"},
       // The paper's multipliers, Table 6: 325M MACs and 2.6M parameters, 149M and 1.3M, 41M and 0.5M; its shallow network, Table 5: 307M and 2.9M.
       .variants = {{"width 0.75", {.width = 0.75}, {2'585'560, 0, 325'400'448}}, {"width 0.5", {.width = 0.5}, {1'331'592, 0, 149'497'088}}, {"width 0.25", {.width = 0.25}, {470'072, 0, 41'030'272}},
                    {"repeats 0", {.more = {{"repeats", "0"}}}, {2'887'976, 0, 307'323'392}}},
       .build = build_v1},
      {.name = "mobilenet_v2", .family = "standard", .source = "Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks", .input = {3, 224, 224},
       .counts = {3'504'872, 0, 300'774'272}, .published_parameters = "3.4M", .published_macs = "300M", .published_accuracy = "72.0 %", .parameters_note = "as torchvision defines it",
       .macs_note = "the paper prints it rounded", .options = options, .build = build_v2},
      {.name = "mobilenet_v3_large", .family = "standard", .source = "Howard et al. 2019, Searching for MobileNetV3", .input = {3, 224, 224}, .counts = {5'483'032, 0, 216'589'760},
       .published_parameters = "5.4M", .published_macs = "219M", .published_accuracy = "75.2 %", .parameters_note = "as torchvision defines it", .macs_note = "as torchvision defines it",
       .options = options, .build = [](const BuildOptions& o) { return build_v3("mobilenet_v3_large", kLarge, 1280, o); }},
      {.name = "mobilenet_v3_small", .family = "standard", .source = "Howard et al. 2019, Searching for MobileNetV3", .input = {3, 224, 224}, .counts = {2'542'856, 0, 56'510'400},
       .published_parameters = "2.5M", .published_macs = "56M", .published_accuracy = "67.4 %", .macs_note = "as torchvision defines it", .options = options,
       .build = [](const BuildOptions& o) { return build_v3("mobilenet_v3_small", kSmall, 1024, o); }}};
}

}  // namespace lathe::family
