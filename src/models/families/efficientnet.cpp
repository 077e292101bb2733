// EfficientNet-B0: Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Table 1, with the
// epsilon and padding of torchvision.
#include <numeric>

#include "models/family_options.h"

namespace lathe::family {

namespace {

struct Stage {
  int64_t expand, kernel, stride, out, depth;
};

Graph build(const BuildOptions& o) {
  const bool small = FamilyOptions("efficientnet_b0", o).choice("stem", "published", {"published", "small"}) == "small";
  std::vector<Stage> stages = {{1, 3, 1, 16, 1}, {6, 3, 2, 24, 2}, {6, 5, 2, 40, 2}, {6, 3, 2, 80, 3}, {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1}};
  if (small) stages[1].stride = 1;
  if (o.depths.size() > stages.size() || o.widths.size() > stages.size()) fail(ErrorKind::kUsage, "efficientnet_b0 has {} stages", stages.size());
  for (size_t i = 0; i < o.depths.size(); ++i) stages[i].depth = o.depths[i];
  for (size_t i = 0; i < o.widths.size(); ++i) stages[i].out = o.widths[i];

  Builder b("efficientnet_b0", o);
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  const auto layer = [&](const std::string& name, ValueId v, const ConvSpec& spec) {
    auto scope = b.scope(name);
    return b.batch_norm(b.conv(v, spec));
  };
  const auto one = [&](const std::string& name, ValueId v, int64_t out) {
    auto scope = b.scope(name);
    return b.conv(v, {.out = out, .bias = true});
  };
  ValueId x = b.silu(layer("stem", b.input(o.input), {.out = width(32), .kernel = 3, .stride = small ? 1 : 2, .pad = 1}));
  const int64_t blocks = std::accumulate(stages.begin(), stages.end(), int64_t{0}, [](int64_t sum, const Stage& s) { return sum + s.depth; });
  int64_t made = 0;
  for (size_t stage = 0; stage < stages.size(); ++stage)
    for (int64_t i = 0; i < stages[stage].depth; ++i) {
      auto scope = b.scope(fmt::format("stages.{}.blocks.{}", stage, i));
      const Stage& s = stages[stage];
      const int64_t in = b.channels(x), expanded = s.expand * in, step = i == 0 ? s.stride : 1;
      ValueId y = s.expand == 1 ? x : b.silu(layer("expand", x, {.out = expanded}));
      y = b.silu(layer("depthwise", y, {.out = expanded, .kernel = s.kernel, .stride = step, .pad = s.kernel / 2, .groups = expanded}));
      {
        auto inner = b.scope("squeeze");
        y = b.mul(y, b.sigmoid(one("expand", b.silu(one("reduce", b.global_average(y), std::max<int64_t>(1, in / 4))), expanded)));
      }
      y = layer("project", y, {.out = width(s.out)});
      const double rate = 0.2 * static_cast<double>(made++) / static_cast<double>(blocks);
      x = step == 1 && in == b.channels(y) ? b.add(x, b.drop_path(y, rate)) : y;
    }
  x = b.silu(layer("last", x, {.out = 4 * b.channels(x)}));
  auto scope = b.scope("head");
  return b.finish({b.linear(b.dropout(b.pooled(x), 0.2), o.classes)});
}

}  // namespace

std::vector<ModelEntry> efficientnet() {
  return {{.name = "efficientnet_b0", .family = "standard", .source = "Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", .input = {3, 224, 224},
           .counts = {5'288'548, 0, 385'814'752}, .published_parameters = "5.3M", .published_macs = "0.39B", .published_accuracy = "77.1 %",
           .options = {"stem: small leaves out the strides of the first convolution and of the first stage that has one, for pictures of 28×28 or 32×32"}, .build = build}};
}

}  // namespace lathe::family
