// NASNet-A against float64 code written from the tables of the paper and of tensorflow/models; cells of the whole space; drop path's
// rates and the auxiliary head.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"
#include "graph/op.h"
#include "models/cell.h"
#include "same_padding.h"

namespace lathe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

// The network, with maps of its own for each state: nothing of src/models/cell.cpp.
class Nasnet {
 public:
  Nasnet(const Weights& w, int64_t filters, double epsilon, bool skip_reduction) : w_(w), filters_(filters), epsilon_(epsilon), skip_(skip_reduction) {}

  Map cifar(const Map& x, int64_t cells) {
    std::vector<Map> outputs{norm(conv(same(x, 3, 1), w_, "stem"), "stem.norm")};
    return body(std::move(outputs), cells);
  }
  Map imagenet(const Map& x, int64_t cells) {
    std::vector<Map> outputs{norm(conv(x, w_, "stem", 2), "stem.norm")};
    outputs.push_back(reduction(outputs[0], nullptr, filters_ / 4));
    outputs.push_back(reduction(outputs[1], &outputs[0], filters_ / 2));
    return body(std::move(outputs), cells);
  }

 private:
  Map body(std::vector<Map> outputs, int64_t cells) {
    int64_t f = filters_;
    for (int64_t i = 0; i < cells; ++i) {
      const size_t before = outputs.size();
      if (i == cells / 3 || i == cells * 2 / 3) {
        f *= 2;
        const Map reduced = reduction(outputs[before - 1], before > 1 ? &outputs[before - 2] : nullptr, f);
        outputs.push_back(reduced);
      }
      // Of what stood before a reduction of this turn, or of what it took.
      const size_t previous = skip_ ? before - 2 : outputs.size() - 2;
      const Map made = normal(outputs.back(), outputs.size() > 1 ? &outputs[previous] : nullptr, f);
      outputs.push_back(made);
    }
    return linear(mean(relu(outputs.back())), w_, "head", true);
  }

  static Map relu(const Map& x) {
    return each(x, [](double v) { return std::max(v, 0.0); });
  }
  Map norm(const Map& x, const std::string& scope) const { return batch_norm(x, w_, scope, epsilon_); }
  Map one(const Map& x, const std::string& scope) const { return norm(conv(x, w_, scope), scope + ".norm"); }

  Map separable(Map x, const std::string& scope, int64_t kernel, int64_t stride) const {
    for (const char* turn : {".0", ".1"}) {
      x = relu(x);
      x = conv(same(x, kernel, stride), w_, scope + turn + ".depthwise", stride, 0, x.c);
      x = one(x, scope + turn + ".pointwise");
      stride = 1;
    }
    return x;
  }
  Map pooled(const Map& x, const std::string& scope, int64_t f, int64_t stride, bool maximum) const {
    const Map y = maximum ? max_same(x, 3, stride) : average_same(x, 3, stride);
    return y.c == f ? y : one(y, scope + ".project");
  }
  Map identity(const Map& x, const std::string& scope, int64_t f) const { return x.c == f ? x : one(relu(x), scope + ".project"); }

  Map factorized(const Map& x, const std::string& scope) const {
    const int64_t h = (x.h + 1) / 2, w = (x.w + 1) / 2;
    Map even(x.c, h, w), odd(x.c, h, w);
    for (int64_t c = 0; c < x.c; ++c)
      for (int64_t i = 0; i < h; ++i)
        for (int64_t j = 0; j < w; ++j) {
          even.at(c, i, j) = x.at(c, 2 * i, 2 * j);
          odd.at(c, i, j) = 2 * i + 1 < x.h && 2 * j + 1 < x.w ? x.at(c, 2 * i + 1, 2 * j + 1) : 0;
        }
    return beside({one(even, scope + ".path1"), one(odd, scope + ".path2")});
  }
  // h1, as wide and as large as the cell wants it.
  Map fitted(const Map& net, const Map* previous, int64_t f) const {
    if (!previous) return net;
    if (previous->h != net.h || previous->w != net.w) return factorized(relu(*previous), scope_ + ".previous");
    return previous->c == f ? *previous : one(relu(*previous), scope_ + ".previous.conv");
  }

  Map normal(const Map& net, const Map* previous, int64_t f) {
    scope_ = "cells." + std::to_string(cell_++);
    const Map h1 = fitted(net, previous, f), h0 = one(relu(net), scope_ + ".begin");
    const auto at = [&](const std::string& name) { return scope_ + ".states." + name; };
    const Map h2 = plus(separable(h0, at("2.left.sep5"), 5, 1), separable(h1, at("2.right.sep3"), 3, 1));
    const Map h3 = plus(separable(h1, at("3.left.sep5"), 5, 1), separable(h1, at("3.right.sep3"), 3, 1));
    const Map h4 = plus(pooled(h0, at("4.left.avg3"), f, 1, false), identity(h1, at("4.right.id"), f));
    const Map h5 = plus(pooled(h1, at("5.left.avg3"), f, 1, false), pooled(h1, at("5.right.avg3"), f, 1, false));
    const Map h6 = plus(separable(h0, at("6.left.sep3"), 3, 1), h0);
    return beside({h1.c == f ? h1 : one(h1, scope_ + ".output.1.path"), h2, h3, h4, h5, h6});
  }
  Map reduction(const Map& net, const Map* previous, int64_t f) {
    scope_ = "cells." + std::to_string(cell_++);
    const Map h1 = fitted(net, previous, f), h0 = one(relu(net), scope_ + ".begin");
    const auto at = [&](const std::string& name) { return scope_ + ".states." + name; };
    const Map h2 = plus(separable(h0, at("2.left.sep5"), 5, 2), separable(h1, at("2.right.sep7"), 7, 2));
    const Map h3 = plus(pooled(h0, at("3.left.max3"), f, 2, true), separable(h1, at("3.right.sep7"), 7, 2));
    const Map h4 = plus(pooled(h0, at("4.left.avg3"), f, 2, false), separable(h1, at("4.right.sep5"), 5, 2));
    const Map h5 = plus(h3, pooled(h2, at("5.right.avg3"), f, 1, false));
    const Map h6 = plus(separable(h2, at("6.left.sep3"), 3, 1), pooled(h0, at("6.right.max3"), f, 2, true));
    return beside({h3, h4, h5, h6});
  }

  const Weights& w_;
  int64_t filters_;
  double epsilon_;
  bool skip_;
  int64_t cell_ = 0;
  std::string scope_;
};

// Odd and even sides: they tell apart what a factorized reduction and padding leave out.
TEST(Nasnet, EqualsFloat64OnOddAndEvenSides) {
  for (const Shape& input : {Shape{3, 7, 7}, Shape{1, 8, 8}, Shape{3, 28, 28}, Shape{2, 31, 31}, Shape{3, 9, 14}}) {
    Graph g = build_model("nasnet_a_cifar", {.classes = 5, .input = input, .depths = {5}, .widths = {4}});
    randomize(g, 3);
    const Weights w(g);
    expect_same(g, [&](const Map& x) { return Nasnet(w, 4, 1e-5, false).cifar(x, 5); }, to_string(input));
  }
}

TEST(Nasnet, TheStemOfLargePicturesEqualsFloat64) {
  for (const Shape& input : {Shape{3, 31, 31}, Shape{3, 40, 28}}) {
    for (const char* name : {"nasnet_a_mobile", "nasnet_a_large"}) {
      Graph g = build_model(name, {.classes = 5, .input = input, .depths = {4}, .widths = {8}});
      randomize(g, 4);
      const Weights w(g);
      expect_same(g, [&](const Map& x) { return Nasnet(w, 8, 1e-3, std::string(name) == "nasnet_a_large").imagenet(x, 4); }, std::string(name) + to_string(input));
    }
  }
}

TEST(Nasnet, TheEngineGivesTheSame) {
  for (const char* name : {"nasnet_a_cifar", "nasnet_a_mobile"}) {
    Graph g = build_model(name, {.classes = 10, .input = {3, 35, 32}, .depths = {4}, .widths = {12}});
    randomize(g, 5);
    specialize(g, {{"input", {1, 3, 35, 32}}});
    compare(g, name);
  }
}

TEST(Nasnet, TheAuxiliaryHeadCountsApart) {
  const auto parameters = [](const char* name, bool training) { return count_model(build_model(name, {.training = training, .draw = false})).parameters; };
  EXPECT_EQ(parameters("nasnet_a_mobile", true) - parameters("nasnet_a_mobile", false), 2'411'240);
  EXPECT_EQ(parameters("nasnet_a_large", true) - parameters("nasnet_a_large", false), 4'567'784);
  EXPECT_EQ(parameters("nasnet_a_cifar", true) - parameters("nasnet_a_cifar", false), 1'631'498);
  EXPECT_EQ(build_model("nasnet_a_cifar", {.training = true, .draw = false}).outputs.size(), 2u);
}

// Rates of DropPath by cell, and how many each has.
std::map<int64_t, std::pair<double, int>> rates_of(const Graph& g) {
  std::map<int64_t, std::pair<double, int>> rates;
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (n.op->name != "DropPath") continue;
    EXPECT_TRUE(n.scope.starts_with("cells.")) << n.scope;
    auto& [rate, count] = rates[std::stoll(n.scope.substr(6))];
    EXPECT_TRUE(count == 0 || rate == n.get_float("rate")) << n.scope;
    rate = n.get_float("rate");
    ++count;
  }
  return rates;
}

bool scheduled_in(const Graph& g) {
  const std::vector<NodeId> nodes = g.order();
  return std::any_of(nodes.begin(), nodes.end(), [&](NodeId id) { return g[id].op->name == "DropPath" && g[id].get_int("scheduled") != 0; });
}

TEST(Nasnet, DropPathKeepsWhatTheScheduleSays) {
  const Graph g = build_model("nasnet_a_cifar", {.depths = {6}, .widths = {4}, .training = true});
  const auto rates = rates_of(g);
  const int64_t total = 8;  // six cells and two reductions
  ASSERT_EQ(rates.size(), 8u);
  for (const auto& [cell, told] : rates)
    for (double progress : {0.0, 0.5, 1.0}) {
      const double p = 0.6, layer = static_cast<double>(cell + 1) / static_cast<double>(total);
      const double keep = 1 - progress * (1 - (1 - layer * (1 - p)));
      EXPECT_NEAR(1 - progress * told.first, keep, 1e-6) << cell << " at " << progress;
    }
  // All operations but the identities.
  for (const auto& [cell, told] : rates) EXPECT_EQ(told.second, cell == 2 || cell == 5 ? 9 : 8) << cell;
  EXPECT_TRUE(scheduled_in(g));

  EXPECT_EQ(rates_of(build_model("nasnet_a_mobile", {.training = true, .draw = false})).size(), 0u);
  const auto large = rates_of(build_model("nasnet_a_large", {.training = true, .draw = false}));
  ASSERT_EQ(large.size(), 22u);
  EXPECT_NEAR(large.at(0).first, 0.3 / 22, 1e-6);
  EXPECT_NEAR(large.at(21).first, 0.3, 1e-6);
  const Graph constant = build_model("nasnet_a_cifar", {.depths = {3}, .widths = {4}, .more = {{"drop_path", "constant"}, {"keep", "0.75"}}, .training = true});
  EXPECT_NEAR(rates_of(constant).at(4).first, 0.25, 1e-6);
  EXPECT_FALSE(scheduled_in(constant));
  EXPECT_EQ(rates_of(build_model("nasnet_a_cifar", {.depths = {3}, .widths = {4}, .more = {{"drop_path", "none"}}, .training = true})).size(), 0u);
}

TEST(Cells, OfTheWholeSpaceAreBuilt) {
  // The second cell of DARTS (Liu et al. 2018), whose state 0 is our 1; then every operation, at stride 1 and 2, both joins.
  std::string every = "id:0+avg3:1";
  for (const std::string& op : cell_operations()) every += fmt::format(" {}:0&{}:1 {}:{}+conv1:0", op, op, op, 2);
  const std::map<std::string, std::string> darts = {{"normal", "sep3:1+sep3:0 sep3:1+sep3:0 sep3:0+id:1 id:1+dilsep3:2 out:2,3,4,5"},
                                                    {"reduction", "max3:1+max3:0 id:2+max3:0 max3:1+id:2 id:2+max3:0 out:2,3,4,5"}};
  for (const auto& cells : {darts, std::map<std::string, std::string>{{"normal", every}, {"reduction", every}}}) {
    Graph g = build_model("nasnet_a_cifar", {.classes = 3, .input = {3, 15, 12}, .depths = {3}, .widths = {4}, .more = cells});
    randomize(g, 6);
    specialize(g, {{"input", {2, 3, 15, 12}}});
    compare(g, cells.at("normal"));
  }
}

TEST(Cells, AreReadAsTheyAreWritten) {
  const Cell cell = parse_cell("sep5:0+max7:1  id:2&conv1x7:0 avg3:3+avg3:3");
  ASSERT_EQ(cell.steps.size(), 3u);
  EXPECT_EQ(cell.steps[0].left.operation, "sep5");
  EXPECT_EQ(cell.steps[0].right.state, 1u);
  EXPECT_FALSE(cell.steps[0].concat);
  EXPECT_TRUE(cell.steps[1].concat);
  EXPECT_THAT(cell.output, ::testing::ElementsAre(4));  // what no operation reads
  EXPECT_THAT(parse_cell("sep3:0+sep3:0").output, ::testing::ElementsAre(1, 2));
}

TEST(Cells, WhatIsWrongIsNamed) {
  const auto error = [](const std::string& cell) { return error_of("nasnet_a_cifar", {.more = {{"normal", cell}}, .draw = false}); };
  EXPECT_THAT(error("sep5:0+sep3:1 avg9:0+id:1"), HasSubstr("entry avg9:0+id:1: no operation \"avg9\"; there are id, conv1,"));
  EXPECT_THAT(error("sep5:0+sep3:2"), HasSubstr("entry sep5:0+sep3:2: state 2 is not made before it; there are 0 to 1"));
  EXPECT_THAT(error("sep5:0+sep3:-1"), HasSubstr("\"-1\" is no state"));
  EXPECT_THAT(error("sep5:0+sep3:99999999999999999999999"), HasSubstr("is no state"));
  EXPECT_THAT(error("sep5:0+sep3:1 out:2,3"), HasSubstr("entry out:2,3: state 3 is never produced; there are 0 to 2"));
  EXPECT_THAT(error("sep5:0+sep3:1 out:2,"), HasSubstr("is no state"));
  EXPECT_THAT(error("sep5:0+sep3:1 out:2,2"), HasSubstr("state 2 twice"));
  EXPECT_THAT(error("sep5:0+sep3:1 id:0+id:1 out:2"), HasSubstr("state 3 is never used"));
  EXPECT_THAT(error("sep5:0+sep3:1 out:2 id:0+id:1"), HasSubstr("nothing may follow"));
  EXPECT_THAT(error("sep5:0"), HasSubstr("two operations joined by + or &"));
  EXPECT_THAT(error("sep5+sep3:1"), HasSubstr("\"sep5\" is not OPERATION:STATE"));
  EXPECT_THAT(error(""), HasSubstr("makes no state"));
  EXPECT_THAT(error_of("nasnet_a_cifar", {.depths = {2}}), HasSubstr("2 cells"));
  EXPECT_THAT(error_of("nasnet_a_cifar", {.depths = {3, 3}}), HasSubstr("2 depths"));
  EXPECT_THAT(error_of("nasnet_a_cifar", {.more = {{"keep", "0"}}}), HasSubstr("keep=0 is no number"));
  EXPECT_THAT(error_of("nasnet_a_cifar", {.more = {{"drop_path", "often"}}}), HasSubstr("drop_path=often is none of"));
  EXPECT_THAT(error_of("nasnet_a_mobile", {.input = {3, 2, 9}}), HasSubstr("the side is at least 3"));
}

}  // namespace
}  // namespace lathe
