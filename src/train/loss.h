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

}  // namespace lathe
