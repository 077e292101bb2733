// Xiong et al. 2021, MobileDets: in small, mobiledet_cpu of a quarter of its width finds generated shapes on pictures of 96×96, in float
// and in codes of 8 bits, and with other kinds of layers in its stages C3 and C4.
#include <fmt/format.h>

#include <cmath>

#include "models/models.h"
#include "train/experiment.h"

namespace lathe::experiments {
namespace {

Experiment detector(const ReproduceContext& c, const std::string& name, std::map<std::string, std::string> set = {}) {
  TrainSettings s{.epochs = c.quick ? 5.0 : 44.0, .batch = 32, .rate = 3e-3, .warm_up = 0.3, .augment = c.quick ? "flip" : "flip,crop=8,jitter=0.2:0.2:0.2"};
  s.weight_decay = 0.01;
  if (!c.quick) s.ema = 0.998;  // in the few steps of the quick form it would still hold the first weights
  s.width = 0.25;
  s.input = {3, 96, 96};
  s.set = std::move(set);
  return {name, "mobiledet_cpu", fmt::format("generated:shapes,count={},validation=100,test={}", c.quick ? 4000 : 5000, c.quick ? 100 : 500), s};
}

CheckResult shapes_are_found(const ReproduceContext& c) {
  const Experiment e = detector(c, "mobiledet_cpu");
  const std::vector<TrainResult> results = trained(c, {e}, 1);
  const Scores found = scores(results);
  std::vector<double> codes;
  for (const TrainResult& r : results) codes.push_back(quantized_score(e, r.network, "w:int8 a:uint8,mse bias"));
  double worst = 0;
  for (size_t i = 0; i < codes.size(); ++i) worst = std::max(worst, found.values[i] - codes[i]);
  return CheckResult::of(found.mean() >= (c.quick ? 5 : 75) && found.disagreement <= 0.1 && worst <= 2,
                         fmt::format("mAP@0.5 {} %, engine and libtorch {:.2f} points apart; in int8 {:.2f} %", found.text(), found.disagreement, fmt::join(codes, ", ")));
}

// The stages C3 and C4 with one kind of layer each: as many layers, channels, windows and strides, expansions and quarters such that the products
// are as many, to half a percent.
CheckResult kinds_of_layers(const ReproduceContext& c) {
  const std::vector<Experiment> kinds = {
      detector(c, "IBN"), detector(c, "fused", {{"C3", "F32e2s2 3*F32e2r"}, {"C4", "F72k5e3s2 F72e2r F72k5e1r F72e1r F72e2 3*F72e2r"}}),
      detector(c, "Tucker", {{"C3", "T32i8o8s2 3*T32i4o4r"}, {"C4", "T72k5i6o6s2 T72i4o4r T72k5i6o6r T72i4o4r T72i4o4 3*T72i4o4r"}})};
  const std::vector<Scores> s = scores_of(c, kinds, c.quick ? 1 : 3);
  std::string table;
  int64_t published = 0;
  bool equal = true;
  for (size_t i = 0; i < kinds.size(); ++i) {
    const ModelCounts counts = count_model(build_model("mobiledet_cpu", {.classes = 3, .input = {3, 96, 96}, .width = 0.25, .more = kinds[i].settings.set, .draw = false}));
    if (i == 0) published = counts.macs;
    equal = equal && std::abs(static_cast<double>(counts.macs) / static_cast<double>(published) - 1) <= 0.005;
    table += fmt::format("{}{} {} % ({} parameters, {} MACs)", i > 0 ? "; " : "", kinds[i].name, s[i].text(), counts.parameters, counts.macs);
  }
  return CheckResult::of(equal, table);
}

}  // namespace

Reproduction mobiledets() {
  return {"mobiledets", "A small detector learns", "Xiong et al. 2021, arXiv 2004.14525",
          {{"shapes are found", "24.1 mAP on COCO (mobiledet_cpu)", "mAP@0.5 of 75 % in 44 epochs, which take ten minutes of one core, and in int8 at most 2 points less (--quick: 5 % in 5 epochs of 4000)", true, shapes_are_found},
           {"kinds of layers at equal products", "on CPUs found networks hold inverted bottlenecks alone (figure 4)", "products equal to half a percent; accuracies are reported as they are", false, kinds_of_layers}}};
}

}  // namespace lathe::experiments
