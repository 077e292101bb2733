// A Graph on libtorch: its parameters as tensors with gradients, its nodes run one after the other through their lowerings
// (train/lower.h). Trained weights go back to the same Graph.
//
//   TorchNetwork net(graph, {});
//   at::Tensor y = net.forward({x}, {.training = true, .batch_statistics = true})[0];
//   loss(y).backward();                       // gradients stand in net.parameters()
//   net.write_back(graph);
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "train/conv_bn.h"
#include "train/lower.h"

namespace lathe {

struct TorchNetworkOptions {
  at::ScalarType type = at::kFloat;
  at::Device device = at::kCPU;  // of parameters, and of what forward() takes
  std::vector<std::string> freeze = {};  // patterns of names of parameters that are not trained
  ConvBnMode conv_bn = ConvBnMode::kTrain;
  // In training passes only every √n-th place where one value alone is alive is kept; what lies between is made again in the
  // backward pass (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost).
  bool recompute = false;
};

class TorchNetwork {
 public:
  struct Parameter {
    std::string name;
    ValueId value;
    at::Tensor tensor;
    bool trained = true;
    double step = 1;  // of optimizers whose steps do not grow with the gradient: learned scales move in proportion to their first size
    // Weights of products alone: vectors (biases, norms, scales) are exempt from weight decay.
    bool decays() const { return tensor.dim() >= 2; }
  };

  // Throws kUnsupported naming node and operator where something has no lowering, kUsage when `freeze` matches nothing.
  explicit TorchNetwork(Graph graph, const TorchNetworkOptions& options = {});

  // In the order of graph().inputs and .outputs.
  Tensors forward(const Tensors& inputs, const PassState& state);

  std::vector<Parameter>& parameters() { return parameters_; }  // trained and frozen
  std::vector<Parameter>& statistics() { return statistics_; }  // of batch norms
  std::vector<Parameter> state() const;                         // parameters, then statistics: the tensors themselves
  Tensors trained() const;
  const Graph& graph() const { return graph_; }
  const TorchNetworkOptions& options() const { return options_; }
  const std::vector<ConvBn>& conv_bn() const { return pairs_; }

  // Tensors of this network to the constants of `to`, which has the same values (the graph given, or a copy).
  void write_back(Graph& to) const;

 private:
  struct Step {
    NodeId node;
    Lowering lowering = nullptr;
    int conv_bn = -1;            // the pair whose batch norm this is, made with its convolution (ConvBnMode::kTune)
    std::vector<NodeId> behind = {};  // nodes that this step makes too: a batch norm's Relu or Clip, what makes a Relu a StarReLU and a Sigmoid a SiLU
    NormLimits limits = {};      // of the Relu or Clip
    ValueId scale = {}, bias = {};  // of the StarReLU
    bool silu = false;
    std::vector<int32_t> last;   // values that nothing reads afterwards
  };
  const std::vector<ValueId>& made_by(const Step& step) const { return graph_[step.behind.empty() ? step.node : step.behind.back()].outputs; }
  void run(size_t begin, size_t end, std::vector<at::Tensor>& values, const PassState& state);
  void find_cuts();
  // The node that alone reads what `node` makes; none where others do, or it is an output.
  NodeId only_reader(NodeId node, const std::vector<std::vector<NodeId>>& readers) const;
  // Takes what this step can make at once into it: the Relu or the Clip between numbers behind a batch norm; Mul by itself, Mul and Add of one
  // number each behind a Relu; the Mul of a Sigmoid and its input.
  void take_activation(Step& step, const std::vector<std::vector<NodeId>>& readers) const;
  void take_star_relu(Step& step, const std::vector<std::vector<NodeId>>& readers) const;
  void take_silu(Step& step, const std::vector<std::vector<NodeId>>& readers) const;
  friend class Recomputed;
  void run_step(const Step& step, std::vector<at::Tensor>& values, const PassState& state);

  Graph graph_;
  TorchNetworkOptions options_;
  std::vector<Parameter> parameters_, statistics_;
  std::vector<at::Tensor> constants_;  // by value
  std::vector<Step> steps_;
  // Steps before which one value alone is alive, and that value.
  std::vector<std::pair<size_t, int32_t>> cuts_;
  std::vector<ConvBn> pairs_;
};

}  // namespace lathe
