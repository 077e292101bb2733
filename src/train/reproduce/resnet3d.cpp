// Hara et al. 2018, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?: in small, clips of moving shapes whose single
// frames say nothing of the class (docs/DATA.md), 8 frames of 32×32, a resnet3d_10 of a quarter of its width.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment clips(const ReproduceContext& c, const std::string& name, const std::string& network, int frames, int test = 1000) {
  TrainSettings s{.epochs = c.quick ? 3.0 : 4.0, .batch = 32, .rate = 1e-3, .warm_up = 0.1};
  s.weight_decay = 0.01;
  s.width = c.quick ? 0.125 : 0.25;
  if (network == "resnet18") s.input = {3, frames, 32, 32};
  return {name, network, fmt::format("generated:moving-shapes,count={},frames={},validation=300,test={}", c.quick ? 8000 : 20000, frames, test), s};
}
int seeds(const ReproduceContext& c) { return c.quick ? 1 : 3; }

CheckResult clips_are_learnt(const ReproduceContext& c) {
  const Scores s = scores_of(c, {clips(c, "resnet3d_10", "resnet3d_10", 8)}, seeds(c))[0];
  double least = 100;
  for (double v : s.values) least = std::min(least, v);
  const double goal = c.quick ? 60 : 95;
  return CheckResult::of(least >= goal && s.disagreement <= 0.1, fmt::format("{} %, least {:.1f} %, engine and libtorch {:.2f} points apart", s.text(), least, s.disagreement));
}

CheckResult frames_say_nothing(const ReproduceContext& c) {
  const Scores s = scores_of(c, {clips(c, "single frames", "resnet3d_10", 1)}, seeds(c))[0];
  return CheckResult::of(std::abs(s.mean() - 10) <= 3, fmt::format("{} % of ten classes", s.text()));
}

CheckResult volumes_beat_frames(const ReproduceContext& c) {
  const std::vector<Scores> s = scores_of(c, {clips(c, "3-D", "resnet3d_10", 8), clips(c, "frame by frame", "resnet18", 8)}, seeds(c));
  const Gap g = gap(s[0], s[1]);
  return CheckResult::of(g.points > 2 * g.error && g.points > 5, fmt::format("3-D {} %, frame by frame {} %: {} points", s[0].text(), s[1].text(), g.text()));
}

CheckResult few_clips_are_learnt_by_heart(const ReproduceContext& c) {
  std::string table;
  bool shown = true;
  for (const char* network : {"resnet3d_10", "resnet3d_18", "resnet3d_34"}) {
    double test[2] = {};
    for (int i = 0; i < 2; ++i) {
      Experiment e = clips(c, fmt::format("{} of {} clips", network, i == 0 ? 200 : 20000), network, 8);
      if (i == 0) {
        e.data = "generated:moving-shapes,count=200,frames=8,validation=300,test=1000";
        e.settings.epochs = 100;  // as often as lets it learn them by heart
      }
      test[i] = scores_of(c, {e}, 1)[0].mean();
    }
    shown = shown && test[1] - test[0] > 20;
    table += fmt::format("{}{}: {:.1f} % of 200 clips, {:.1f} % of 20000", table.empty() ? "" : "; ", network, test[0], test[1]);
  }
  return CheckResult::of(shown, table);
}

}  // namespace

Reproduction resnet3d() {
  return {"resnet3d", "Time is what a network of clips uses", "Hara et al. 2018, arXiv 1711.09577",
          {{"clips are learnt", "66.1 % on Kinetics (ResNet-18)", "each seed 95 % (--quick: 60 % of a narrower network)", true, clips_are_learnt},
           {"single frames say nothing", "none: a property of the clips", "within 3 points of 10 %", false, frames_say_nothing},
           {"3-D beats frame by frame", "3-D networks beat 2-D ones on video (section 1)", "more than twice the standard error, and 5 points", true, volumes_beat_frames},
           {"few clips are learnt by heart", "overfits on UCF-101 and HMDB-51, not on Kinetics (abstract)", "20 points more on the test part from 20000 clips than from 200, at each depth", false, few_clips_are_learnt_by_heart}}};
}

}  // namespace lathe::experiments
