#include "train/conv_bn.h"

#include <algorithm>

#include "core/error.h"
#include "graph/op.h"

namespace lathe {

const char* name_of(ConvBnMode mode) {
  constexpr const char* names[] = {"train", "eval", "tune", "deploy"};
  return names[static_cast<int>(mode)];
}

ConvBnMode conv_bn_mode(const std::string& name) {
  for (ConvBnMode m : {ConvBnMode::kTrain, ConvBnMode::kEval, ConvBnMode::kTune, ConvBnMode::kDeploy})
    if (name == name_of(m)) return m;
  fail(ErrorKind::kUsage, "a mode {} of convolutions and batch norms; there are train, eval, tune, deploy", name);
}

std::vector<ConvBn> find_conv_bn(const Graph& g, std::vector<std::string>* left) {
  std::vector<ConvBn> pairs;
  const std::vector<std::vector<NodeId>> readers = g.consumers();
  for (NodeId id : g.order()) {
    const Node& norm = g[id];
    if (norm.op->name != "BatchNormalization" || !norm.op->domain.empty()) continue;
    const Value& x = g[norm.inputs[0]];
    if (!x.producer) continue;
    const Node& before = g[x.producer];
    const bool product = before.op->domain.empty() && (before.op->name == "Conv" || before.op->name == "ConvTranspose" || before.op->name == "Gemm");
    if (!product || !g[before.inputs[1]].is_constant()) continue;
    for (size_t i = 1; i < 5; ++i) check_model(g[norm.inputs[i]].is_constant(), "{}: a batch norm whose parameters are computed", norm.name);
    const Shape& w = g[before.inputs[1]].constant.shape();
    const int64_t channels = before.op->name == "Conv" ? w[0] : before.op->name == "ConvTranspose" ? w[1] * before.get_int("group") : w[before.get_int("transB") ? 0 : 1];
    for (size_t i = 1; i < 5; ++i)
      check_model(g[norm.inputs[i]].constant.size() == channels, "{}: {} numbers for {} channels of {}", norm.name, g[norm.inputs[i]].constant.size(), channels, before.name);
    const Tensor& variance = g[norm.inputs[4]].constant;
    for (int64_t i = 0; i < variance.size(); ++i)
      check_model(variance.get(i) + norm.get_float("epsilon") > 0, "{}: a variance of {} and an epsilon of {}", norm.name, variance.get(i), norm.get_float("epsilon"));
    const bool output = std::find(g.outputs.begin(), g.outputs.end(), norm.inputs[0]) != g.outputs.end();
    if (readers[norm.inputs[0].index].size() > 1 || output) {
      if (left) left->push_back(before.name);
      continue;
    }
    pairs.push_back({x.producer, id});
  }
  return pairs;
}

}  // namespace lathe
