// Yu et al. 2022, MetaFormer Is Actually What You Need for Vision, table 5: what stands in for attention, and what the block cannot do
// without. In small: depths 1, 1, 3, 1, widths 16 to 128, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment small(const ReproduceContext& c, const std::string& name, std::map<std::string, std::string> set) {
  set["stem"] = "small";
  Experiment e = on_fashion(c, name, "poolformer_s12", 8, 3, 6000);
  e.settings.depths = {1, 1, 3, 1};
  e.settings.widths = {16, 32, 64, 128};
  e.settings.set = std::move(set);
  return e;
}

CheckResult pooling_beats_identity(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "pooling", {}), small(c, "identity", {{"mixers", "IIII"}})}, c.quick ? 2 : 3);
  const Gap g = gap(s[0], s[1]);
  return CheckResult::of(g.points >= 0.3 && g.points > 2 * g.error, fmt::format("pooling {} %, identity {} %: {} points", s[0].text(), s[1].text(), g.text()));
}

CheckResult block_needs_its_parts(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "whole", {}), small(c, "without channel MLP", {{"mlp", "0"}})}, 1);
  return CheckResult::of(s[0].mean() - s[1].mean() >= 5, fmt::format("whole {} %, without channel MLPs {} %", s[0].text(), s[1].text()));
}

CheckResult learns(const ReproduceContext& c) {
  Experiment e = small(c, "poolformer", {{"init", "xavier"}, {"layer_scale", "1"}, {"drop_path", "0"}});
  e.settings.widths = {32, 64, 128, 256};
  learn_longer(e.settings, 24);
  return reaches(c, e, 92, 3);
}

}  // namespace

Reproduction metaformer() {
  return {"metaformer", "The block matters more than the token mixer", "Yu et al. 2022, arXiv 2111.11418",
          {{"pooling beats identity", "77.2 against 74.3 % (table 5, ImageNet)", "at least 0.3 points and twice the standard error", true, pooling_beats_identity},
           {"the block needs its MLPs", "5.7 % without channel MLPs (table 5)", "at least 5 points less without", true, block_needs_its_parts},
           {"PoolFormer learns", "77.2 % on ImageNet (table 1)", "92 % on Fashion-MNIST in 24 epochs", false, learns}}};
}

}  // namespace lathe::experiments
