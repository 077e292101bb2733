#include <cmath>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

// −weight · log-probability of the label, averaged by the weights, summed, or each. `log_probability` is
// [N, C, inner] flat.
void likelihood_loss(Context& c, const std::vector<double>& log_probability) {
  const Tensor &in = c.input(0), &labels = c.input(1);
  Tensor& loss = c.output(0);
  const std::string& reduction = c.node().get_string("reduction");
  int64_t classes = in.shape()[1], inner = product(in.shape(), 2, in.shape().size());
  double sum = 0, total_weight = 0;
  for (int64_t i = 0; i < labels.size(); ++i) {
    int64_t label = labels.get_int(i);
    double weight = 0, each = 0;
    if (!c.node().has("ignore_index") || label != c.node().get_int("ignore_index")) {
      if (label < 0 || label >= classes) fail(ErrorKind::kInput, "label {} is outside 0 to {}", label, classes - 1);
      weight = c.has_input(2) ? c.input(2).get(label) : 1;
      each = -weight * log_probability[(i / inner * classes + label) * inner + i % inner];
    }
    sum += each;
    total_weight += weight;
    if (reduction == "none") loss.set(i, each);
  }
  if (reduction == "sum") loss.set(0, sum);
  if (reduction == "mean") loss.set(0, sum / total_weight);
}

void negative_log_likelihood(Context& c) {
  const Tensor& in = c.input();
  std::vector<double> values(in.size());
  for (int64_t i = 0; i < in.size(); ++i) values[i] = in.get(i);
  (void)c.output(0);  // checks the shapes
  likelihood_loss(c, values);
}

void softmax_cross_entropy(Context& c) {
  const Tensor& in = c.input();
  (void)c.output(0);  // checks the shapes
  int64_t batch = in.shape()[0], classes = in.shape()[1], inner = product(in.shape(), 2, in.shape().size());
  std::vector<double> values(in.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < inner; ++i) {
      double largest = -INFINITY, sum = 0;
      auto at = [&](int64_t k) { return (b * classes + k) * inner + i; };
      for (int64_t k = 0; k < classes; ++k) largest = std::max(largest, in.get(at(k)));
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(in.get(at(k)) - largest);
      for (int64_t k = 0; k < classes; ++k) values[at(k)] = in.get(at(k)) - largest - std::log(sum);
    }
  if (c.has_output(1))
    for (int64_t i = 0; i < in.size(); ++i) c.output(1).set(i, values[i]);
  likelihood_loss(c, values);
}

}  // namespace

void register_loss(Registry& r) {
  r.add("NegativeLogLikelihoodLoss", negative_log_likelihood);
  r.add("SoftmaxCrossEntropyLoss", softmax_cross_entropy);
}

}  // namespace lathe::reference
