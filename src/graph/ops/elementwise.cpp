#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

void unary(OpRegistry& r, std::initializer_list<const char*> names) {
  for (const char* name : names) r.add({.name = name, .infer = infer::same_as_first});
}

void binary(OpRegistry& r, std::initializer_list<const char*> names, void (*rule)(InferContext&)) {
  for (const char* name : names)
    r.add({.name = name, .minimum_inputs = 2, .maximum_inputs = 2, .infer = [rule](InferContext& c) {
             bool known = c.dtype(0) != DType::kUndefined && c.dtype(1) != DType::kUndefined;
             check_model(!known || c.dtype(0) == c.dtype(1), "operands have different types, {} and {}",
                         name_of(c.dtype(0)), name_of(c.dtype(1)));
             rule(c);
           }});
}

// Activations with float parameters.
void activation(OpRegistry& r, const char* name, std::vector<AttributeSpec> attributes) {
  r.add({.name = name, .attributes = std::move(attributes), .infer = infer::same_as_first});
}

void infer_cast(InferContext& c) {
  int64_t number = c.node().get_int("to");
  auto type = static_cast<DType>(number);
  check_model(number > 0 && number < 256 && size_of(type) > 0, "cannot cast to element type {}", number);
  c.set_output(0, type, c.shape(0));
}

}  // namespace

void declare_elementwise(OpRegistry& r) {
  unary(r, {"Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Cos",
            "Cosh", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Log", "Mish", "Neg", "Not",
            "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
            "Sqrt", "Tan", "Tanh"});
  activation(r, "Elu", {{"alpha", 1.0f}});
  activation(r, "Celu", {{"alpha", 1.0f}});
  activation(r, "LeakyRelu", {{"alpha", 0.01f}});
  activation(r, "ThresholdedRelu", {{"alpha", 1.0f}});
  activation(r, "Swish", {{"alpha", 1.0f}});
  activation(r, "HardSigmoid", {{"alpha", 0.2f}, {"beta", 0.5f}});
  activation(r, "Selu", {{"alpha", 1.67326319217681884765625f}, {"gamma", 1.05070102214813232421875f}});
  activation(r, "Shrink", {{"bias", 0.0f}, {"lambd", 0.5f}});
  activation(r, "Gelu", {{"approximate", std::string("none")}});

  binary(r, {"Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "PRelu"},
         infer::broadcast_all);
  binary(r, {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}, infer::broadcast_to_bool);
  r.add({.name = "Pow", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer::broadcast_all});
  r.add({.name = "Mod", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = {{"fmod", int64_t{0}}},
         .infer = infer::broadcast_all});
  r.add({.name = "BitShift", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"direction", std::string("LEFT"), true}}, .infer = infer::broadcast_all});
  for (const char* name : {"Max", "Min", "Mean", "Sum"})
    r.add({.name = name, .maximum_inputs = -1, .infer = [](InferContext& c) {
             for (size_t i = 1; i < c.input_count(); ++i) {
               if (!c.has_input(i)) continue;
               check_model(types_agree(c.dtype(0), c.dtype(i)), "operands have different types, {} and {}",
                           name_of(c.dtype(0)), name_of(c.dtype(i)));
             }
             infer::broadcast_all(c);
           }});

  r.add({.name = "Clip", .maximum_inputs = 3, .infer = infer::same_as_first});
  r.add({.name = "IsNaN", .infer = infer::broadcast_to_bool});
  r.add({.name = "IsInf",
         .attributes = {{"detect_negative", int64_t{1}}, {"detect_positive", int64_t{1}}},
         .infer = infer::broadcast_to_bool});
  r.add({.name = "Cast",
         .attributes = {{"to", int64_t{0}, true}, {"saturate", int64_t{1}}, {"round_mode", std::string("up")}},
         .infer = infer_cast});
  r.add({.name = "CastLike", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"saturate", int64_t{1}}, {"round_mode", std::string("up")}},
         .infer = [](InferContext& c) { c.set_output(0, c.dtype(1), c.shape(0)); }});
  r.add({.name = "BitCast", .attributes = {{"to", int64_t{0}, true}}, .infer = infer_cast});
  r.add({.name = "Where", .minimum_inputs = 3, .maximum_inputs = 3, .infer = [](InferContext& c) {
           infer::broadcast_all(c);
           Value& out = c.graph()[c.node().outputs[0]];
           out.dtype = c.dtype(1);
         }});
  r.add({.name = "Dropout", .maximum_inputs = 3, .maximum_outputs = 2,
         .attributes = {{"seed", int64_t{0}}}, .infer = [](InferContext& c) {
           c.set_output(0, c.dtype(0), c.shape(0));
           c.set_output(1, DType::kBool, c.shape(0));
         }});
  // scale·max(x, 0)² + bias (StarReLU: Yu et al. 2024, MetaFormer Baselines for Vision, section 2.2).
  r.add({.name = "StarRelu", .domain = std::string(kLatheDomain), .attributes = {{"scale", 1.0f}, {"bias", 0.0f}}, .infer = infer::same_as_first});
  // Whole samples set to nought at `rate` in training (Huang et al. 2016, Deep Networks with Stochastic Depth), the rest
  // divided by what is kept; nothing else. `scheduled`: the rate is multiplied by the part of training that is done (Zoph et
  // al. 2018, ScheduledDropPath).
  r.add({.name = "DropPath", .domain = std::string(kLatheDomain), .attributes = {{"rate", 0.0f}, {"scheduled", int64_t{0}}}, .infer = infer::same_as_first});
}

}  // namespace lathe::ops
