#include "train/loss.h"

namespace lathe {

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing) {
  const at::Tensor log = at::log_softmax(logits.to(at::promoteTypes(logits.scalar_type(), at::kFloat)), 1);
  const at::Tensor at_label = -log.gather(1, labels.unsqueeze(1)).mean();
  return smoothing == 0 ? at_label : at_label * (1 - smoothing) - log.mean() * smoothing;
}

at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& soft, double smoothing) {
  const at::Tensor log = at::log_softmax(logits.to(at::promoteTypes(logits.scalar_type(), at::kFloat)), 1);
  const at::Tensor loss = -(soft * log).sum(1).mean();
  return smoothing == 0 ? loss : loss * (1 - smoothing) - log.mean() * smoothing;
}

at::Tensor distillation(const at::Tensor& student, const at::Tensor& teacher, double t) {
  const at::Tensor target = at::softmax(teacher / t, 1);
  return (target * (at::log_softmax(teacher / t, 1) - at::log_softmax(student / t, 1))).sum(1).mean() * (t * t);
}

}  // namespace lathe
