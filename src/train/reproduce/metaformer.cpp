// Yu et al. 2022, MetaFormer Is Actually What You Need for Vision, table 5: what stands in for attention, and what the block cannot do
// without. In small: depths 1, 1, 3, 1, widths 16 to 128, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment small(const ReproduceContext& c, std::map<std::string, std::string> set) {
  set["stem"] = "small";
  TrainSettings s{.epochs = c.quick ? 3.0 : 8.0, .batch = c.quick ? 64 : 128, .rate = 2e-3, .warm_up = c.quick ? 0.5 : 1.0, .augment = "flip,crop=2"};
  s.depths = {1, 1, 3, 1};
  s.widths = {16, 32, 64, 128};
  s.set = set;
  s.threads = 1;
  return {"poolformer_s12", c.quick ? "fashion-mnist,limit=6000" : "fashion-mnist,limit=24000", s};
}
int seeds(const ReproduceContext& c) { return c.quick ? 2 : 3; }

CheckResult pooling_beats_identity(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const Scores pool = scores_of(c, "pooling", small(c, {}), seeds(c)), identity = scores_of(c, "identity", small(c, {{"mixers", "IIII"}}), seeds(c));
  const Gap g = gap(pool, identity);
  return CheckResult::of(g.points >= 0.3 && g.points > 2 * g.error, fmt::format("pooling {} %, identity {} %: {} points", pool.text(), identity.text(), g.text()));
}

CheckResult block_needs_its_parts(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const Scores whole = scores_of(c, "whole", small(c, {}), 1), no_mlp = scores_of(c, "without channel MLP", small(c, {{"mlp", "0"}}), 1);
  return CheckResult::of(whole.mean() - no_mlp.mean() >= 5, fmt::format("whole {:.2f} %, without channel MLPs {:.2f} %", whole.mean(), no_mlp.mean()));
}

}  // namespace

Reproduction metaformer() {
  return {"metaformer", "The block matters more than the token mixer", "Yu et al. 2022, arXiv 2111.11418",
          {{"pooling beats identity", "77.2 against 74.3 % (table 5, ImageNet)", "at least 0.3 points and twice the standard error", true, pooling_beats_identity},
           {"the block needs its MLPs", "5.7 % without channel MLPs (table 5)", "at least 5 points less without", true, block_needs_its_parts}}};
}

}  // namespace lathe::experiments
