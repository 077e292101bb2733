#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

// Scores [N, C, d1, …], labels [N, d1, …], weights [C].
void infer_loss(InferContext& c) {
  const std::string& reduction = c.node().get_string("reduction");
  check_model(reduction == "none" || reduction == "sum" || reduction == "mean", "unknown reduction '{}'", reduction);
  check_model(c.dtype(1) == DType::kUndefined || is_integer(c.dtype(1)), "labels must be integers, found {}", name_of(c.dtype(1)));
  c.expect_rank(0, 2, kMaxRank);
  std::optional<Shape> each = c.shape(1);
  if (c.shape(0)) {
    Shape expected = *c.shape(0);
    int64_t classes = expected[1];
    expected.erase(expected.begin() + 1);
    if (each) {
      bool agree = each->size() == expected.size();
      for (size_t i = 0; agree && i < expected.size(); ++i)
        agree = expected[i] < 0 || (*each)[i] < 0 || expected[i] == (*each)[i];
      check_model(agree, "labels have shape {}, expected {} for scores {}", to_string(*each), to_string(expected),
                  to_string(*c.shape(0)));
    }
    each = expected;
    if (c.has_input(2) && c.shape(2))
      check_model(c.shape(2)->size() == 1 && (classes < 0 || (*c.shape(2))[0] < 0 || (*c.shape(2))[0] == classes),
                  "weights have shape {}, expected one for each of {} classes", to_string(*c.shape(2)), classes);
  }
  c.set_output(0, c.dtype(), reduction == "none" ? each : Shape{});
  c.set_output(1, c.dtype(), c.shape(0));  // SoftmaxCrossEntropyLoss: the log-probabilities
}

}  // namespace

void declare_loss(OpRegistry& r) {
  for (auto [name, outputs] : {std::pair{"NegativeLogLikelihoodLoss", 1}, std::pair{"SoftmaxCrossEntropyLoss", 2}})
    r.add({.name = name, .minimum_inputs = 2, .maximum_inputs = 3, .maximum_outputs = outputs,
           .attributes = {{"ignore_index", int64_t{0}}, {"reduction", std::string("mean")}}, .infer = infer_loss});
}

}  // namespace lathe::ops
