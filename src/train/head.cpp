#include "train/head.h"

#include <cmath>
#include <set>

#include "data/random.h"
#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {

namespace {

const std::set<std::string> kMoves = {"Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze", "Identity", "GlobalAveragePool", "ReduceMean", "Relu", "AveragePool", "Add", "Dropout"};

Tensor fresh(const Shape& shape, int64_t fan_in, Random& random) {
  Tensor t(DType::kF32, shape);
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = static_cast<float>(random.uniform(-bound, bound));
  return t;
}

Tensor zeros(const Shape& shape) {
  Tensor t(DType::kF32, shape);
  std::fill_n(t.data<float>(), t.size(), 0.0f);
  return t;
}

}  // namespace

std::string replace_head(Graph& g, int64_t classes, uint64_t seed) {
  if (classes < 1) fail(ErrorKind::kUsage, "a head of {} classes", classes);
  Random random(seed, 0x68656164);
  ValueId v = g.outputs.at(0);
  ValueId bias;  // of an Add behind a MatMul
  while (g[v].producer) {
    Node& n = g[g[v].producer];
    const std::string& op = n.op->name;
    const bool constant_weight = n.inputs.size() > 1 && n.inputs[1] && g[n.inputs[1]].is_constant();
    if (op == "Gemm" || op == "Conv" || op == "MatMul") {
      if (!constant_weight) break;
      Value& w = g[n.inputs[1]];
      Shape shape = w.constant.shape();
      const bool rows_out = op == "Conv" || (op == "Gemm" && n.get_int("transB") != 0);
      int64_t fan_in = 1;
      for (size_t i = 0; i < shape.size(); ++i)
        if (i != (rows_out ? 0 : shape.size() - 1)) fan_in *= shape[i];
      if (op == "Conv" && n.get_int("group") != 1) break;
      shape[rows_out ? 0 : shape.size() - 1] = classes;
      w.constant = fresh(shape, fan_in, random);
      w.shape = shape;
      if (n.inputs.size() > 2 && n.inputs[2]) bias = n.inputs[2];
      if (bias) {
        g[bias].constant = zeros({classes});
        g[bias].shape = Shape{classes};
      }
      const std::string name = w.name;
      // What comes behind has other shapes now; a Reshape that names the old number of classes cannot be.
      for (NodeId id : g.order()) {
        if (g[id].op->name == "Reshape" && id == g[g.outputs[0]].producer) {
          Value& to = g[g[id].inputs[1]];
          std::vector<int64_t> sizes = to.constant.to_i64();
          sizes.back() = classes;
          to.constant = Tensor::of_i64(sizes);
        }
        InferContext context(g, id);
        g[id].op->infer(context);
      }
      return name;
    }
    if (!kMoves.contains(op)) break;
    if (op == "Add") {
      const bool second = g[n.inputs[1]].is_constant();
      if (!second && !g[n.inputs[0]].is_constant()) break;
      bias = n.inputs[second ? 1 : 0];
      v = n.inputs[second ? 0 : 1];
    } else {
      v = n.inputs[0];
    }
  }
  fail(ErrorKind::kUnsupported, "{}: its first output is not made by a last layer of weights that could be replaced", g.name);
}

}  // namespace lathe
