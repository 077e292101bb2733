// Networks of video: Hara et al. 2018, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, Table 1; clips are
// [N, 3, T, H, W], and the last pool takes what is there of T, H and W.
#include <algorithm>
#include <limits>

#include "models/family_options.h"

namespace lathe::family {

namespace {

enum class Block { kBasic, kBottleneck, kPreActivation, kWide, kResNeXt };

struct Network {
  std::string name;
  Block block;
  std::vector<int64_t> depths;
  ModelCounts counts;
  std::string accuracy;  // mean of top-1 and top-5 on Kinetics' validation clips
};

class Residual {
 public:
  Residual(Builder& b, Block kind, bool projected) : b_(b), kind_(kind), projected_(projected) {}

  // `planes`: channels of the 3×3×3 convolution, but for ResNeXt, where all its 32 groups have as many together.
  ValueId block(ValueId x, int64_t planes, int64_t stride) {
    const int64_t middle = kind_ == Block::kWide ? 2 * planes : planes;
    if (kind_ == Block::kBasic) {
      const ValueId y = norm("norm2", conv("conv2", relu_norm("norm1", conv("conv1", x, {.out = planes, .kernel = 3, .stride = stride, .pad = 1})), {.out = planes, .kernel = 3, .pad = 1}));
      return b_.relu(b_.add(y, shortcut(x, planes, stride)));
    }
    const int64_t out = expansion() * planes * (kind_ == Block::kWide ? 2 : 1);
    const ConvSpec reduce{.out = middle}, spatial{.out = middle, .kernel = 3, .stride = stride, .pad = 1, .groups = kind_ == Block::kResNeXt ? 32 : 1}, expand{.out = out};
    if (kind_ == Block::kPreActivation) {
      const ValueId y = conv("conv1", relu_norm("norm1", x), reduce);
      return b_.add(conv("conv3", relu_norm("norm3", conv("conv2", relu_norm("norm2", y), spatial)), expand), shortcut(x, out, stride));
    }
    const ValueId y = relu_norm("norm2", conv("conv2", relu_norm("norm1", conv("conv1", x, reduce)), spatial));
    return b_.relu(b_.add(norm("norm3", conv("conv3", y, expand)), shortcut(x, out, stride)));
  }

 private:
  int64_t expansion() const { return kind_ == Block::kWide || kind_ == Block::kResNeXt ? 2 : 4; }
  ValueId conv(const std::string& name, ValueId x, const ConvSpec& spec) {
    auto scope = b_.scope(name);
    return b_.conv(x, spec);
  }
  ValueId norm(const std::string& name, ValueId x) {
    auto scope = b_.scope(name);
    return b_.batch_norm(x);
  }
  ValueId relu_norm(const std::string& name, ValueId x) { return b_.relu(norm(name, x)); }

  // B: 1×1×1 and a norm. A: what the stride leaves, the new channels zero.
  ValueId shortcut(ValueId x, int64_t out, int64_t stride) {
    if (stride == 1 && b_.channels(x) == out) return x;
    auto scope = b_.scope("shortcut");
    if (projected_) return norm("norm", conv("conv", x, {.out = out, .stride = stride}));
    if (stride != 1) {
      const auto ints = [&](const Shape& values) { return b_.graph().add_constant(Tensor::of_i64(values)); };
      constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
      x = b_.op("Slice", {x, ints({0, 0, 0}), ints({kAll, kAll, kAll}), ints({2, 3, 4}), ints({stride, stride, stride})});
    }
    const int64_t more = out - b_.channels(x);
    if (more < 0) fail(ErrorKind::kUsage, "shortcut A of {} to {} channels", b_.channels(x), out);
    return more == 0 ? x : b_.op("Pad", {x, b_.graph().add_constant(Tensor::of_i64({0, 0, 0, 0, 0, 0, more, 0, 0, 0}))});
  }

  Builder& b_;
  Block kind_;
  bool projected_;
};

ValueId stem(Builder& b, ValueId x, int64_t out) {
  auto scope = b.scope("stem");
  x = b.relu(b.batch_norm(b.conv(x, {.out = out, .kernel = 7, .stride = {1, 2, 2}, .pad = 3})));
  return b.max_pool(x, {.kernel = 3, .stride = 2, .pad = 1});
}

bool projected_shortcut(const Network& n, const BuildOptions& o) {
  return FamilyOptions(n.name, o).choice("shortcut", n.block == Block::kBasic ? "A" : "B", {"A", "B"}) == "B";
}

Graph build(const Network& n, const BuildOptions& o) {
  Builder b(n.name, o);
  const bool resnext = n.block == Block::kResNeXt;
  const auto width = [&](int64_t channels, int64_t divisor = 8) { return make_divisible(static_cast<double>(channels) * o.width, divisor); };
  ValueId x = stem(b, b.input(o.input), width(64));
  Residual residual(b, n.block, projected_shortcut(n, o));
  const std::vector<int64_t>& depths = o.depths.empty() ? n.depths : o.depths;
  for (size_t stage = 0; stage < depths.size(); ++stage)
    for (int64_t i = 0; i < depths[stage]; ++i) {
      auto scope = b.scope(fmt::format("stages.{}.blocks.{}", stage, i));
      const int64_t planes = stage < o.widths.size() ? o.widths[stage] : int64_t{resnext ? 128 : 64} << stage;
      x = residual.block(x, width(planes, resnext ? 32 : 8), stage > 0 && i == 0 ? 2 : 1);
    }
  auto scope = b.scope("head");
  return b.finish({b.linear(b.pooled(x), o.classes)});
}

// DenseNet-BC: growth 32, bottlenecks of four times that, half of the channels after each stage.
Graph build_dense(const std::string& name, const std::vector<int64_t>& published, const BuildOptions& o) {
  Builder b(name, o);
  if (!o.widths.empty()) fail(ErrorKind::kUsage, "{}: stages have no widths of their own; there is width", name);
  const int64_t growth = make_divisible(32 * o.width);
  const auto relu_norm = [&](ValueId x) {
    auto scope = b.scope("norm");
    return b.relu(b.batch_norm(x));
  };
  const auto layer = [&](const std::string& layer_name, ValueId x, const ConvSpec& spec) {
    auto scope = b.scope(layer_name);
    return b.conv(relu_norm(x), spec);
  };
  ValueId x = stem(b, b.input(o.input), 2 * growth);
  const std::vector<int64_t>& depths = o.depths.empty() ? published : o.depths;
  for (size_t stage = 0; stage < depths.size(); ++stage) {
    if (stage > 0) {
      auto scope = b.scope(fmt::format("stages.{}", stage));
      x = layer("transition", x, {.out = b.channels(x) / 2});
      const auto two = [&](size_t axis) { return std::min<int64_t>(2, b.shape(x)[axis]); };
      const Sizes window{two(2), two(3), two(4)};
      x = b.average_pool(x, {.kernel = window, .stride = window});
    }
    for (int64_t i = 0; i < depths[stage]; ++i) {
      auto scope = b.scope(fmt::format("stages.{}.layers.{}", stage, i));
      x = b.concat({x, layer("spatial", layer("reduce", x, {.out = 4 * growth}), {.out = growth, .kernel = 3, .pad = 1})});
    }
  }
  auto scope = b.scope("head");
  return b.finish({b.linear(b.pooled(relu_norm(x)), o.classes)});
}

}  // namespace

std::vector<ModelEntry> resnet3d() {
  std::vector<ModelEntry> list;
  const auto entry = [&](const std::string& name, const ModelCounts& counts, const std::string& accuracy) {
    return ModelEntry{.name = name, .family = "resnet3d", .source = "Hara et al. 2018, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", .input = {3, 16, 112, 112},
                      .classes = 400, .counts = counts, .published_accuracy = accuracy.empty() ? "" : accuracy + " % (Kinetics, mean of top-1 and top-5)"};
  };
  const std::map<std::string, ModelCounts> projected = {{"resnet3d_10", {14'604'624, 0, 5'653'798'912}}, {"resnet3d_18", {33'409'104, 0, 8'308'006'912}}, {"resnet3d_34", {63'718'736, 0, 12'696'297'472}}};
  for (const Network& n : {Network{"resnet3d_10", Block::kBasic, {1, 1, 1, 1}, {14'430'800, 0, 5'642'067'968}, ""},
                           Network{"resnet3d_18", Block::kBasic, {2, 2, 2, 2}, {33'235'280, 0, 8'296'275'968}, "66.1"},
                           Network{"resnet3d_34", Block::kBasic, {3, 4, 6, 3}, {63'544'912, 0, 12'684'566'528}, "71.0"},
                           Network{"resnet3d_50", Block::kBottleneck, {3, 4, 6, 3}, {47'018'576, 0, 10'069'311'488}, "72.2"},
                           Network{"resnet3d_101", Block::kBottleneck, {3, 4, 23, 3}, {86'064'720, 0, 13'890'715'648}, "73.3"},
                           Network{"resnet3d_152", Block::kBottleneck, {3, 8, 36, 3}, {118'223'440, 0, 18'611'273'728}, "73.7"},
                           Network{"resnet3d_200", Block::kBottleneck, {3, 24, 36, 3}, {127'423'056, 0, 25'804'505'088}, "73.7"},
                           Network{"preact_resnet3d_200", Block::kPreActivation, {3, 24, 36, 3}, {127'419'088, 0, 25'804'505'088}, "73.4"},
                           Network{"wide_resnet3d_50", Block::kWide, {3, 4, 6, 3}, {158'248'272, 0, 26'239'664'128}, "74.7"},
                           Network{"resnext3d_101", Block::kResNeXt, {3, 4, 23, 3}, {48'340'816, 0, 9'567'715'328}, "75.4"}}) {
    ModelEntry m = entry(n.name, n.counts, n.accuracy);
    m.options = {"shortcut: A (a stride, new channels zero; published for basic blocks) or B (1×1×1; for the others)"};
    if (projected.contains(n.name)) m.variants.push_back({"shortcut B", {.more = {{"shortcut", "B"}}}, projected.at(n.name)});
    m.build = [n](const BuildOptions& o) { return build(n, o); };
    list.push_back(std::move(m));
  }
  using Depths = std::vector<int64_t>;
  for (const auto& [name, depths, counts, accuracy] : {std::tuple{"densenet3d_121", Depths{6, 12, 24, 16}, ModelCounts{11'696'528, 0, 10'404'184'064}, "70.8"},
                                                       std::tuple{"densenet3d_201", Depths{6, 12, 48, 32}, ModelCounts{26'143'120, 0, 11'243'075'584}, "72.3"}}) {
    ModelEntry m = entry(name, counts, accuracy);
    m.build = [name = std::string(name), depths = depths](const BuildOptions& o) { return build_dense(name, depths, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
