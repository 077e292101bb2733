// SqueezeNet: Iandola et al. 2016, SqueezeNet: AlexNet-Level Accuracy with 50x Fewer Parameters and <0.5MB Model Size, table 1; 1.1 is the authors'
// later form, with smaller pictures sooner.
#include <algorithm>

#include "models/models.h"

namespace lathe::family {

namespace {

Graph build(const std::string& name, bool later, const BuildOptions& o) {
  if (!o.depths.empty() || !o.widths.empty()) fail(ErrorKind::kUsage, "{}: its layers are as published; there is width", name);
  Builder b(name, o);
  b.conv_init = {Init::Kind::kHeUniformIn};
  const auto width = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  const auto conv = [&](const std::string& layer, ValueId x, ConvSpec spec) {
    auto scope = b.scope(layer);
    spec.bias = true;
    return b.relu(b.conv(x, spec));
  };
  // Figure 2: few channels, then as many from windows of 1×1 as from those of 3×3, side by side.
  int64_t number = 2;
  const auto fire = [&](ValueId x, int64_t squeeze) {
    auto scope = b.scope(fmt::format("fire{}", number++));
    x = conv("squeeze", x, {.out = width(squeeze)});
    return b.concat({conv("expand1", x, {.out = width(4 * squeeze)}), conv("expand3", x, {.out = width(4 * squeeze), .kernel = 3, .pad = 1})});
  };
  // The published pooling rounds the size up: one row and column more lie behind the picture where they are needed.
  const auto pool = [&](ValueId x) {
    return b.op("MaxPool", {x}, {{"kernel_shape", std::vector<int64_t>{3, 3}}, {"strides", std::vector<int64_t>{2, 2}}, {"ceil_mode", int64_t{1}}});
  };
  ValueId x = b.input(o.input);
  if (std::min(o.input[1], o.input[2]) < 32) fail(ErrorKind::kUsage, "{}: an input of {}; the side is at least 32", name, to_string(o.input));
  x = pool(later ? conv("conv1", x, {.out = width(64), .kernel = 3, .stride = 2}) : conv("conv1", x, {.out = width(96), .kernel = 7, .stride = 2}));
  const std::vector<int64_t> squeezes = {16, 16, 32, 32, 48, 48, 64, 64};
  const std::vector<int64_t> pools = later ? std::vector<int64_t>{3, 5} : std::vector<int64_t>{4, 8};  // after these
  for (int64_t i = 0; i < 8; ++i) {
    x = fire(x, squeezes[static_cast<size_t>(i)]);
    if (std::find(pools.begin(), pools.end(), i + 2) != pools.end()) x = pool(x);
  }
  auto scope = b.scope("head");
  return b.finish({b.pooled(conv("conv10", b.dropout(x, 0.5), {.out = o.classes}))});
}

}  // namespace

std::vector<ModelEntry> squeezenet() {
  std::vector<ModelEntry> list;
  for (bool later : {false, true}) {
    const std::string name = later ? "squeezenet1_1" : "squeezenet1_0";
    ModelEntry m{.name = name, .family = "standard", .source = "Iandola et al. 2016, SqueezeNet: AlexNet-Level Accuracy with 50x Fewer Parameters and <0.5MB Model Size", .input = {3, 224, 224},
                 .counts = later ? ModelCounts{1'235'496, 0, 349'151'936} : ModelCounts{1'248'424, 0, 818'924'576}, .published_parameters = later ? "" : "1.25M", .published_accuracy = "57.5 %"};
    m.build = [name, later](const BuildOptions& o) { return build(name, later, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
