// What the models of ai.onnx.ml do to the scores of a row at the end (attribute post_transform).
#pragma once

#include <span>
#include <string>

namespace lathe::reference {

enum class PostTransform { kNone, kSoftmax, kLogistic, kSoftmaxZero, kProbit };  // numbered as in TreeEnsemble

// By name ("NONE", "SOFTMAX", …). Throws kModel for others.
PostTransform post_transform_of(const std::string& name);
void apply_post_transform(PostTransform transform, std::span<double> scores);

}  // namespace lathe::reference
