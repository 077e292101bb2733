// Which optimizer trains, and how (train/optimizer.h).
#pragma once

#include <string>

namespace lathe {

struct OptimizerOptions {
  std::string name = "adamw";   // sgd, adamw, lamb
  double momentum = 0.9, dampening = 0;
  bool nesterov = true;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 0;           // 0: 1e-8, and 1e-6 of lamb
  double weight_decay = 0.05;   // of parameters with two axes and more
};

}  // namespace lathe
