// Xiong et al. 2021, MobileDets: in small, mobiledet_cpu of a quarter of its width finds generated shapes on pictures of 96×96.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

CheckResult shapes_are_found(const ReproduceContext& c) {
  TrainSettings s{.epochs = c.quick ? 3.0 : 44.0, .batch = 32, .rate = 3e-3, .warm_up = 0.3, .augment = "flip,crop=8,jitter=0.2:0.2:0.2"};
  s.weight_decay = 0.01;
  s.ema = 0.998;
  s.width = 0.25;
  s.input = {3, 96, 96};
  const Scores found = scores_of(c, {{"mobiledet_cpu", "mobiledet_cpu", fmt::format("generated:shapes,count={},validation=100,test={}", c.quick ? 2000 : 5000, c.quick ? 100 : 500), s}}, 1)[0];
  return CheckResult::of(found.mean() >= (c.quick ? 2 : 75) && found.disagreement <= 0.1, fmt::format("mAP@0.5 {} %, engine and libtorch {:.2f} points apart", found.text(), found.disagreement));
}

}  // namespace

Reproduction mobiledets() {
  return {"mobiledets", "A small detector learns", "Xiong et al. 2021, arXiv 2004.14525",
          {{"shapes are found", "24.1 mAP on COCO (mobiledet_cpu)", "mAP@0.5 of 75 % in 44 epochs, which take ten minutes of one core (--quick: 2 % in 3 epochs of 2000)", true, shapes_are_found}}};
}

}  // namespace lathe::experiments
