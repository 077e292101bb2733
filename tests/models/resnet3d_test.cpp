// 3-D residual networks against float64 code written from the page's description, over odd clips; shortcuts, and what the last pool takes.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"
#include "graph/op.h"

namespace lathe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

// [C, T, H, W] of one clip.
struct Volume {
  int64_t c, t, h, w;
  std::vector<double> v = std::vector<double>(static_cast<size_t>(c * t * h * w), 0.0);
  double& at(int64_t k, int64_t a, int64_t i, int64_t j) { return v[static_cast<size_t>(((k * t + a) * h + i) * w + j)]; }
  double at(int64_t k, int64_t a, int64_t i, int64_t j) const { return v[static_cast<size_t>(((k * t + a) * h + i) * w + j)]; }
  bool inside(int64_t a, int64_t i, int64_t j) const { return a >= 0 && a < t && i >= 0 && i < h && j >= 0 && j < w; }
};
int64_t halved(int64_t size, int64_t kernel, int64_t stride, int64_t pad) { return (size + 2 * pad - kernel) / stride + 1; }

class Video {
 public:
  Video(const Weights& w, int64_t groups) : w_(w), groups_(groups) {}

  // Padding keeps the middle of the window on the grid.
  Volume conv(const Volume& x, const std::string& scope, int64_t stride_t, int64_t stride, int64_t groups = 1) const {
    const Tensor& k = w_[scope + ".weight"];
    const int64_t out = k.shape()[0], in = k.shape()[1], size = k.shape()[2], pad = size / 2;
    EXPECT_EQ(in * groups, x.c) << scope;
    Volume y{out, halved(x.t, size, stride_t, pad), halved(x.h, size, stride, pad), halved(x.w, size, stride, pad)};
    for (int64_t o = 0; o < out; ++o)
      for (int64_t a = 0; a < y.t; ++a)
        for (int64_t i = 0; i < y.h; ++i)
          for (int64_t j = 0; j < y.w; ++j) {
            double sum = 0;
            for (int64_t c = 0; c < in; ++c)
              for (int64_t d = 0; d < size; ++d)
                for (int64_t p = 0; p < size; ++p)
                  for (int64_t q = 0; q < size; ++q) {
                    const int64_t time = a * stride_t + d - pad, row = i * stride + p - pad, column = j * stride + q - pad;
                    if (x.inside(time, row, column)) sum += k.get((((o * in + c) * size + d) * size + p) * size + q) * x.at(o / (out / groups) * in + c, time, row, column);
                  }
            y.at(o, a, i, j) = sum;
          }
    return y;
  }
  Volume norm(Volume x, const std::string& scope) const {
    const auto size = static_cast<size_t>(x.t * x.h * x.w);
    for (size_t i = 0; i < x.v.size(); ++i) {
      const auto c = static_cast<int64_t>(i / size);
      x.v[i] = (x.v[i] - w_.get(scope + ".mean", c)) / std::sqrt(w_.get(scope + ".variance", c) + 1e-5) * w_.get(scope + ".weight", c) + w_.get(scope + ".bias", c);
    }
    return x;
  }
  static Volume relu(Volume x) {
    for (double& v : x.v) v = std::max(v, 0.0);
    return x;
  }
  static Volume sum(Volume x, const Volume& y) {
    EXPECT_EQ(x.v.size(), y.v.size());
    for (size_t i = 0; i < x.v.size(); ++i) x.v[i] += y.v[i];
    return x;
  }
  Volume stem(const Volume& x) const {
    const Volume y = relu(norm(conv(x, "stem", 1, 2), "stem.norm"));
    Volume z{y.c, halved(y.t, 3, 2, 1), halved(y.h, 3, 2, 1), halved(y.w, 3, 2, 1)};
    for (int64_t c = 0; c < z.c; ++c)
      for (int64_t a = 0; a < z.t; ++a)
        for (int64_t i = 0; i < z.h; ++i)
          for (int64_t j = 0; j < z.w; ++j)
            for (int64_t n = 0; n < 27; ++n) {
              const int64_t time = 2 * a + n / 9 - 1, row = 2 * i + n / 3 % 3 - 1, column = 2 * j + n % 3 - 1;
              if (y.inside(time, row, column)) z.at(c, a, i, j) = std::max(z.at(c, a, i, j), y.at(c, time, row, column));  // all are positive
            }
    return z;
  }

  Volume shortcut(const Volume& x, const std::string& scope, int64_t out, int64_t stride) const {
    if (stride == 1 && x.c == out) return x;
    if (w_.has(scope + ".shortcut.conv.weight")) return norm(conv(x, scope + ".shortcut.conv", stride, stride), scope + ".shortcut.norm");
    Volume y{out, (x.t + stride - 1) / stride, (x.h + stride - 1) / stride, (x.w + stride - 1) / stride};
    for (int64_t c = 0; c < x.c; ++c)
      for (int64_t a = 0; a < y.t; ++a)
        for (int64_t i = 0; i < y.h; ++i)
          for (int64_t j = 0; j < y.w; ++j) y.at(c, a, i, j) = x.at(c, a * stride, i * stride, j * stride);
    return y;
  }
  Volume basic(const Volume& x, const std::string& s, int64_t stride) const {
    const Volume y = relu(norm(conv(x, s + ".conv1", stride, stride), s + ".norm1")), z = norm(conv(y, s + ".conv2", 1, 1), s + ".norm2");
    return relu(sum(z, shortcut(x, s, z.c, stride)));
  }
  Volume bottleneck(const Volume& x, const std::string& s, int64_t stride) const {
    const Volume y = relu(norm(conv(x, s + ".conv1", 1, 1), s + ".norm1")), m = relu(norm(conv(y, s + ".conv2", stride, stride, groups_), s + ".norm2"));
    const Volume z = norm(conv(m, s + ".conv3", 1, 1), s + ".norm3");
    return relu(sum(z, shortcut(x, s, z.c, stride)));
  }
  Volume before_activation(const Volume& x, const std::string& s, int64_t stride) const {
    const Volume y = conv(relu(norm(x, s + ".norm1")), s + ".conv1", 1, 1), m = conv(relu(norm(y, s + ".norm2")), s + ".conv2", stride, stride);
    const Volume z = conv(relu(norm(m, s + ".norm3")), s + ".conv3", 1, 1);
    return sum(z, shortcut(x, s, z.c, stride));
  }
  Volume dense(const Volume& x, const std::string& s) const {
    const Volume y = conv(relu(norm(x, s + ".reduce.norm")), s + ".reduce", 1, 1), z = conv(relu(norm(y, s + ".spatial.norm")), s + ".spatial", 1, 1);
    Volume both{x.c + z.c, x.t, x.h, x.w, x.v};
    both.v.insert(both.v.end(), z.v.begin(), z.v.end());
    return both;
  }
  Volume transition(const Volume& x, const std::string& s) const {
    const Volume y = conv(relu(norm(x, s + ".transition.norm")), s + ".transition", 1, 1);
    EXPECT_EQ(y.c, x.c / 2);
    Volume z{y.c, y.t / 2, y.h / 2, y.w / 2};
    for (int64_t c = 0; c < z.c; ++c)
      for (int64_t a = 0; a < z.t; ++a)
        for (int64_t i = 0; i < z.h; ++i)
          for (int64_t j = 0; j < z.w; ++j)
            for (int64_t n = 0; n < 8; ++n) z.at(c, a, i, j) += y.at(c, 2 * a + n / 4, 2 * i + n / 2 % 2, 2 * j + n % 2) / 8;
    return z;
  }
  std::vector<double> head(const Volume& x) const {
    const Tensor& k = w_["head.weight"];
    std::vector<double> y(static_cast<size_t>(k.shape()[0]));
    const auto size = static_cast<size_t>(x.t * x.h * x.w);
    for (size_t o = 0; o < y.size(); ++o) {
      y[o] = w_.get("head.bias", static_cast<int64_t>(o));
      for (size_t i = 0; i < x.v.size(); ++i) y[o] += x.v[i] / static_cast<double>(size) * k.get(static_cast<int64_t>(o) * x.c + static_cast<int64_t>(i / size));
    }
    return y;
  }

  const Weights& w_;
  int64_t groups_;
};

std::vector<double> expected(const std::string& name, const Weights& w, const Volume& clip, const std::vector<int64_t>& depths) {
  const Video net(w, name.starts_with("resnext") ? 32 : 1);
  Volume x = net.stem(clip);
  for (size_t stage = 0; stage < depths.size(); ++stage) {
    if (name.starts_with("dense") && stage > 0) x = net.transition(x, "stages." + std::to_string(stage));
    for (int64_t i = 0; i < depths[stage]; ++i) {
      const std::string s = fmt::format("stages.{}.{}.{}", stage, name.starts_with("dense") ? "layers" : "blocks", i);
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      x = name.starts_with("dense") ? net.dense(x, s) : name.starts_with("preact") ? net.before_activation(x, s, stride) : name.ends_with("_18") ? net.basic(x, s, stride) : net.bottleneck(x, s, stride);
    }
  }
  if (name.starts_with("dense")) x = Video::relu(net.norm(x, "head.norm"));
  return net.head(x);
}

TEST(Resnet3d, EqualsFloat64OnOddClips) {
  struct Form {
    std::string name;
    Shape input;
    std::map<std::string, std::string> more = {};
    double width = 0.125;
  };
  for (const Form& f : {Form{"resnet3d_18", {3, 5, 17, 22}}, Form{"resnet3d_18", {1, 8, 16, 16}, {{"shortcut", "B"}}}, Form{"resnet3d_18", {3, 1, 13, 13}}, Form{"resnet3d_50", {3, 6, 19, 12}},
                        Form{"resnet3d_50", {2, 7, 11, 14}, {{"shortcut", "A"}}}, Form{"preact_resnet3d_200", {3, 5, 18, 15}}, Form{"wide_resnet3d_50", {3, 4, 14, 13}},
                        Form{"resnext3d_101", {3, 5, 12, 13}, {}, 0.25}, Form{"densenet3d_121", {3, 9, 35, 34}}}) {
    const std::string text = f.name + to_string(f.input);
    const std::vector<int64_t> depths = {1, 2, 1};
    Graph g = build_model(f.name, {.classes = 6, .input = f.input, .width = f.width, .depths = depths, .more = f.more});
    randomize(g, 12);
    const Weights w(g);
    Shape shape = f.input;
    shape.insert(shape.begin(), 2);
    specialize(g, {{"input", shape}});
    const Tensor clips = random_tensor(DType::kF32, shape, 3), y = reference::run_graph(g, {clips})[0];
    ASSERT_EQ(y.shape(), (Shape{2, 6})) << text;
    for (int64_t n = 0; n < 2; ++n) {
      Volume clip{shape[1], shape[2], shape[3], shape[4]};
      for (size_t i = 0; i < clip.v.size(); ++i) clip.v[i] = clips.get(n * static_cast<int64_t>(clip.v.size()) + static_cast<int64_t>(i));
      const std::vector<double> e = expected(f.name, w, clip, depths);
      double largest = 0;
      for (double v : e) largest = std::max(largest, std::abs(v));
      for (int64_t i = 0; i < 6; ++i) EXPECT_NEAR(y.get(n * 6 + i), e[static_cast<size_t>(i)], 1e-5 * largest) << text;
    }
  }
}

TEST(Resnet3d, TheEngineGivesTheSame) {
  for (const char* name : {"resnet3d_10", "resnet3d_50", "preact_resnet3d_200", "wide_resnet3d_50", "resnext3d_101", "densenet3d_121"}) {
    Graph g = build_model(name, {.classes = 8, .input = {3, 9, 35, 34}, .width = 0.25, .depths = {1, 1, 1, 1}});
    randomize(g, 13);
    specialize(g, {{"input", {2, 3, 9, 35, 34}}});
    compare(g, name);
  }
}

TEST(Resnet3d, ShortcutAHasNoParameters) {
  const Graph g = build_model("resnet3d_34", {.draw = false});
  for (ValueId v : parameters_of(g).trained) EXPECT_EQ(g[v].name.find("shortcut"), std::string::npos) << g[v].name;
  EXPECT_TRUE(parameters_of(g).frozen.empty());
}

// 32×32 pictures of one frame and of sixteen, a quarter of the width: the form that the page trains.
TEST(Resnet3d, TheLastPoolTakesWhatIsThere) {
  for (int64_t frames : {1, 16}) {
    const Graph g = build_model("resnet3d_10", {.classes = 8, .input = {3, frames, 32, 32}, .width = 0.25});
    EXPECT_EQ((*g[g.outputs[0]].shape)[1], 8);
    EXPECT_EQ(count_model(g).parameters, count_model(build_model("resnet3d_10", {.classes = 8, .width = 0.25})).parameters);
  }
}

TEST(Resnet3d, WhatCannotBeBuiltIsNamed) {
  EXPECT_THAT(error_of("resnet3d_18", {.input = {3, 112, 112}}), HasSubstr("an input of [3, 112, 112] where [3, 16, 112, 112] is meant"));
  EXPECT_THAT(error_of("resnet3d_18", {.input = {3, 0, 112, 112}}), HasSubstr("[3, 0, 112, 112]"));
  EXPECT_THAT(error_of("resnet3d_18", {.more = {{"shortcut", "C"}}}), HasSubstr("shortcut=C is none of A, B"));
  EXPECT_THAT(error_of("resnet3d_18", {.depths = {1, 1}, .widths = {64, 32}}), HasSubstr("shortcut A of 64 to 32 channels"));
  EXPECT_THAT(error_of("densenet3d_121", {.widths = {64}}), HasSubstr("there is width"));
  EXPECT_THAT(error_of("densenet3d_121", {.more = {{"shortcut", "A"}}}), HasSubstr("no option shortcut"));
}

}  // namespace
}  // namespace lathe
