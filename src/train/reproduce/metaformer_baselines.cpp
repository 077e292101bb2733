// Yu et al. 2024, MetaFormer Baselines for Vision: separable convolutions and attention as mixers, StarReLU as activation. In small:
// depths 1, 1, 3, 1, linear heads, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment small(const ReproduceContext& c, const std::string& network, std::vector<int64_t> widths, std::map<std::string, std::string> set) {
  set["stem"] = "small";
  TrainSettings s{.epochs = c.quick ? 3.0 : 8.0, .batch = c.quick ? 64 : 128, .rate = 2e-3, .warm_up = c.quick ? 0.5 : 1.0, .augment = "flip,crop=2"};
  s.depths = {1, 1, 3, 1};
  s.widths = std::move(widths);
  s.set = set;
  s.threads = 1;
  return {network, c.quick ? "fashion-mnist,limit=6000" : "fashion-mnist,limit=24000", s};
}
int seeds(const ReproduceContext& c) { return c.quick ? 2 : 3; }
const std::vector<int64_t> kWidths = {16, 32, 64, 128};
// PoolFormerV2 as wide as makes its products those of the ConvFormer (6.2 of 6.1 million MACs at 28×28).
const std::vector<int64_t> kWider = {20, 40, 80, 160};

CheckResult mixers(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const Scores pool = scores_of(c, "pooling, widened", small(c, "poolformerv2_s12", kWider, {}), seeds(c));
  const Scores conv = scores_of(c, "ConvFormer", small(c, "convformer_s18", kWidths, {{"head", "linear"}}), seeds(c));
  const Scores attention = scores_of(c, "CAFormer", small(c, "caformer_s18", kWidths, {{"head", "linear"}}), seeds(c));
  const Gap a = gap(conv, pool), b = gap(attention, pool);
  return CheckResult::of(a.points > 0 && b.points > 0, fmt::format("pooling {} %, ConvFormer {} % ({}), CAFormer {} % ({})", pool.text(), conv.text(), a.text(), attention.text(), b.text()));
}

CheckResult star_relu(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const Scores star = scores_of(c, "StarReLU", small(c, "convformer_s18", kWidths, {{"head", "linear"}}), seeds(c));
  const Scores gelu = scores_of(c, "GELU", small(c, "convformer_s18", kWidths, {{"head", "linear"}, {"activation", "gelu"}}), seeds(c));
  const Gap g = gap(star, gelu);
  return CheckResult::of(g.points >= -0.2, fmt::format("StarReLU {} %, GELU {} %: {} points", star.text(), gelu.text(), g.text()));
}

}  // namespace

Reproduction metaformer_baselines() {
  return {"metaformer-baselines", "MetaFormers with plain mixers", "Yu et al. 2024, arXiv 2210.13452",
          {{"convolution and attention beat pooling", "S18: ConvFormer 83.0, CAFormer 83.6; PoolFormerV2-S24 80.7 % (table 1, ImageNet)", "both above pooling at equal MACs", true, mixers},
           {"StarReLU is no worse than GELU", "83.0 against 82.7 % (table 6, ConvFormer-S18)", "no more than 0.2 points below", true, star_relu}}};
}

}  // namespace lathe::experiments
