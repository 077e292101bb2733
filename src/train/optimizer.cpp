#include "train/optimizer.h"

#include <cmath>

#include "core/error.h"

namespace lathe {

namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& o, std::vector<TorchNetwork::Parameter> p) : Optimizer(o, std::move(p), {"momentum"}) {}

 private:
  void update(TorchNetwork::Parameter& p, std::vector<at::Tensor>& slots, double rate) override {
    at::Tensor g = p.tensor.grad();
    if (p.decays() && options_.weight_decay != 0) g = g.add(p.tensor, options_.weight_decay);
    if (options_.momentum != 0) {
      // The first step's momentum is the gradient whole.
      if (steps_ == 1) slots[0].copy_(g);
      else slots[0].mul_(options_.momentum).add_(g, 1 - options_.dampening);
      g = options_.nesterov ? g.add(slots[0], options_.momentum) : slots[0];
    }
    p.tensor.sub_(g, rate);
  }
};

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerOptions& o, std::vector<TorchNetwork::Parameter> p) : Optimizer(o, std::move(p), {"mean", "square"}) {}

 protected:
  // The step before it is scaled, from the moments moved by the gradient.
  at::Tensor direction(TorchNetwork::Parameter& p, std::vector<at::Tensor>& slots, double epsilon) {
    const at::Tensor g = p.tensor.grad();
    slots[0].mul_(options_.beta1).add_(g, 1 - options_.beta1);
    slots[1].mul_(options_.beta2).addcmul_(g, g, 1 - options_.beta2);
    const double t = static_cast<double>(steps_), first = 1 - std::pow(options_.beta1, t), second = 1 - std::pow(options_.beta2, t);
    return (slots[0] / first).div_((slots[1] / second).sqrt_().add_(epsilon));
  }
  void update(TorchNetwork::Parameter& p, std::vector<at::Tensor>& slots, double rate) override {
    if (p.decays()) p.tensor.mul_(1 - rate * options_.weight_decay);
    p.tensor.sub_(direction(p, slots, options_.epsilon > 0 ? options_.epsilon : 1e-8), rate * p.step);
  }
};

class Lamb : public AdamW {
 public:
  using AdamW::AdamW;

 private:
  void update(TorchNetwork::Parameter& p, std::vector<at::Tensor>& slots, double rate) override {
    at::Tensor step = direction(p, slots, options_.epsilon > 0 ? options_.epsilon : 1e-6);
    double ratio = 1;
    if (p.decays() && options_.weight_decay != 0) {
      step.add_(p.tensor, options_.weight_decay);
      const double weight = p.tensor.norm().item<double>(), length = step.norm().item<double>();
      if (weight > 0 && length > 0) ratio = weight / length;
    }
    p.tensor.sub_(step, rate * ratio * p.step);
  }
};

}  // namespace

std::unique_ptr<Optimizer> Optimizer::make(const OptimizerOptions& options, std::vector<TorchNetwork::Parameter> parameters) {
  if (options.name == "sgd") return std::make_unique<Sgd>(options, std::move(parameters));
  if (options.name == "adamw") return std::make_unique<AdamW>(options, std::move(parameters));
  if (options.name == "lamb") return std::make_unique<Lamb>(options, std::move(parameters));
  fail(ErrorKind::kUsage, "an optimizer {}; there are sgd, adamw, lamb", options.name);
}

Optimizer::Optimizer(const OptimizerOptions& options, std::vector<TorchNetwork::Parameter> parameters, std::vector<std::string> slots) : options_(options), names_(std::move(slots)) {
  for (TorchNetwork::Parameter& p : parameters)
    if (p.trained) parameters_.push_back(std::move(p));
  for (const TorchNetwork::Parameter& p : parameters_) {
    slots_.emplace_back();
    for (size_t i = 0; i < names_.size(); ++i) slots_.back().push_back(at::zeros_like(p.tensor).set_requires_grad(false));
  }
}

void Optimizer::step(double learning_rate) {
  const torch::NoGradGuard guard;
  ++steps_;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i].tensor.grad().defined()) continue;
    update(parameters_[i], slots_[i], learning_rate);
    parameters_[i].tensor.mutable_grad() = at::Tensor();
  }
}

std::map<std::string, at::Tensor> Optimizer::state() const {
  std::map<std::string, at::Tensor> all;
  for (size_t i = 0; i < parameters_.size(); ++i)
    for (size_t s = 0; s < names_.size(); ++s) all[parameters_[i].name + "/" + names_[s]] = slots_[i][s];
  return all;
}

void Optimizer::restore(const std::map<std::string, at::Tensor>& state, int64_t steps) {
  for (size_t i = 0; i < parameters_.size(); ++i)
    for (size_t s = 0; s < names_.size(); ++s) {
      const std::string name = parameters_[i].name + "/" + names_[s];
      const auto found = state.find(name);
      if (found == state.end()) fail(ErrorKind::kInput, "the checkpoint has no {}: it is of another network or optimizer", name);
      if (found->second.sizes() != slots_[i][s].sizes()) fail(ErrorKind::kInput, "{} of the checkpoint has another shape", name);
      slots_[i][s].copy_(found->second);
    }
  steps_ = steps;
}

double clip_gradients(const Tensors& parameters, double most) {
  const torch::NoGradGuard guard;
  double sum = 0;
  for (const at::Tensor& p : parameters)
    if (p.grad().defined()) {
      const double norm = p.grad().norm().item<double>();
      sum += norm * norm;
    }
  const double norm = std::sqrt(sum);
  if (most > 0 && norm > most)
    for (const at::Tensor& p : parameters)
      if (p.grad().defined()) p.grad().mul_(most / norm);
  return norm;
}

}  // namespace lathe
