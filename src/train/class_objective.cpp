// One class a sample: cross entropy of the first output, and of auxiliary ones beside it.
#include <algorithm>

#include "train/loss.h"
#include "train/objective.h"
#include "train/objectives.h"
#include "train/training_nodes.h"

namespace lathe {
namespace {

constexpr double kAuxiliaryWeight = 0.4;  // of outputs beside the first (Zoph et al. 2018)

at::Tensor rows(const at::Tensor& logits) { return (logits.dim() == 2 ? logits : logits.flatten(1)).to(at::kFloat); }

class ShareRight : public Judgement {
 public:
  void add(const Batch& batch, const std::vector<Tensor>& outputs) override {
    const int64_t samples = batch.labels.size(), classes = outputs[0].size() / samples;
    for (int64_t n = 0; n < samples; ++n, ++count_) {
      const float* row = outputs[0].data<float>() + n * classes;
      right_ += std::max_element(row, row + classes) - row == batch.labels.data<int64_t>()[n];
    }
  }
  double value() const override { return static_cast<double>(right_) / static_cast<double>(std::max<int64_t>(count_, 1)); }

 private:
  int64_t right_ = 0, count_ = 0;
};

class ClassObjective : public Objective {
 public:
  std::string measure() const override { return "accuracy"; }

  void check(const std::string&, const Graph& g, const TrainingSet& set, const LossOptions&, LoaderOptions&) override {
    const std::optional<Shape>& out = g[g.outputs[0]].shape;
    if (!out || out->size() < 2 || (*out)[1] == kUnknownDim) fail(ErrorKind::kInput, "the first output is no list of classes: {}", out ? to_string(*out) : "of any rank");
    check_class_count(set, (*out)[1]);
  }

  Learnt loss(const Batch& batch, const Tensors& outputs, const LossOptions& o) const override {
    const at::Device device = outputs[0].device();
    const at::Tensor labels = to_torch(batch.labels).to(device), soft = batch.soft_labels.defined() ? to_torch(batch.soft_labels).to(device) : at::Tensor();
    at::Tensor loss, first;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const at::Tensor logits = rows(outputs[i]);
      const at::Tensor one = soft.defined() ? soft_cross_entropy(logits, soft, o.label_smoothing) : cross_entropy(logits, labels, o.label_smoothing);
      loss = i == 0 ? one : loss + one * kAuxiliaryWeight;
      if (i == 0) first = logits;
    }
    if (o.taught.defined()) {
      const at::Tensor target = rows(o.taught);
      if (target.sizes() != first.sizes()) fail(ErrorKind::kInput, "the teacher's classes are {}, the network's {}", target.size(1), first.size(1));
      loss = loss * (1 - o.distill) + distillation(first, target, o.temperature) * o.distill;
    }
    return {loss, (first.detach().argmax(1) == labels).sum().item<int64_t>(), labels.size(0)};
  }

  std::vector<Tensor> answers(const Tensors& outputs) const override { return {from_torch(rows(outputs[0]))}; }
  void deploy(Graph& g) const override { strip_training(g); }
  std::unique_ptr<Judgement> judgement() const override { return std::make_unique<ShareRight>(); }
};

}  // namespace

std::unique_ptr<Objective> class_objective() { return std::make_unique<ClassObjective>(); }

}  // namespace lathe
