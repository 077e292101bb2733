// Rokh et al. 2023, the part on training: what rounding after training loses at four bits comes back in training, and binary networks learn.
// In small: a ResNet of one block a stage, Fashion-MNIST.
#include <fmt/format.h>

#include "train/experiment.h"

namespace lathe::experiments {
namespace {

TrainSettings small(const ReproduceContext& c, double epochs, double rate) {
  TrainSettings s{.epochs = epochs, .batch = 64, .rate = rate};
  s.width = 0.125;
  s.depths = {1, 1, 1, 1};
  s.set = {{"stem", "small"}};
  s.threads = 1;
  s.device = c.device;
  s.seed = c.seed;
  return s;
}
std::string data_of(const ReproduceContext& c) { return c.quick ? "fashion-mnist,limit=6000,limit-validation=500" : "fashion-mnist"; }

// `start`, trained further with rounding, or rounded alone (no epochs).
TrainResult rounded(const ReproduceContext& c, const std::string& name, const Graph& start, const DataParts& data, TrainSettings s, const std::string& scheme) {
  s.quantize = scheme;
  TrainRequest r = training_request("resnet18", data, s);
  r.network = start;
  return train(std::move(r), told(c, name));
}

CheckResult four_bits_come_back(const ReproduceContext& c) {
  if (const std::string why = missing_data(data_of(c)); !why.empty()) return CheckResult::skipped(why);
  const DataParts data = open_dataset(data_of(c));
  const TrainResult whole = train(training_request("resnet18", data, small(c, c.quick ? 4 : 8, 3e-3)), told(c, "float"));
  const std::string scheme = c.quick ? "w:int3 a:uint3" : "w:int4 a:uint4";
  const double after = rounded(c, "rounded after training", whole.network, data, small(c, 0, 1e-3), scheme).test_score;
  const double in = rounded(c, "rounded in training", whole.network, data, small(c, 2, 1e-3), scheme).test_score;
  const double lost = 100 * (whole.test_score - after), left = 100 * (whole.test_score - in);
  return CheckResult::of(lost > 0 && left <= lost / 2, fmt::format("{}: float {:.2f} %, rounded after training {:.2f} %, in training {:.2f} %: {:.0f} % of the loss is back", scheme, 100 * whole.test_score,
                                                                  100 * after, 100 * in, 100 * (lost - left) / std::max(lost, 1e-9)));
}

CheckResult binary_networks_learn(const ReproduceContext& c) {
  if (const std::string why = missing_data("fashion-mnist"); !why.empty()) return CheckResult::skipped(why);
  TrainSettings s = small(c, 6, 3e-3);
  s.width = 0.25;
  s.quantize = "w:binary a:sign";
  const Scores found = scores_of(c, {{"binary", "resnet18", "fashion-mnist", s}}, 1)[0];
  return CheckResult::of(found.mean() >= 88, fmt::format("{} % with signs for weights and activations", found.text()));
}

}  // namespace

Reproduction quantized_training() {
  return {"quantization-survey", "Quantization", "Rokh et al. 2023, arXiv 2205.07877",
          {{"training brings back what four bits lose", "LSQ: 4 bits reach the accuracy of float (Esser et al. 2020, table 1)", "at least half of the loss after training (--quick: of three bits)", true, four_bits_come_back},
           {"binary networks learn", "XNOR-Net 51.2 % where float has 56.6 % (Rastegari et al. 2016, table 1)", "88 % on Fashion-MNIST in 6 epochs", false, binary_networks_learn}}};
}

}  // namespace lathe::experiments
