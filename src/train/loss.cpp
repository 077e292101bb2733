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

at::Tensor focal_loss(const at::Tensor& logits, const at::Tensor& truth, double alpha, double gamma) {
  // −ln p_t is the softplus of the logit with the sign of what is wrong, and 1 − p_t its sigmoid: both stay exact far out.
  const at::Tensor wrong = logits * (1 - 2 * truth);
  const at::Tensor weight = truth * alpha + (1 - truth) * (1 - alpha);
  return (weight * at::pow(at::sigmoid(wrong), gamma) * at::softplus(wrong)).sum();
}

}  // namespace lathe
