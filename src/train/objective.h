// What a network learns from its samples: classes, or boxes. An objective checks network and data, makes the loss, and judges answers,
// those of libtorch and those of the engine alike.
//
//   std::unique_ptr<Objective> o = Objective::make(data.train->truth());
//   o->check(name, graph, *data.train, loader_options);
//   Learnt learnt = o->loss(batch, outputs);
//   learnt.loss.backward();
#pragma once

#include <memory>
#include <string>

#include "data/loader.h"
#include "graph/graph.h"
#include "train/lower.h"

namespace lathe {

struct Learnt {
  at::Tensor loss;  // of rank 0
  int64_t right = 0, judged = 0;  // samples of the batch; 0 of 0 where one batch says nothing of the measure
};

struct LossOptions {
  double label_smoothing = 0;
  at::Tensor taught;       // a teacher's first output; undefined without
  double distill = 0.5;    // its part of the loss
  double temperature = 4;
};

// Answers to batches, and how good they are, 0 … 1.
class Judgement {
 public:
  virtual ~Judgement() = default;
  // `outputs`: of the deployed network, f32.
  virtual void add(const Batch& batch, const std::vector<Tensor>& outputs) = 0;
  virtual double value() const = 0;
};

class Objective {
 public:
  virtual ~Objective() = default;
  // Throws kUnsupported where nothing learns such truths.
  static std::unique_ptr<Objective> make(TrainingTruth truth, const std::string& description = "the data");

  virtual std::string measure() const = 0;  // "accuracy", "mAP@0.5"
  // Whether the network's outputs fit the set, what of `loss` cannot be had, and how samples must be prepared. `network` is named `name`. Throws
  // kInput, kUsage and kUnsupported.
  virtual void check(const std::string& name, const Graph& network, const TrainingSet& set, const LossOptions& loss, LoaderOptions& loader) = 0;
  // `outputs`: of the network in training.
  virtual Learnt loss(const Batch& batch, const Tensors& outputs, const LossOptions& options) const = 0;
  // From outputs of the network in training to those of the deployed one, for Judgement.
  virtual std::vector<Tensor> answers(const Tensors& outputs) const = 0;
  // The trained network gets the outputs that a user of it wants.
  virtual void deploy(Graph& network) const = 0;
  virtual std::unique_ptr<Judgement> judgement() const = 0;
};

}  // namespace lathe
