// Small trainings whose results are compared: what reproductions of training methods are made of.
#pragma once

#include <string>
#include <vector>

#include "optimize/reproduce.h"
#include "train/train_model.h"

namespace lathe {

// Test accuracies in percent, one for each seed.
struct Scores {
  std::vector<double> values;
  double mean() const;
  double deviation() const;  // of one run, by n − 1
  double error() const;      // of the mean
  std::string text() const;  // "88.42 ± 0.21 (3 seeds)"
};

struct Experiment {
  std::string network;     // of `lathe models`
  std::string data;        // docs/DATA.md
  TrainSettings settings;
};
// Trains with seeds context.seed, context.seed + 1, ... and tests each.
Scores scores_of(const ReproduceContext& context, const std::string& name, const Experiment& experiment, int seeds);

// a − b, and its standard error.
struct Gap {
  double points = 0, error = 0;
  std::string text() const;  // "+0.62 ± 0.15"
};
Gap gap(const Scores& a, const Scores& b);

// A check that needs data which is not there is skipped with this reason; "" where it is there.
std::string missing_data(const std::string& data);

}  // namespace lathe
