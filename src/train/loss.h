// What training makes small.
#pragma once

#include "train/torch.h"

namespace lathe {

// Mean over samples of −Σ t·log softmax(logits); logits [N, K], labels i64 [N]. Smoothing ε: t is (1 − ε) at the label and ε/K
// everywhere more (Szegedy et al. 2016).
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing);
// Soft labels f32 [N, K].
at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& soft, double smoothing);
// Hinton et al. 2015: T²·KL(softmax(teacher/T) ‖ softmax(student/T)), mean over samples.
at::Tensor distillation(const at::Tensor& student, const at::Tensor& teacher, double temperature);

// Sum over all elements of −α_t·(1 − p_t)^γ·ln p_t with p = sigmoid(logits), p_t = p where truth is 1 and 1 − p where it is 0, α_t alike
// (Lin et al. 2017, equation 5). Both of one shape.
at::Tensor focal_loss(const at::Tensor& logits, const at::Tensor& truth, double alpha, double gamma);

}  // namespace lathe
