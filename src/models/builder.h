// Writes a network as a Graph, layer by layer, with fresh weights, so that a family reads like its paper's table:
//
//   Builder b("lenet", options);
//   ValueId x = b.input({1, 28, 28});
//   {
//     auto scope = b.scope("conv1");
//     x = b.relu(b.conv(x, {.out = 6, .kernel = 5, .pad = 2, .bias = true}));
//   }
//   ...
//   return b.finish({b.linear(b.flatten(x), options.classes)});
//
// Everything is standard ONNX in [N, C, H, W] or [N, C, T, H, W]; the batch is open ("N"). Parameters are the f32 constants of rank 1
// and more, named SCOPE.weight, SCOPE.bias and so on; literals have rank 0, and what is a constant of the network but is not
// trained has a name that ends in ".frozen" (parameters_of).
//
// Weights are drawn from a generator of our own, so that a seed gives the same bits everywhere.
#pragma once

#include <functional>
#include <random>
#include <set>
#include <string>

#include "graph/graph.h"

namespace lathe {

// What a caller may ask of every family; what a family cannot do it refuses by name (kUsage).
struct BuildOptions {
  int64_t classes = 0;      // 0: the published number
  Shape input = {};         // [C, H, W] or [C, T, H, W]; empty: the published one
  double width = 1;         // multiplies the channels, rounded as the family says
  std::vector<int64_t> depths = {};   // blocks of each stage; empty: the published ones
  std::vector<int64_t> widths = {};   // channels of each stage, before `width`
  std::map<std::string, std::string> more = {};  // family's own: "features", "head", "mixers", "cells"...
  uint64_t seed = 0;
  bool training = false;    // with dropout, drop path and auxiliary heads, which training alone uses
  bool draw = true;         // false: weights are left as they come from memory, for counting
};

// How weights are drawn. Fans count the elements of the kernel that one output (in) or one input (out) meets.
struct Init {
  enum class Kind { kHeNormalOut, kHeNormalIn, kHeUniformIn, kUniformIn, kNormal, kTruncatedNormal, kXavierUniform, kConstant };
  Kind kind = Kind::kHeNormalOut;
  double value = 0;  // the deviation of kNormal and kTruncatedNormal (cut at ± 2 absolute, as torch does), kConstant's value

  static Init normal(double deviation) { return {Kind::kNormal, deviation}; }
  static Init truncated(double deviation) { return {Kind::kTruncatedNormal, deviation}; }
  static Init constant(double value) { return {Kind::kConstant, value}; }
};

// One number for all axes, or one for each.
struct Sizes {
  Sizes(int64_t all) : values{all} {}
  Sizes(int all) : values{all} {}
  Sizes(std::initializer_list<int64_t> each) : values(each) {}
  std::vector<int64_t> values;
  int64_t at(size_t axis) const { return values.size() == 1 ? values[0] : values[axis]; }
};
constexpr int64_t kSamePad = -1;  // what keeps the size divided by the stride, rounded up: the extra one lies after (TensorFlow)

struct ConvSpec {
  int64_t out = 0;
  Sizes kernel = 1;
  Sizes stride = 1;
  Sizes pad = 0;  // on both sides, or kSamePad
  Sizes dilation = 1;
  int64_t groups = 1;
  bool bias = false;
};
struct PoolSpec {
  Sizes kernel = 2;
  Sizes stride = 2;
  Sizes pad = 0;
  bool count_pad = false;  // averages: whether what lies outside counts as zeros
};

class Builder {
 public:
  Builder(std::string name, const BuildOptions& options);

  // Until the returned object goes, names begin with those of all open scopes.
  class Scope {
   public:
    Scope(const Scope&) = delete;
    ~Scope() { builder_.scopes_.pop_back(); }

   private:
    friend class Builder;
    explicit Scope(Builder& b) : builder_(b) {}
    Builder& builder_;
  };
  [[nodiscard]] Scope scope(std::string name);

  ValueId input(const Shape& shape, const std::string& name = "input");  // [C, ...] without the batch
  Graph finish(std::vector<ValueId> outputs, std::vector<std::string> names = {"logits"});

  Graph& graph() { return graph_; }
  bool training() const { return options_.training; }
  bool draws() const { return options_.draw; }
  const Shape& shape(ValueId x) const;  // the batch is kUnknownDim
  int64_t channels(ValueId x) const { return shape(x)[1]; }

  // How the weights of later layers are drawn; biases are `bias`.
  Init conv_init = {Init::Kind::kHeNormalOut};
  Init linear_init = {Init::Kind::kUniformIn};
  Init bias_init = Init::constant(0);
  double batch_norm_epsilon = 1e-5;

  ValueId conv(ValueId x, const ConvSpec& spec);               // SCOPE.weight [, SCOPE.bias]
  ValueId depthwise(ValueId x, Sizes kernel, Sizes stride = 1, Sizes pad = kSamePad, bool bias = false, Sizes dilation = 1);
  ValueId linear(ValueId x, int64_t out, bool bias = true);    // over the last axis: [N, C] or [N, T, C]
  ValueId batch_norm(ValueId x);                               // SCOPE.weight, .bias, .mean, .variance, or SCOPE.norm.weight ... behind a convolution
  // Over all but the batch (one group), with a weight and perhaps a bias for each channel.
  ValueId group_norm(ValueId x, double epsilon, bool bias = true, int64_t groups = 1);
  ValueId layer_norm(ValueId x, double epsilon, bool bias = true);           // over the last axis
  ValueId channel_norm(ValueId x, double epsilon, bool bias = true);         // over axis 1 of [N, C, ...]

  ValueId relu(ValueId x) { return op("Relu", {x}); }
  ValueId relu6(ValueId x);
  ValueId gelu(ValueId x) { return op("Gelu", {x}); }  // by erf
  ValueId silu(ValueId x) { return mul(x, op("Sigmoid", {x})); }
  ValueId hard_swish(ValueId x) { return op("HardSwish", {x}); }
  ValueId sigmoid(ValueId x) { return op("Sigmoid", {x}); }

  ValueId max_pool(ValueId x, const PoolSpec& spec);
  ValueId average_pool(ValueId x, const PoolSpec& spec);
  ValueId global_average(ValueId x) { return op("GlobalAveragePool", {x}); }  // [N, C, 1, ...]
  ValueId flatten(ValueId x) { return op("Flatten", {x}); }                   // [N, C·...]
  ValueId pooled(ValueId x) { return flatten(global_average(x)); }            // [N, C]
  ValueId add(ValueId a, ValueId b) { return op("Add", {a, b}); }
  ValueId mul(ValueId a, ValueId b) { return op("Mul", {a, b}); }
  ValueId concat(const std::vector<ValueId>& parts, int64_t axis = 1);
  ValueId reshape(ValueId x, const Shape& shape);  // 0 keeps a size, −1 is what is left
  ValueId transpose(ValueId x, const std::vector<int64_t>& order);

  // Scaled dot-product attention of tokens [N, T, C] with each other, in `heads` of C/heads channels each (Vaswani et al. 2017,
  // section 3.2): one product SCOPE.qkv to [3, heads, C/heads] channels, and SCOPE.projection. `dropout` of the weights.
  ValueId self_attention(ValueId tokens, int64_t heads, bool qkv_bias, bool projection_bias, double dropout = 0);

  // In training: `x` with elements, or whole samples, set to nought at a rate and the rest divided by what is kept.
  // `scheduled`: the rate is multiplied by the part of training that is done (ScheduledDropPath).
  ValueId dropout(ValueId x, double rate);
  ValueId drop_path(ValueId x, double rate, bool scheduled = false);

  // SCOPE.NAME of `shape`, to be trained.
  ValueId parameter(const std::string& name, const Shape& shape, Init init, int64_t fan_in = 1, int64_t fan_out = 1);
  ValueId frozen(const std::string& name, Tensor values);  // SCOPE.NAME.frozen
  ValueId literal(double value);                           // f32 of rank 0
  ValueId index(int64_t value);                            // i64 of rank 0
  ValueId op(std::string_view name, std::vector<ValueId> inputs, Attributes attributes = {});

  double uniform();  // of [0, 1)
  double normal();

 private:
  std::string named(const std::string& name) const;
  // "" or, where the scope holds a weight already (a convolution's), "norm.": no two parameters have one name.
  std::string norm_prefix() const;

  BuildOptions options_;
  Graph graph_;
  std::vector<std::string> scopes_;
  std::set<std::string> taken_;
  std::mt19937_64 random_;
};

// The constants of a network by what training does with them, by the rule above. Running means and variances of batch norms are
// statistics.
struct Parameters {
  std::vector<ValueId> trained, frozen, statistics;
};
Parameters parameters_of(const Graph& graph);

// c·factor as a multiple of `divisor`, to the nearest, at least `divisor`, and no less than 0.9 of it (MobileNetV2).
int64_t make_divisible(double channels, int64_t divisor = 8);

}  // namespace lathe
