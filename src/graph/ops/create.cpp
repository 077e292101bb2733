#include <cmath>

#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void infer_constant(InferContext& c) {
  const Node& n = c.node();
  check_model(n.attributes.size() == 1, "Constant needs exactly one value attribute, found {}", n.attributes.size());
  if (n.has("value_float")) return c.set_output(0, DType::kF32, Shape{});
  if (n.has("value_int")) return c.set_output(0, DType::kI64, Shape{});
  if (n.has("value_floats"))
    return c.set_output(0, DType::kF32, Shape{static_cast<int64_t>(n.get_floats("value_floats").size())});
  if (n.has("value_ints"))
    return c.set_output(0, DType::kI64, Shape{static_cast<int64_t>(n.get_ints("value_ints").size())});
  const Tensor& value = n.get_tensor(n.has("value") ? "value" : "sparse_value");
  check_model(value.defined(), "Constant has an empty tensor");
  c.set_output(0, value.dtype(), value.shape());
}

void infer_constant_of_shape(InferContext& c) {
  DType type = DType::kF32;
  if (c.node().has("value")) {
    const Tensor& value = c.node().get_tensor("value");
    check_model(value.defined() && value.size() == 1, "the value of ConstantOfShape must be one element");
    type = value.dtype();
  }
  if (auto shape = constant_ints(c, 0)) {
    for (int64_t size : *shape) check_model(size >= 0, "ConstantOfShape {}: a size is negative", to_string(*shape));
    return c.set_output(0, type, *shape);
  }
  int64_t rank = list_length(c, 0);
  c.set_output(0, type, rank < 0 ? std::nullopt : std::optional(unknown_shape(rank)));
}

void infer_range(InferContext& c) {
  const Tensor *start = c.constant(0), *limit = c.constant(1), *delta = c.constant(2);
  if (!start || !limit || !delta) return c.set_output(0, c.dtype(), unknown_shape(1));
  for (const Tensor* t : {start, limit, delta})
    check_model(t->size() == 1 && types_agree(t->dtype(), start->dtype()), "Range takes three scalars of one type");
  int64_t count = 0;
  if (is_float(start->dtype())) {
    double length = std::ceil((limit->get(0) - start->get(0)) / delta->get(0));
    check_model(std::isfinite(length) && length < 1e15, "Range from {} to {} by {} has no finite length",
                start->get(0), limit->get(0), delta->get(0));
    count = length > 0 ? static_cast<int64_t>(length) : 0;
  } else {
    int64_t from = start->get_int(0), to = limit->get_int(0), step = delta->get_int(0);
    check_model(step != 0, "Range: the step is 0");
    // Differences of 64-bit integers fit in unsigned ones.
    uint64_t gap = step > 0 ? static_cast<uint64_t>(to) - static_cast<uint64_t>(from)
                            : static_cast<uint64_t>(from) - static_cast<uint64_t>(to);
    uint64_t size = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
    if (step > 0 ? to > from : from > to) count = static_cast<int64_t>((gap - 1) / size + 1);
    check_model(count >= 0, "Range from {} to {} by {} is too long", from, to, step);
  }
  c.set_output(0, c.dtype(), Shape{count});
}

void infer_eye_like(InferContext& c) {
  c.expect_rank(0, 2, 2);
  c.set_output(0, type_attribute(c, "dtype", c.dtype()), c.shape(0));
}

void infer_random(InferContext& c) {
  for (int64_t size : c.node().get_ints("shape")) check_model(size >= 0, "attribute 'shape' has a negative size");
  c.set_output(0, type_attribute(c, "dtype", DType::kF32), c.node().get_ints("shape"));
}

void infer_random_like(InferContext& c) {
  DType type = is_float(c.dtype()) ? c.dtype() : DType::kF32;
  c.set_output(0, type_attribute(c, "dtype", type), c.shape(0));
}

void infer_multinomial(InferContext& c) {
  c.expect_rank(0, 2, 2);
  DType type = type_attribute(c, "dtype", DType::kI32);
  check_model(type == DType::kI32 || type == DType::kI64, "Multinomial makes i32 or i64, not {}", name_of(type));
  int64_t samples = c.node().get_int("sample_size");
  check_model(samples > 0, "Multinomial: sample_size {} is not positive", samples);
  c.set_output(0, type, Shape{c.shape(0) ? (*c.shape(0))[0] : kUnknownDim, samples});
}

void infer_window(InferContext& c) {
  int64_t size = kUnknownDim;
  if (const Tensor* t = c.constant(0)) {
    check_model(t->size() == 1 && t->get_int(0) >= 0, "a window needs one non-negative size");
    size = t->get_int(0);
  }
  c.set_output(0, type_attribute(c, "output_datatype", DType::kF32), Shape{size});
}

}  // namespace

void declare_create(OpRegistry& r) {
  r.add({.name = "Constant", .minimum_inputs = 0, .maximum_inputs = 0,
         .attributes = {{"value", Tensor()}, {"sparse_value", Tensor()}, {"value_float", 0.0f},
                        {"value_floats", std::vector<float>()}, {"value_int", int64_t{0}}, {"value_ints", Ints()}},
         .infer = infer_constant});
  r.add({.name = "ConstantOfShape", .attributes = {{"value", Tensor()}}, .infer = infer_constant_of_shape});
  r.add({.name = "Range", .minimum_inputs = 3, .maximum_inputs = 3, .infer = infer_range});
  r.add({.name = "EyeLike", .attributes = {{"dtype", int64_t{0}}, {"k", int64_t{0}}}, .infer = infer_eye_like});
  r.add({.name = "RandomNormal", .minimum_inputs = 0, .maximum_inputs = 0,
         .attributes = {{"dtype", int64_t{1}}, {"mean", 0.0f}, {"scale", 1.0f}, {"seed", 0.0f}, {"shape", Ints(), true}},
         .infer = infer_random, .deterministic = false});
  r.add({.name = "RandomUniform", .minimum_inputs = 0, .maximum_inputs = 0,
         .attributes = {{"dtype", int64_t{1}}, {"low", 0.0f}, {"high", 1.0f}, {"seed", 0.0f}, {"shape", Ints(), true}},
         .infer = infer_random, .deterministic = false});
  r.add({.name = "RandomNormalLike",
         .attributes = {{"dtype", int64_t{0}}, {"mean", 0.0f}, {"scale", 1.0f}, {"seed", 0.0f}},
         .infer = infer_random_like, .deterministic = false});
  r.add({.name = "RandomUniformLike",
         .attributes = {{"dtype", int64_t{0}}, {"low", 0.0f}, {"high", 1.0f}, {"seed", 0.0f}},
         .infer = infer_random_like, .deterministic = false});
  r.add({.name = "Multinomial",
         .attributes = {{"dtype", int64_t{6}}, {"sample_size", int64_t{1}}, {"seed", 0.0f}},
         .infer = infer_multinomial, .deterministic = false});
  r.add({.name = "Bernoulli", .attributes = {{"dtype", int64_t{0}}, {"seed", 0.0f}},
         .infer = [](InferContext& c) { c.set_output(0, type_attribute(c, "dtype", c.dtype()), c.shape(0)); },
         .deterministic = false});
  for (const char* name : {"HannWindow", "HammingWindow", "BlackmanWindow"})
    r.add({.name = name, .attributes = {{"output_datatype", int64_t{1}}, {"periodic", int64_t{1}}},
           .infer = infer_window});
}

}  // namespace lathe::ops
