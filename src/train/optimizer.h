// Optimizers as their papers write them, with state that is saved and restored to the bit.
//
//   sgd     v ← μ·v + (1 − dampening)·g;  p ← p − lr·v, or lr·(g + μ·v) with Nesterov's; weight decay is added to g (Sutskever et al. 2013)
//   adamw   Loshchilov & Hutter 2019, algorithm 2: weight decay stands apart from the gradient
//   lamb    You et al. 2020: Adam's step, decay added, times ‖p‖ / ‖step‖; not for parameters without decay
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "train/optimizer_options.h"
#include "train/torch_network.h"

namespace lathe {

class Optimizer {
 public:
  // Of the trained ones of `parameters`. Throws kUsage for an unknown name.
  static std::unique_ptr<Optimizer> make(const OptimizerOptions& options, std::vector<TorchNetwork::Parameter> parameters);
  virtual ~Optimizer() = default;

  // One step with the gradients that stand in the parameters; those without one stay. Gradients are cleared.
  void step(double learning_rate);
  int64_t steps() const { return steps_; }

  // By "PARAMETER/momentum" and the like, and how many steps were made.
  std::map<std::string, at::Tensor> state() const;
  // Throws kInput naming what is missing or of another shape.
  void restore(const std::map<std::string, at::Tensor>& state, int64_t steps);

 protected:
  Optimizer(const OptimizerOptions& options, std::vector<TorchNetwork::Parameter> parameters, std::vector<std::string> slots);

  // Parameters that have gradients, a part of all.
  struct Group {
    std::vector<const TorchNetwork::Parameter*> parameters;
    Tensors tensors, gradients;
    std::vector<Tensors> slots;  // by slot, then by parameter
  };
  virtual void update(const Group& group, double learning_rate) = 0;

  OptimizerOptions options_;
  int64_t steps_ = 0;  // with the one under way

 private:
  std::vector<TorchNetwork::Parameter> parameters_;
  std::vector<std::string> names_;              // of slots
  std::vector<std::vector<at::Tensor>> slots_;  // by parameter
};

// The norm of all gradients; they are scaled down where it is over `most` (0: never).
double clip_gradients(const Tensors& parameters, double most);

}  // namespace lathe
