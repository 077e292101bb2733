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
    return Experiment{path, "nasnet_a_cifar", c.quick ? "fashion-mnist,limit=1200,limit-validation=200" : "fashion-mnist,limit=3000", s};
  };
  std::vector<Experiment> experiments{run("scheduled"), run("none")};
  if (!c.quick) experiments.push_back(run("constant"));
  const std::vector<Scores> s = scores_of(c, experiments, c.quick ? 1 : 3);
  const Gap g = gap(s[0], s[1]);
  const std::string constant = c.quick ? "" : fmt::format(", constant {} % ({} points)", s[2].text(), gap(s[0], s[2]).text());
  return CheckResult::of(g.points > 0, fmt::format("scheduled {} %, none {} % ({} points){}", s[0].text(), s[1].text(), g.text(), constant));
}

CheckResult learns(const ReproduceContext& c) {
  TrainSettings s{.epochs = 12, .batch = 256, .rate = 5e-3, .warm_up = 1, .augment = "flip,crop=2"};
  s.smoothing = 0.1;
  s.width = 0.5;
  s.depths = {6};
  s.set = {{"drop_path", "none"}};
  return reaches(c, {"nasnet", "nasnet_a_cifar", "fashion-mnist", s}, 93);
}

}  // namespace

Reproduction nasnet() {
  return {"nasnet", "ScheduledDropPath", "Zoph et al. 2018, arXiv 1707.07012",
          {{"ScheduledDropPath beats none", "necessary for the best networks; no figure without (section 3)", "a higher mean", true, scheduled_drop_path},
           {"NASNet-A learns", "96.59 % on CIFAR-10 (6 @ 768)", "93 % on Fashion-MNIST in 12 epochs (16 filters, 6 cells)", false, learns}}};
}

}  // namespace lathe::experiments
