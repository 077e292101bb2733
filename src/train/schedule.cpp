#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace lathe {

double learning_rate(const ScheduleOptions& o, double epoch) {
  if (epoch < o.warm_up) return o.first + (o.rate - o.first) * epoch / o.warm_up;
  if (o.name == "constant") return o.rate;
  if (o.name == "cosine") {
    // Loshchilov & Hutter 2017, equation 5, without restarts; the warm-up takes nothing off the way.
    const double part = std::clamp(epoch / std::max(o.epochs, 1e-12), 0.0, 1.0);
    return o.last + (o.rate - o.last) * (1 + std::cos(std::numbers::pi * part)) / 2;
  }
  if (o.name == "step") {
    std::vector<double> steps = o.steps;
    if (steps.empty()) steps = {o.epochs / 2, o.epochs * 3 / 4};
    double rate = o.rate;
    for (double s : steps)
      if (epoch >= s) rate *= o.factor;
    return rate;
  }
  fail(ErrorKind::kUsage, "a schedule {}; there are cosine, step, constant", o.name);
}

}  // namespace lathe
