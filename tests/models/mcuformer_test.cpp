// MCUFormer against float64 code written from the method's page: low rank, heads of 64, relative positions.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"

namespace lathe {
namespace {

using namespace testing;

Map factors(const Map& x, const Weights& w, const std::string& scope) {
  if (w.has(scope + ".weight")) return linear(x, w, scope, false);
  Map y = linear(x, w, scope + ".inner", false);
  if (w.has(scope + ".middle.weight")) y = linear(y, w, scope + ".middle", false);
  return linear(y, w, scope + ".outer", false);
}

// Of two tokens along one axis: clamp to ±14, and 15; 0 where one is the class token.
int64_t entry(int64_t i, int64_t j, int64_t columns, bool vertical) {
  if (i == 0 || j == 0) return 0;
  const int64_t from = vertical ? (i - 1) / columns : (i - 1) % columns, to = vertical ? (j - 1) / columns : (j - 1) % columns;
  return std::min<int64_t>(std::max<int64_t>(to - from, -14), 14) + 15;
}

Map attention64(const Map& x, const Weights& w, const std::string& scope, int64_t heads, int64_t columns, bool relative) {
  const Map all = factors(x, w, scope + ".qkv");
  const int64_t count = x.pixels(), inner = 64 * heads;
  const auto part = [&](int64_t which, int64_t head, int64_t t, int64_t d) { return all.at(which * inner + head * 64 + d, t, 0); };
  const auto table = [&](const char* kind, int64_t i, int64_t j, int64_t d) {
    if (!relative) return 0.0;
    const std::string name = scope + "." + kind;
    return w.get(name + "_vertical", entry(i, j, columns, true) * 64 + d) + w.get(name + "_horizontal", entry(i, j, columns, false) * 64 + d);
  };
  Map mixed(inner, count, 1);
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < count; ++i) {
      std::vector<double> score(static_cast<size_t>(count), 0.0);
      double sum = 0;
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t d = 0; d < 64; ++d) score[static_cast<size_t>(j)] += part(0, h, i, d) * (part(1, h, j, d) + table("key", i, j, d)) / 8;
        sum += score[static_cast<size_t>(j)] = std::exp(score[static_cast<size_t>(j)]);
      }
      for (int64_t d = 0; d < 64; ++d)
        for (int64_t j = 0; j < count; ++j) mixed.at(h * 64 + d, i, 0) += score[static_cast<size_t>(j)] / sum * (part(2, h, j, d) + table("value", i, j, d));
    }
  return factors(mixed, w, scope + ".projection");
}

Map whole(Map x, const Weights& w, int64_t depth, int64_t heads, int64_t patch, bool relative, bool mean_of_patches) {
  x = conv(x, w, "patches", patch);
  const int64_t columns = x.w;
  Map tokens(x.c, x.pixels() + 1, 1);
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t t = 0; t < tokens.h; ++t) tokens.at(c, t, 0) = (t == 0 ? w.get("class_token", c) : x.v[static_cast<size_t>(c * x.pixels() + t - 1)]) + w.get("positions", t * x.c + c);
  for (int64_t i = 0; i < depth; ++i) {
    const std::string scope = fmt::format("blocks.{}.", i);
    tokens = plus(tokens, attention64(pixel_norm(tokens, w, scope + "norm1", 1e-5), w, scope + "attention", heads, columns, relative));
    tokens = plus(tokens, factors(each(factors(pixel_norm(tokens, w, scope + "norm2", 1e-5), w, scope + "mlp.fc1"), gelu), w, scope + "mlp.fc2"));
  }
  tokens = pixel_norm(tokens, w, "norm", 1e-5);
  Map first(tokens.c, 1, 1);
  for (int64_t c = 0; c < tokens.c; ++c) {
    if (!mean_of_patches) first.at(c, 0, 0) = tokens.at(c, 0, 0);
    else
      for (int64_t t = 1; t < tokens.h; ++t) first.at(c, 0, 0) += tokens.at(c, t, 0) / static_cast<double>(tokens.h - 1);
  }
  return linear(first, w, "head", true);
}

BuildOptions form(const char* rank, const char* three, const char* relative, const char* mean) {
  return {.classes = 7, .input = {3, 12, 72}, .depths = {2}, .widths = {24},
          .more = {{"patch", "4"}, {"heads", "2"}, {"mlp", "3.5"}, {"rank", rank}, {"three", three}, {"relative", relative}, {"mean", mean}}};
}

TEST(McuFormer, EqualsFloat64) {
  for (const char* rank : {"0", "0.1"})
    for (const char* three : {"0", "1"})
      for (const char* relative : {"0", "1"})
        for (const char* mean : {"0", "1"}) {
          Graph g = build_model("mcuformer", form(rank, three, relative, mean));
          randomize(g, 4);
          const Weights w(g);
          expect_same(g, [&](const Map& x) { return whole(x, w, 2, 2, 4, relative[0] == '1', mean[0] == '1'); }, fmt::format("rank {}, three {}, relative {}, mean {}", rank, three, relative, mean));
        }
}

TEST(McuFormer, TheEngineGivesTheSame) {
  for (int64_t batch : {1, 3})
    for (const char* relative : {"0", "1"}) {
      Graph g = build_model("mcuformer", form("0.1", "0", relative, "1"));
      randomize(g, 5);
      specialize(g, {{"input", {batch, 3, 12, 72}}});
      compare(g, "mcuformer");
    }
}

TEST(McuFormer, WhatCannotBeBuiltIsNamed) {
  const auto refused = [](const BuildOptions& o, const char* what) { EXPECT_THAT(error_of("mcuformer", o), ::testing::HasSubstr(what)); };
  refused({.input = {3, 240, 250}}, "[3, 240, 250] with 0 around it is not made of patches of 16");
  refused({.input = {3, 240, 240}, .more = {{"patch", "30"}, {"rank", "1.5"}}}, "rank=1.5");
  refused({.depths = {2, 2}}, "one number as depth");
  EXPECT_EQ(*build_model("mcuformer", {.input = {3, 240, 240}, .more = {{"patch", "28"}}, .draw = false})[ValueId{0}].shape, (Shape{kUnknownDim, 3, 240, 240}));
}

}  // namespace
}  // namespace lathe
