#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

constexpr int64_t kMaxLength = int64_t{1} << 31;

// The value of a scalar input, when it is a constant.
std::optional<int64_t> scalar(InferContext& c, size_t i) {
  const Tensor* t = c.constant(i);
  if (!t) return std::nullopt;
  check_model(t->size() == 1 && is_integer(t->dtype()), "input {} must be one integer", i);
  return t->get_int(0);
}

int64_t checked_length(int64_t length, const char* name) {
  check_model(length > 0 && length < kMaxLength, "{} is {}, expected a positive number", name, length);
  return length;
}

void infer_dft(InferContext& c) {
  bool onesided = c.node().get_int("onesided") != 0, inverse = c.node().get_int("inverse") != 0;
  std::optional<Shape> out = c.shape(0);
  if (out) {
    auto rank = static_cast<int64_t>(out->size());
    check_model(rank >= 2, "input has shape {}, expected [..., signal, 1 or 2]", to_string(*out));
    int64_t parts = out->back();
    check_model(parts == kUnknownDim || parts == 1 || parts == 2, "input has shape {}, expected [..., 1 or 2]",
                to_string(*out));
    check_model(!onesided || parts == kUnknownDim || parts == (inverse ? 2 : 1), "a one-sided {} takes {} input",
                inverse ? "inverse transform" : "transform", inverse ? "complex" : "real");
    out->back() = onesided && inverse ? 1 : 2;
    if (c.has_input(2) && !c.constant(2)) {
      std::fill(out->begin(), out->end() - 1, kUnknownDim);
    } else {
      int64_t axis = normalize_axis(scalar(c, 2).value_or(-2), rank);
      check_model(axis != rank - 1, "the last axis holds the parts of complex numbers and cannot be transformed");
      int64_t length = (*out)[axis];
      if (c.has_input(1)) {
        auto given = scalar(c, 1);
        length = given ? checked_length(*given, "dft_length") : kUnknownDim;
      } else if (length != kUnknownDim) {
        if (onesided && inverse) length = 2 * (length - 1);
        checked_length(length, "the signal's length");
      }
      (*out)[axis] = length == kUnknownDim ? kUnknownDim : onesided && !inverse ? length / 2 + 1 : length;
    }
  }
  c.set_output(0, c.dtype(0), out);
}

void infer_stft(InferContext& c) {
  c.expect_rank(0, 3, 3);
  if (c.has_input(2)) c.expect_rank(2, 1, 1);
  bool onesided = c.node().get_int("onesided") != 0;
  check_model(c.has_input(2) || c.has_input(3), "a window or a frame_length must be given");
  Shape out(4, kUnknownDim);
  out[3] = 2;
  std::optional<int64_t> step = scalar(c, 1), frame;
  if (c.has_input(3)) {
    frame = scalar(c, 3);
  } else if (c.shape(2) && (*c.shape(2))[0] != kUnknownDim) {
    frame = (*c.shape(2))[0];
  }
  if (step) checked_length(*step, "frame_step");
  if (frame) {
    checked_length(*frame, "frame_length");
    out[2] = onesided ? *frame / 2 + 1 : *frame;
    if (c.has_input(2) && c.shape(2) && (*c.shape(2))[0] != kUnknownDim)
      check_model((*c.shape(2))[0] == *frame, "the window has {} elements for frames of {}", (*c.shape(2))[0], *frame);
  }
  if (c.shape(0)) {
    const Shape& signal = *c.shape(0);
    out[0] = signal[0];
    check_model(signal[2] == kUnknownDim || signal[2] == 1 || (signal[2] == 2 && !onesided),
                "signal has shape {}, expected [N, length, {}]", to_string(signal), onesided ? "1" : "1 or 2");
    if (frame && step && signal[1] != kUnknownDim) {
      check_model(signal[1] >= *frame, "a signal of {} samples is shorter than one frame of {}", signal[1], *frame);
      out[1] = (signal[1] - *frame) / *step + 1;
    }
  }
  c.set_output(0, c.dtype(0), out);
}

void infer_mel(InferContext& c) {
  auto type = static_cast<DType>(c.node().get_int("output_datatype"));
  check_model(size_of(type) > 0, "output_datatype {} is not supported", c.node().get_int("output_datatype"));
  Shape out(2, kUnknownDim);
  if (auto length = scalar(c, 1)) out[0] = checked_length(*length, "dft_length") / 2 + 1;
  if (auto bins = scalar(c, 0)) out[1] = checked_length(*bins, "num_mel_bins");
  c.set_output(0, type, out);
}

}  // namespace

void declare_signal(OpRegistry& r) {
  r.add({.name = "DFT", .maximum_inputs = 3, .attributes = {{"inverse", int64_t{0}}, {"onesided", int64_t{0}}},
         .infer = infer_dft});
  r.add({.name = "STFT", .minimum_inputs = 2, .maximum_inputs = 4, .attributes = {{"onesided", int64_t{1}}},
         .infer = infer_stft});
  r.add({.name = "MelWeightMatrix", .minimum_inputs = 5, .maximum_inputs = 5,
         .attributes = {{"output_datatype", int64_t{1}}}, .infer = infer_mel});
}

}  // namespace lathe::ops
