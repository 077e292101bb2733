// Pay et al. 2025, SpaRTAN: spatial reinforcement token-based aggregation. In small: depths 1, 1, 2, 1, widths 16 to 128, no strides in the
// stem, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment small(const ReproduceContext& c, const std::string& name, std::map<std::string, std::string> set = {}) {
  set["stem"] = "small";
  Experiment e = on_fashion(c, name, "spartan", 10, 2, 3000);
  e.settings.depths = {1, 1, 2, 1};
  e.settings.widths = {16, 32, 64, 128};
  e.settings.set = std::move(set);
  return e;
}

CheckResult learns(const ReproduceContext& c) { return reaches(c, small(c, "spartan"), 92); }

CheckResult waves(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const std::vector<Scores> s = scores_of(c, {small(c, "waves"), small(c, "no waves", {{"waves", "0"}}), small(c, "one reach", {{"dilated", "0"}})}, c.quick ? 1 : 3);
  const Gap without = gap(s[0], s[1]), one = gap(s[0], s[2]);
  return CheckResult::of(without.points > 2 * without.error, fmt::format("waves {} %, without {} % ({} points), paths of one reach {} % ({} points)", s[0].text(), s[1].text(), without.text(), s[2].text(), one.text()));
}

}  // namespace

Reproduction spartan() {
  return {"spartan", "Waves between channels", "Pay et al. 2025, SpaRTAN",
          {{"waves beat a plain product", "77.7 % on ImageNet with both", "more than twice the standard error above the network without", true, waves},
           {"SpaRTAN learns", "77.7 % on ImageNet", "92 % on Fashion-MNIST in 10 epochs", false, learns}}};
}

}  // namespace lathe::experiments
