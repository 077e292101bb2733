// Small trainings whose results are compared: what reproductions of training methods are made of.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optimize/reproduce.h"
#include "train/train_model.h"

namespace lathe {

// Test accuracies in percent, one for each seed.
struct Scores {
  std::vector<double> values;
  double disagreement = 0;   // of libtorch with the engine on the same samples, in points: the largest
  double seconds = 0;        // of all trainings together
  double mean() const;
  double deviation() const;  // of one run, by n − 1
  double error() const;      // of the mean
  std::string text() const;  // "88.42 ± 0.21 (3 seeds)"
};

struct Experiment {
  std::string name;        // "pooling"
  std::string network;     // of `lathe models`
  std::string data;        // docs/DATA.md
  TrainSettings settings;
  std::shared_ptr<const Experiment> teacher = nullptr;  // learns the same data first, with the same seed
};
// Trains `network` on Fashion-MNIST as most of these do, by AdamW with flips and shifts: on all of it, or in the quick form on
// `quick_limit` of its pictures in smaller batches.
Experiment on_fashion(const ReproduceContext& context, std::string name, std::string network, double epochs, double quick_epochs, int quick_limit);
// The longer way of docs/reproductions/standard-families.md: batches of 128 at a rate of 0.002, a quarter of the pictures with a part erased, smoothed
// labels, averaged weights.
void learn_longer(TrainSettings& settings, double epochs);
// Trains with seeds context.seed, context.seed + 1, ... (`seeds` of them, or as many as the context says) and tests each.
std::vector<Scores> scores_of(const ReproduceContext& context, const std::vector<Experiment>& experiments, int seeds);

// What train() is to call where a training is a part of a check: tells where it stands, throws Stopped.
std::function<void(const TrainProgress&)> told(const ReproduceContext& context, std::string name);

// The results of the same trainings: experiments.size() · seeds of them, the seeds of an experiment together.
std::vector<TrainResult> trained(const ReproduceContext& context, const std::vector<Experiment>& experiments, int seeds);
Scores scores(std::span<const TrainResult> results);
// What `network`, a trained one of the experiment, scores on its test part in codes of `scheme` (docs/QUANTIZE.md), in percent: ranges are
// those of 64 samples of the training part.
double quantized_score(const Experiment& experiment, const Graph& network, std::string_view scheme);

// Whether trained networks reach `percent` on the test part, in the engine and within 0.1 points in libtorch.
CheckResult reaches(const ReproduceContext& context, const Experiment& experiment, double percent, int seeds = 1);

// a − b, and its standard error.
struct Gap {
  double points = 0, error = 0;
  std::string text() const;  // "+0.62 ± 0.15"
};
Gap gap(const Scores& a, const Scores& b);

// Calls one(0), one(1), ..., as many at once as the context says. Throws what they throw.
void in_jobs(const ReproduceContext& context, size_t count, const std::function<void(size_t)>& one);

// A check that needs data which is not there is skipped with this reason; "" where it is there.
std::string missing_data(const std::string& data);

}  // namespace lathe
