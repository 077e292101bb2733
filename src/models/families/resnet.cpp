// ResNet: He et al. 2015, Deep Residual Learning for Image Recognition, Table 1; the stride of a bottleneck stands in its 3×3
// convolution (v1.5), as torchvision has it. Of a clip [C, T, H, W] each frame goes through it by itself, and the scores are averaged.
#include "models/models.h"

namespace lathe::family {

namespace {

struct Size {
  std::string name;
  std::vector<int64_t> depths;
  bool bottleneck;
  ModelCounts counts;
  std::string parameters, macs, accuracy;
};

ValueId block(Builder& b, ValueId x, int64_t planes, int64_t stride, bool bottleneck) {
  const int64_t out = bottleneck ? 4 * planes : planes;
  const auto layer = [&](const std::string& name, ValueId v, int64_t channels, int64_t kernel, int64_t s) {
    auto scope = b.scope(name);
    return b.batch_norm(b.conv(v, {.out = channels, .kernel = kernel, .stride = s, .pad = kernel / 2}));
  };
  ValueId y;
  if (bottleneck) {
    y = b.relu(layer("conv1", x, planes, 1, 1));
    y = b.relu(layer("conv2", y, planes, 3, stride));
    y = layer("conv3", y, out, 1, 1);
  } else {
    y = b.relu(layer("conv1", x, planes, 3, stride));
    y = layer("conv2", y, planes, 3, 1);
  }
  const ValueId shortcut = stride != 1 || b.channels(x) != out ? layer("downsample", x, out, 1, stride) : x;
  return b.relu(b.add(y, shortcut));
}

Graph build(const Size& size, const BuildOptions& o) {
  Builder b(size.name, o);
  const std::vector<int64_t> depths = o.depths.empty() ? size.depths : o.depths;
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  ValueId x = b.input(o.input);
  const bool clip = o.input.size() == 4;
  // [N, C, T, H, W] → [N·T, C, H, W].
  if (clip) x = b.reshape(b.transpose(x, {0, 2, 1, 3, 4}), {-1, o.input[0], o.input[2], o.input[3]});
  const bool small = o.more.contains("stem") && o.more.at("stem") == "small";
  {
    auto scope = b.scope("stem");
    x = small ? b.conv(x, {.out = width(64), .kernel = 3, .pad = 1}) : b.conv(x, {.out = width(64), .kernel = 7, .stride = 2, .pad = 3});
    x = b.relu(b.batch_norm(x));
    if (!small) x = b.max_pool(x, {.kernel = 3, .stride = 2, .pad = 1});
  }
  for (size_t stage = 0; stage < depths.size(); ++stage)
    for (int64_t i = 0; i < depths[stage]; ++i) {
      auto scope = b.scope(fmt::format("stages.{}.blocks.{}", stage, i));
      const int64_t planes = stage < o.widths.size() ? o.widths[stage] : int64_t{64} << stage;
      x = block(b, x, width(planes), stage > 0 && i == 0 ? 2 : 1, size.bottleneck);
    }
  auto scope = b.scope("head");
  x = b.linear(b.pooled(x), o.classes);
  if (clip) x = b.op("ReduceMean", {b.reshape(x, {-1, o.input[1], o.classes}), b.graph().add_constant(Tensor::of_i64({1}))}, {{"keepdims", int64_t{0}}});
  return b.finish({x});
}

}  // namespace

std::vector<ModelEntry> resnet() {
  std::vector<ModelEntry> list;
  for (const Size& s : {Size{"resnet18", {2, 2, 2, 2}, false, {11'689'512, 0, 1'814'073'344}, "11.69M", "1.8G", "69.8 %"},
                        Size{"resnet34", {3, 4, 6, 3}, false, {21'797'672, 0, 3'663'761'408}, "21.8M", "3.6G", "73.3 %"},
                        Size{"resnet50", {3, 4, 6, 3}, true, {25'557'032, 0, 4'089'184'256}, "25.6M", "3.8G", "76.1 %"},
                        Size{"resnet101", {3, 4, 23, 3}, true, {44'549'160, 0, 7'801'405'440}, "44.5M", "7.6G", "77.4 %"},
                        Size{"resnet152", {3, 8, 36, 3}, true, {60'192'808, 0, 11'513'626'624}, "60.2M", "11.3G", "78.3 %"}}) {
    ModelEntry m{.name = s.name, .family = "standard", .source = "He et al. 2015, Deep Residual Learning for Image Recognition", .input = {3, 224, 224}, .counts = s.counts,
                 .published_parameters = s.parameters, .published_macs = s.macs, .published_accuracy = s.accuracy,
                 .options = {"stem: small is a 3×3 convolution without stride, for pictures of 32×32"}, .frames_apart = true};
    if (s.name != "resnet18") m.macs_note = s.bottleneck ? "the paper's stride stands in the first 1×1, and it counts no shortcuts" : "the paper's count is rounded down";
    m.build = [s](const BuildOptions& o) { return build(s, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
