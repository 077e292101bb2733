// The learning rate over a training.
#pragma once

#include <string>
#include <vector>

namespace lathe {

struct ScheduleOptions {
  std::string name = "cosine";  // cosine, step, constant
  double rate = 1e-3;           // at its highest
  double warm_up = 0;           // epochs, linearly from `first`
  double first = 1e-6;          // where the warm-up begins
  double last = 1e-5;           // what cosine ends at
  double epochs = 10;           // of the whole, warm-up included
  std::vector<double> steps = {};  // epochs at which `step` multiplies by `factor`; empty: after 1/2 and 3/4 of the epochs
  double factor = 0.1;
};

// At `epoch`, which may be a fraction. Throws kUsage for an unknown name.
double learning_rate(const ScheduleOptions& options, double epoch);

}  // namespace lathe
