// Rounding of weights to bf16, a row at a time (transform/round_weights.h says what for).
#pragma once

#include <cstdint>

namespace lathe {

// Rounds `count` weights, all to nearest but those that are better rounded to the other side: with errors e and the means m
// of what the weights are multiplied by, that makes (Σ e·m)² + kCommon·M·(Σ e)² + kOwn·M·Σ e² small, M being the mean
// of m². The first term is the expected input's; the second that of inputs which are all too large or too small by the
// same; the last that of the inputs' own, independent part. A row that holds NaN or infinity is rounded to nearest.
// The answers of networks hardly depend on the two constants (a third to three times these values was tried).
constexpr float kCommonError = 0.3f, kOwnError = 0.1f;
void round_row(const float* weights, const float* means, int64_t count, uint16_t* rounded);

}  // namespace lathe
