// ConvNeXt: Liu et al. 2022, A ConvNet for the 2020s, section 3 and appendix A.1.
#include "models/family_options.h"

namespace lathe::family {

namespace {

struct Size {
  std::string name;
  std::vector<int64_t> depths, widths;
  double drop_path;
  ModelCounts counts;
  std::string parameters, macs, accuracy;
};

Graph build(const Size& size, const BuildOptions& o) {
  const FamilyOptions set(size.name, o);
  const Stages stages = stages_of(size.name, o, size.depths, size.widths);
  const double layer_scale = set.number("layer_scale", 1e-6, 0, 1e6), drop_path = set.number("drop_path", size.drop_path, 0, 0.99);
  const std::vector<int64_t> patch = set.integers("stem", {4}, 1, 1);
  if (std::min(o.input[1], o.input[2]) < patch[0] << (stages.count() - 1))
    fail(ErrorKind::kUsage, "{}: an input of {} is smaller than {}, which the stages need", size.name, to_string(o.input),
         patch[0] << (stages.count() - 1));
  Builder b(size.name, o);
  b.conv_init = b.linear_init = transformer_init(set);
  const auto norm = [&](ValueId x) {
    auto scope = b.scope("norm");
    return b.channel_norm(x, 1e-6);
  };
  const auto conv = [&](const std::string& name, ValueId x, const ConvSpec& spec) {
    auto scope = b.scope(name);
    return b.conv(x, spec);
  };
  ValueId x = b.input(o.input);
  {
    auto scope = b.scope("stem");
    x = norm(conv("conv", x, {.out = stages.widths[0], .kernel = patch[0], .stride = patch[0], .bias = true}));
  }
  int64_t block = 0;
  for (size_t stage = 0; stage < stages.count(); ++stage) {
    const int64_t width = stages.widths[stage];
    if (stage > 0) {
      auto scope = b.scope(fmt::format("stages.{}.downsample", stage));
      x = conv("conv", norm(x), {.out = width, .kernel = 2, .stride = 2, .bias = true});
    }
    for (int64_t i = 0; i < stages.depths[stage]; ++i, ++block) {
      auto scope = b.scope(fmt::format("stages.{}.blocks.{}", stage, i));
      ValueId y = norm(conv("depthwise", x, {.out = width, .kernel = 7, .pad = 3, .groups = width, .bias = true}));
      y = b.gelu(conv("fc1", y, {.out = 4 * width, .bias = true}));
      y = conv("fc2", y, {.out = width, .bias = true});
      if (layer_scale != 0) y = b.mul(y, b.parameter("layer_scale", {width, 1, 1}, Init::constant(layer_scale)));
      if (stages.blocks() > 1) y = b.drop_path(y, drop_path * static_cast<double>(block) / static_cast<double>(stages.blocks() - 1));
      x = b.add(x, y);
    }
  }
  auto scope = b.scope("head");
  x = b.pooled(x);
  {
    auto inner = b.scope("norm");
    x = b.layer_norm(x, 1e-6);
  }
  auto inner = b.scope("fc");
  return b.finish({b.linear(x, o.classes)});
}

}  // namespace

std::vector<ModelEntry> convnext() {
  std::vector<ModelEntry> list;
  for (const Size& s :
       {Size{"convnext_tiny", {3, 3, 9, 3}, {96, 192, 384, 768}, 0.1, {28'589'128, 0, 4'455'531'264}, "29M", "4.5G", "82.1 %"},
        Size{"convnext_small", {3, 3, 27, 3}, {96, 192, 384, 768}, 0.4, {50'223'688, 0, 8'683'712'256}, "50M", "8.7G", "83.1 %"},
        Size{"convnext_base", {3, 3, 27, 3}, {128, 256, 512, 1024}, 0.5, {88'591'464, 0, 15'354'729'472}, "89M", "15.4G", "83.8 %"},
        Size{"convnext_large", {3, 3, 27, 3}, {192, 384, 768, 1536}, 0.5, {197'767'336, 0, 34'361'433'600}, "198M", "34.4G", "84.3 %"}}) {
    ModelEntry m{.name = s.name,
                 .family = "standard",
                 .source = "Liu et al. 2022, A ConvNet for the 2020s",
                 .input = {3, 224, 224},
                 .counts = s.counts,
                 .published_parameters = s.parameters,
                 .published_macs = s.macs,
                 .published_accuracy = s.accuracy,
                 .options = {kInitOption, "stem: size of the first patches, for small pictures",
                             "layer_scale: where the factors of the branches start; 0 leaves them out",
                             "drop_path: the rate of the last block, in training"}};
    m.build = [s](const BuildOptions& o) { return build(s, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
