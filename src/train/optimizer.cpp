#include "train/optimizer.h"

#include <cmath>

#include "core/error.h"

namespace lathe {

namespace {

// Parameters whose steps are made together: on an accelerator a start of a kernel costs more than a small parameter, and what
// AdamW needs beside it should not be as large as a large network.
constexpr int64_t kGroupElements = 1 << 22;

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& o, std::vector<TorchNetwork::Parameter> p) : Optimizer(o, std::move(p), {"momentum"}) {}

 private:
  void update(const Group& group, double rate) override {
    Tensors g = group.gradients;
    for (size_t i = 0; i < g.size(); ++i)
      if (group.parameters[i]->decays() && options_.weight_decay != 0) g[i] = g[i].add(group.tensors[i], options_.weight_decay);
    if (options_.momentum != 0) {
      const Tensors& momentum = group.slots[0];
      // The first step's momentum is the gradient whole.
      if (steps_ == 1) {
        for (size_t i = 0; i < g.size(); ++i) momentum[i].copy_(g[i]);
      } else {
        at::_foreach_mul_(momentum, options_.momentum);
        at::_foreach_add_(momentum, g, 1 - options_.dampening);
      }
      g = options_.nesterov ? at::_foreach_add(g, momentum, options_.momentum) : momentum;
    }
    at::_foreach_add_(group.tensors, g, -rate);
  }
};

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerOptions& o, std::vector<TorchNetwork::Parameter> p) : Optimizer(o, std::move(p), {"mean", "square"}) {}

 protected:
  // The steps before they are scaled, from the moments moved by the gradients.
  Tensors directions(const Group& group, double epsilon) {
    at::_foreach_mul_(group.slots[0], options_.beta1);
    at::_foreach_add_(group.slots[0], group.gradients, 1 - options_.beta1);
    at::_foreach_mul_(group.slots[1], options_.beta2);
    at::_foreach_addcmul_(group.slots[1], group.gradients, group.gradients, 1 - options_.beta2);
    const double t = static_cast<double>(steps_), first = 1 - std::pow(options_.beta1, t), second = 1 - std::pow(options_.beta2, t);
    Tensors steps = at::_foreach_div(group.slots[0], first), roots = at::_foreach_div(group.slots[1], second);
    at::_foreach_sqrt_(roots);
    at::_foreach_add_(roots, epsilon);
    at::_foreach_div_(steps, roots);
    return steps;
  }
  void update(const Group& group, double rate) override {
    Tensors decaying;
    for (size_t i = 0; i < group.tensors.size(); ++i)
      if (group.parameters[i]->decays()) decaying.push_back(group.tensors[i]);
    if (!decaying.empty()) at::_foreach_mul_(decaying, 1 - rate * options_.weight_decay);
    Tensors steps = directions(group, options_.epsilon > 0 ? options_.epsilon : 1e-8);
    for (size_t i = 0; i < steps.size(); ++i)
      if (group.parameters[i]->step != 1) steps[i].mul_(group.parameters[i]->step);
    at::_foreach_add_(group.tensors, steps, -rate);
  }
};

class Lamb : public AdamW {
 public:
  using AdamW::AdamW;

 private:
  void update(const Group& group, double rate) override {
    Tensors steps = directions(group, options_.epsilon > 0 ? options_.epsilon : 1e-6);
    for (size_t i = 0; i < steps.size(); ++i) {
      const TorchNetwork::Parameter& p = *group.parameters[i];
      double ratio = 1;
      if (p.decays() && options_.weight_decay != 0) {
        steps[i].add_(p.tensor, options_.weight_decay);
        const double weight = p.tensor.norm().item<double>(), length = steps[i].norm().item<double>();
        if (weight > 0 && length > 0) ratio = weight / length;
      }
      group.tensors[i].sub_(steps[i], rate * ratio * p.step);
    }
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
  Group group;
  int64_t elements = 0;
  const auto finish = [&] {
    if (group.tensors.empty()) return;
    update(group, learning_rate);
    group = {};
    elements = 0;
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& p = parameters_[i].tensor;
    if (!p.grad().defined()) continue;
    group.parameters.push_back(&parameters_[i]);
    group.tensors.push_back(p);
    group.gradients.push_back(p.grad());
    group.slots.resize(names_.size());
    for (size_t s = 0; s < names_.size(); ++s) group.slots[s].push_back(slots_[i][s]);
    p.mutable_grad() = at::Tensor();
    if ((elements += p.numel()) >= kGroupElements) finish();
  }
  finish();
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
  Tensors gradients;
  for (const at::Tensor& p : parameters)
    if (p.grad().defined()) gradients.push_back(p.grad());
  if (gradients.empty()) return 0;
  const double norm = at::stack(at::_foreach_norm(gradients, 2)).to(at::kCPU, at::kDouble).norm().item<double>();
  if (most > 0 && norm > most) at::_foreach_mul_(gradients, most / norm);
  return norm;
}

}  // namespace lathe
