// Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition: ScheduledDropPath. In small: NASNet-A with 8 filters
// and few cells, where there are few pictures to learn from.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

CheckResult scheduled_drop_path(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  const auto run = [&](const std::string& path) {
    TrainSettings s{.epochs = c.quick ? 6.0 : 30.0, .batch = 32, .rate = 0.025, .optimizer = "sgd", .clip = 5};
    s.width = 0.25;  // 8 filters
    s.depths = {c.quick ? 3 : 6};
    s.set = {{"drop_path", path}, {"keep", "0.7"}};
    s.threads = 1;
    return scores_of(c, path, {"nasnet_a_cifar", c.quick ? "fashion-mnist,limit=1200" : "fashion-mnist,limit=3000", s}, c.quick ? 1 : 3);
  };
  const Scores none = run("none"), scheduled = run("scheduled");
  const Gap g = gap(scheduled, none);
  return CheckResult::of(g.points > 0, fmt::format("scheduled {} %, none {} %: {} points", scheduled.text(), none.text(), g.text()));
}

}  // namespace

Reproduction nasnet() {
  return {"nasnet", "ScheduledDropPath", "Zoph et al. 2018, arXiv 1707.07012",
          {{"ScheduledDropPath beats none", "necessary for the best networks; no figure without (section 3)", "a higher mean", true, scheduled_drop_path}}};
}

}  // namespace lathe::experiments
