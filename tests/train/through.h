// One pass forward and backward through a network of its own: in f32 it takes our kernels where there are any, in f64 libtorch's.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "train/torch_network.h"

namespace lathe {

struct Through {
  at::Tensor y;
  std::vector<at::Tensor> inputs, parameters;  // gradients; undefined of parameters that are frozen
  std::vector<at::Tensor> statistics;          // as they are afterwards
};
inline Through through(const Graph& g, const std::vector<at::Tensor>& inputs, const at::Tensor& gradient, const TorchNetworkOptions& options, bool batch_statistics = false) {
  TorchNetwork net(g, options);
  std::vector<at::Tensor> in;
  for (const at::Tensor& x : inputs) in.push_back(x.to(options.type).detach().set_requires_grad(true));
  Through t;
  t.y = net.forward(in, {.training = true, .batch_statistics = batch_statistics, .progress = 0, .generator = {}})[0];
  t.y.backward(gradient.to(options.type));
  for (const at::Tensor& x : in) t.inputs.push_back(x.grad());
  for (const TorchNetwork::Parameter& p : net.parameters()) t.parameters.push_back(p.tensor.grad());
  for (const TorchNetwork::Parameter& p : net.statistics()) t.statistics.push_back(p.tensor);
  return t;
}
inline Through through(const Graph& g, const std::vector<at::Tensor>& inputs, const at::Tensor& gradient, at::ScalarType type, bool batch_statistics = false) {
  return through(g, inputs, gradient, TorchNetworkOptions{.type = type}, batch_statistics);
}

inline double largest(const at::Tensor& t) { return t.numel() > 0 ? t.abs().max().item<double>() : 0; }
// Each number of `a` no further than `most` from that of `b`.
inline void expect_within(const at::Tensor& a, const at::Tensor& b, double most, const std::string& what) {
  ASSERT_TRUE(a.defined() && b.defined()) << what;
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  EXPECT_LE(largest(a.to(at::kDouble) - b), most) << what;
}
// `tolerance` of the largest number of `b`, or of `least` where that is more.
inline void expect_near(const at::Tensor& a, const at::Tensor& b, double tolerance, const std::string& what, double least = 1) {
  ASSERT_TRUE(b.defined()) << what;
  expect_within(a, b, tolerance * std::max(largest(b), least), what);
}

}  // namespace lathe
