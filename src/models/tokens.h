// What vision transformers begin with: patches as tokens, a class token before them, learned positions.
#pragma once

#include "models/builder.h"

namespace lathe {

struct TokenSpec {
  int64_t patch = 16, pad = 0;
  int64_t width = 0;
  double dropout = 0;  // in training
  // In the place of one convolution as large as a patch, convolutions of 3×3 by steps of 2 whose channels double up to `width`, batch norm and
  // ReLU behind each, then one of 1×1 (Xiao et al. 2021, Early Convolutions Help Transformers See Better, section 3). The patch is a power of 2.
  bool convolutions = false;
};

// [N, C, H, W] → [N, patches + 1, width]: SCOPE.patches.weight and .bias (or SCOPE.stem.N.conv.weight, .norm and then those), .class_token,
// .positions (Dosovitskiy et al. 2021, section 3.1).
inline ValueId patch_tokens(Builder& b, ValueId x, const TokenSpec& spec) {
  int64_t patch = spec.patch;
  for (int64_t i = 0; spec.convolutions && patch > 1; patch /= 2, ++i) {
    auto scope = b.scope(fmt::format("stem.{}", i));
    x = b.relu(b.batch_norm(b.conv(x, {.out = spec.width / (patch / 2), .kernel = 3, .stride = 2, .pad = 1})));
  }
  {
    auto scope = b.scope("patches");
    x = b.conv(x, {.out = spec.width, .kernel = patch, .stride = patch, .pad = spec.pad, .bias = true});
  }
  const int64_t patches = b.shape(x)[2] * b.shape(x)[3];
  x = b.reshape(b.transpose(x, {0, 2, 3, 1}), {0, patches, spec.width});
  // Room for the class token is made before the patches, and it is added like the positions.
  const auto pads = [&](const std::vector<int64_t>& p) { return b.graph().add_constant(Tensor::of_i64(p)); };
  const ValueId token = b.parameter("class_token", {1, 1, spec.width}, Init::truncated(0.02)), positions = b.parameter("positions", {1, patches + 1, spec.width}, Init::truncated(0.02));
  x = b.op("Pad", {x, pads({0, 1, 0, 0, 0, 0})});
  x = b.add(x, b.add(b.op("Pad", {token, pads({0, 0, 0, 0, patches, 0})}), positions));
  return b.dropout(x, spec.dropout);
}

}  // namespace lathe
