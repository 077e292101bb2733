// What vision transformers begin with: patches as tokens, a class token before them, learned positions.
#pragma once

#include "models/builder.h"

namespace lathe {

struct TokenSpec {
  int64_t patch = 16, pad = 0;
  int64_t width = 0;
  double dropout = 0;  // in training
};

// [N, C, H, W] → [N, patches + 1, width]: SCOPE.patches.weight and .bias, .class_token, .positions (Dosovitskiy et al. 2021, section 3.1).
inline ValueId patch_tokens(Builder& b, ValueId x, const TokenSpec& spec) {
  {
    auto scope = b.scope("patches");
    x = b.conv(x, {.out = spec.width, .kernel = spec.patch, .stride = spec.patch, .pad = spec.pad, .bias = true});
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
