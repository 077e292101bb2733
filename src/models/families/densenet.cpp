// DenseNet: Huang et al. 2017, Densely Connected Convolutional Networks, table 1 (DenseNet-BC: bottlenecks of 4k channels, half of them kept between
// blocks).
#include "models/models.h"

namespace lathe::family {

namespace {

struct Size {
  std::string name;
  std::vector<int64_t> depths;
  int64_t growth, stem;
  ModelCounts counts;
  std::string parameters, accuracy;
};

Graph build(const Size& size, const BuildOptions& o) {
  if (o.widths.size() > 1) fail(ErrorKind::kUsage, "{}: one width, which is the growth of a layer", size.name);
  Builder b(size.name, o);
  const std::vector<int64_t> depths = o.depths.empty() ? size.depths : o.depths;
  const auto scaled = [&](int64_t channels) { return make_divisible(static_cast<double>(channels) * o.width); };
  const int64_t growth = scaled(o.widths.empty() ? size.growth : o.widths[0]);
  ValueId x = b.input(o.input);
  {
    auto scope = b.scope("stem");
    x = b.max_pool(b.relu(b.batch_norm(b.conv(x, {.out = scaled(size.stem), .kernel = 7, .stride = 2, .pad = 3}))), {.kernel = 3, .stride = 2, .pad = 1});
  }
  const auto normed = [&](const std::string& name, ValueId v) {
    auto scope = b.scope(name);
    return b.relu(b.batch_norm(v));
  };
  const auto conv = [&](const std::string& name, ValueId v, const ConvSpec& spec) {
    auto scope = b.scope(name);
    return b.conv(v, spec);
  };
  for (size_t block = 0; block < depths.size(); ++block) {
    // Every layer reads all that the layers before it made.
    std::vector<ValueId> made = {x};
    for (int64_t i = 0; i < depths[block]; ++i) {
      auto scope = b.scope(fmt::format("blocks.{}.layers.{}", block, i));
      const ValueId all = made.size() == 1 ? made[0] : b.concat(made);
      const ValueId narrow = conv("conv1", normed("norm1", all), {.out = 4 * growth});
      made.push_back(conv("conv2", normed("norm2", narrow), {.out = growth, .kernel = 3, .pad = 1}));
    }
    x = made.size() == 1 ? made[0] : b.concat(made);
    if (block + 1 == depths.size()) break;
    auto scope = b.scope(fmt::format("transitions.{}", block));
    x = b.average_pool(conv("conv", normed("norm", x), {.out = b.channels(x) / 2}), {});
  }
  auto scope = b.scope("head");
  return b.finish({b.linear(b.pooled(normed("norm", x)), o.classes)});
}

}  // namespace

std::vector<ModelEntry> densenet() {
  std::vector<ModelEntry> list;
  for (const Size& s : {Size{"densenet121", {6, 12, 24, 16}, 32, 64, {7'978'856, 0, 2'834'161'664}, "7.98M", "74.98 %"},
                        Size{"densenet169", {6, 12, 32, 32}, 32, 64, {14'149'480, 0, 3'359'843'328}, "14.15M", "76.2 %"}}) {
    ModelEntry m{.name = s.name, .family = "standard", .source = "Huang et al. 2017, Densely Connected Convolutional Networks", .input = {3, 224, 224}, .counts = s.counts,
                 .published_accuracy = s.accuracy};
    m.build = [s](const BuildOptions& o) { return build(s, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
