// Yu et al. 2024, MetaFormer Baselines for Vision: separable convolutions and attention as mixers, StarReLU as activation. In small:
// depths 1, 1, 3, 1, linear heads, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment small(const ReproduceContext& c, const std::string& name, const std::string& network, std::vector<int64_t> widths, std::map<std::string, std::string> set = {}) {
  set["stem"] = "small";
  set["head"] = "linear";
  Experiment e = on_fashion(c, name, network, 8, 3, 6000);
  e.settings.depths = {1, 1, 3, 1};
  e.settings.widths = std::move(widths);
  e.settings.set = std::move(set);
  return e;
}
int seeds(const ReproduceContext& c) { return c.quick ? 2 : 3; }
const std::vector<int64_t> kWidths = {16, 32, 64, 128};
// PoolFormerV2 as wide as makes its products those of the ConvFormer (6.2 of 6.1 million MACs at 28×28).
const std::vector<int64_t> kWider = {20, 40, 80, 160};

CheckResult mixers(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "pooling, widened", "poolformerv2_s12", kWider), small(c, "ConvFormer", "convformer_s18", kWidths), small(c, "CAFormer", "caformer_s18", kWidths)}, seeds(c));
  const Gap a = gap(s[1], s[0]), b = gap(s[2], s[0]);
  return CheckResult::of(a.points > 0 && b.points > 0, fmt::format("pooling {} %, ConvFormer {} % ({}), CAFormer {} % ({})", s[0].text(), s[1].text(), a.text(), s[2].text(), b.text()));
}

CheckResult star_relu(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "StarReLU", "convformer_s18", kWidths), small(c, "GELU", "convformer_s18", kWidths, {{"activation", "gelu"}})}, seeds(c));
  const Gap g = gap(s[0], s[1]);
  return CheckResult::of(g.points >= -0.2, fmt::format("StarReLU {} %, GELU {} %: {} points", s[0].text(), s[1].text(), g.text()));
}

CheckResult order_of_mixers(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "identity", "identityformer_s12", kWidths), small(c, "random", "randformer_s12", kWidths), small(c, "pooling", "poolformerv2_s12", kWidths)}, seeds(c));
  const Gap random = gap(s[1], s[0]), pool = gap(s[2], s[0]);
  return CheckResult::of(pool.points > 0, fmt::format("identity {} %, random {} % ({}), pooling {} % ({})", s[0].text(), s[1].text(), random.text(), s[2].text(), pool.text()));
}

// Four times as wide as the networks whose orders are compared, and with weights that suit their width.
template <int kPercent>
std::function<CheckResult(const ReproduceContext&)> learns(const std::string& network) {
  return [network](const ReproduceContext& c) {
    Experiment e = small(c, network, network, {32, 64, 128, 256}, {{"init", "xavier"}, {"drop_path", "0"}});
    learn_longer(e.settings, 24);
    return reaches(c, e, kPercent);
  };
}

}  // namespace

Reproduction metaformer_baselines() {
  return {"metaformer-baselines", "MetaFormers with plain mixers", "Yu et al. 2024, arXiv 2210.13452",
          {{"convolution and attention beat pooling", "S18: ConvFormer 83.0, CAFormer 83.6; PoolFormerV2-S24 80.7 % (table 1, ImageNet)", "both above pooling at equal MACs", true, mixers},
           {"StarReLU is no worse than GELU", "83.0 against 82.7 % (table 6, ConvFormer-S18)", "no more than 0.2 points below", true, star_relu},
           {"pooling beats identity", "S12: identity 74.6, random 76.6, pooling 78.0 %", "above identity", false, order_of_mixers},
           {"IdentityFormer learns", "74.6 % on ImageNet (S12)", "92 % on Fashion-MNIST in 24 epochs", false, learns<92>("identityformer_s12")},
           {"RandFormer learns", "76.6 % on ImageNet (S12)", "92 % on Fashion-MNIST in 24 epochs", false, learns<92>("randformer_s12")},
           {"ConvFormer learns", "83.0 % on ImageNet (S18)", "93 % on Fashion-MNIST in 24 epochs", false, learns<93>("convformer_s18")},
           {"CAFormer learns", "83.6 % on ImageNet (S18)", "92 % on Fashion-MNIST in 24 epochs", false, learns<92>("caformer_s18")}}};
}

}  // namespace lathe::experiments
