#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

// The scale is a scalar (per tensor), a vector (per slice along `axis`), or, with a block size, a tensor of
// the input's shape whose axis is that many times shorter.
void check_scale(const InferContext& c) {
  int64_t block = c.node().get_int("block_size");
  check_model(block >= 0, "block_size {} is negative", block);
  if (!c.shape(1)) return;
  const Shape& scale = *c.shape(1);
  if (c.has_input(2) && c.shape(2)) {
    const Shape& zero = *c.shape(2);
    bool agree = zero.size() == scale.size();
    for (size_t i = 0; agree && i < zero.size(); ++i) agree = zero[i] < 0 || scale[i] < 0 || zero[i] == scale[i];
    agree |= is_static(zero) && is_static(scale) && element_count(zero) == 1 && element_count(scale) == 1;
    check_model(agree, "scale {} and zero point {} differ in shape", to_string(scale), to_string(zero));
  }
  if (!c.shape(0)) return;
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size());
  auto fits = [](int64_t a, int64_t b) { return a < 0 || b < 0 || a == b; };
  if (block > 0) {
    int64_t axis = normalize_axis(c.node().get_int("axis"), rank);
    bool agree = scale.size() == in.size();
    for (int64_t i = 0; agree && i < rank; ++i)
      agree = i == axis ? in[i] < 0 || fits(scale[i], in[i] / block + (in[i] % block != 0)) : fits(scale[i], in[i]);
    check_model(agree, "scale {} does not divide input {} into blocks of {} along axis {}", to_string(scale),
                to_string(in), block, axis);
    return;
  }
  if (is_static(scale) && element_count(scale) == 1 && scale.size() <= 1) return;
  check_model(scale.size() == 1, "scale has shape {}, expected a scalar or a vector", to_string(scale));
  int64_t axis = normalize_axis(c.node().get_int("axis"), rank);
  check_model(fits(scale[0], in[axis]) || scale[0] == 1, "{} scales for axis {} of input {}", scale[0], axis, to_string(in));
}

bool is_quantized(DType type) {
  return (is_integer(type) && size_of(type) <= 4) || (is_float(type) && size_of(type) == 1);
}

void infer_quantize(InferContext& c) {
  check_scale(c);
  DType type = type_attribute(c, "output_dtype", c.has_input(2) ? c.dtype(2) : DType::kU8);
  check_model(!c.has_input(2) || types_agree(type, c.dtype(2)), "output_dtype {} disagrees with the zero point's {}", name_of(type),
              name_of(c.has_input(2) ? c.dtype(2) : type));
  check_model(type == DType::kUndefined || is_quantized(type), "cannot quantize to {}", name_of(type));
  DType precision = type_attribute(c, "precision", DType::kF32);
  check_model(precision == DType::kF32 || precision == DType::kF16 || precision == DType::kBF16 || precision == DType::kF64,
              "cannot divide in precision {}", name_of(precision));
  c.set_output(0, type, c.shape(0));
}

void infer_dequantize(InferContext& c) {
  check_scale(c);
  check_model(!c.has_input(2) || types_agree(c.dtype(0), c.dtype(2)), "input of type {} has a zero point of type {}",
              name_of(c.dtype(0)), name_of(c.has_input(2) ? c.dtype(2) : c.dtype(0)));
  DType type = type_attribute(c, "output_dtype", c.dtype(1));
  check_model(type == DType::kUndefined || is_float(type), "cannot dequantize to {}", name_of(type));
  c.set_output(0, type, c.shape(0));
}

void infer_dynamic_quantize(InferContext& c) {
  c.set_output(0, DType::kU8, c.shape(0));
  c.set_output(1, DType::kF32, Shape{});
  c.set_output(2, DType::kU8, Shape{});
}

void infer_fake_quantize(InferContext& c) {
  static const std::vector<std::string> families = {"uniform", "pact", "dorefa", "twn", "ttq", "binary", "sign"};
  static const std::vector<std::string> estimators = {"identity", "clipped", "polynomial", "annealed"};
  const Node& n = c.node();
  const std::string &family = n.get_string("family"), &estimator = n.get_string("estimator");
  check_model(std::find(families.begin(), families.end(), family) != families.end(), "family is {}", family);
  check_model(std::find(estimators.begin(), estimators.end(), estimator) != estimators.end(), "estimator is {}", estimator);
  const int64_t bits = n.get_int("bits"), axis = n.get_int("axis");
  check_model(bits >= 1 && bits <= 8, "bits is {}, expected 1 to 8", bits);
  check_model(n.get_int("zero") >= 0 && n.get_int("zero") < int64_t{1} << bits, "zero is {}", n.get_int("zero"));
  check_model(c.dtype(0) == DType::kF32 || c.dtype(0) == DType::kUndefined, "X is {}, expected f32", name_of(c.dtype(0)));
  check_model(!c.shape(0) || (axis >= -1 && axis < static_cast<int64_t>(c.shape(0)->size())), "axis is {}", axis);
  const size_t learned = family == "ttq" ? 2 : family == "pact" ? 1 : 0;
  for (size_t i = 1; i <= 2; ++i) {
    check_model(c.has_input(i) || i > learned, "{} wants {} learned numbers", family, learned);
    if (!c.has_input(i) || !c.shape(i) || !c.shape(0)) continue;
    const int64_t count = axis < 0 ? 1 : (*c.shape(0))[static_cast<size_t>(axis)];
    check_model(*c.shape(i) == Shape{count}, "learned numbers of shape {}, expected [{}]", to_string(*c.shape(i)), count);
  }
  infer::same_as_first(c);
}

}  // namespace

void declare_quantize(OpRegistry& r) {
  r.add({.name = "QuantizeLinear", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = {{"axis", int64_t{1}}, {"saturate", int64_t{1}}, {"block_size", int64_t{0}},
                        {"output_dtype", int64_t{0}}, {"precision", int64_t{0}}},
         .infer = infer_quantize});
  r.add({.name = "DequantizeLinear", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = {{"axis", int64_t{1}}, {"block_size", int64_t{0}}, {"output_dtype", int64_t{0}}},
         .infer = infer_dequantize});
  r.add({.name = "DynamicQuantizeLinear", .minimum_outputs = 3, .maximum_outputs = 3,
         .infer = infer_dynamic_quantize});
  // X f32, S f32 [1] or [C], T as S → as X: the numbers that X is rounded to, for training (quantization-aware: Jacob et al. 2018). Whole tensor
  // (axis −1), or each entry of `axis`, which has C. sign(x) is 1 for x ≥ 0, else −1; a NaN counts as the lowest number. Means, largest
  // numbers and thresholds are those of the entry.
  //   uniform   |S|·clamp(round(x / |S|), low, high), half to even; low … high: −(2^(bits−1) − 1) … 2^(bits−1) − 1 where `signed`, else
  //             −zero … 2^bits − 1 − zero; S omitted: max|x| / high
  //   pact      the same with S/high as scale, S the largest number (Choi et al. 2018)
  //   dorefa    2·round(h·(tanh(x) / (2·max|tanh(x)|) + ½))/h − 1, h = 2^bits − 1 (Zhou et al. 2016)
  //   twn       {−α, 0, α}: 0 for |x| ≤ Δ = 0.7·mean|x|, α the mean of |x| of all else (Li et al. 2016)
  //   ttq       {−|T|, 0, |S|}: 0 for |x| ≤ 0.05·max|x| (Zhu et al. 2017)
  //   binary    mean|x|·sign(x) (Rastegari et al. 2016)
  //   sign      sign(x)
  // `estimator`, `batched` (the first axis are samples), `pull` say what gradients are (train/lower_quantize.cpp); `codes`: the product that reads
  // these weights computes on codes when training is done (train/quantization_aware.h).
  r.add({.name = "FakeQuantize", .domain = std::string(kLatheDomain), .minimum_inputs = 1, .maximum_inputs = 3,
         .attributes = {{"family", std::string("uniform")}, {"bits", int64_t{8}}, {"signed", int64_t{1}}, {"zero", int64_t{0}}, {"axis", int64_t{-1}}, {"estimator", std::string("clipped")},
                        {"batched", int64_t{0}}, {"pull", 0.0f}, {"codes", int64_t{0}}},
         .infer = infer_fake_quantize});
}

}  // namespace lathe::ops
