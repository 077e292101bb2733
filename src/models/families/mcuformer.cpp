// Liang et al. 2023, MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory: a ViT whose products are of low rank,
// with heads 64 wide and relative positions (the authors' code: model/supernet_transformer.py).
#include "models/family_options.h"
#include "models/tokens.h"

namespace lathe::family {

namespace {

constexpr int64_t kHead = 64;           // channels of a head, whatever the width
constexpr int64_t kSuperWidth = 256;    // of the supernet, which ranks of attention follow
constexpr int64_t kFarthest = 14;       // rows and columns that relative positions tell apart, either way

struct Form {
  int64_t width, depth, heads, patch;
  double mlp, rank;
  bool three, relative, mean;
};

// in → rank → out, or in → out for rank 0; with three factors in → rank → rank → out. No bias but at the end.
ValueId low_rank_linear(Builder& b, const std::string& name, ValueId x, int64_t out, int64_t rank, bool three) {
  auto scope = b.scope(name);
  if (rank == 0) return b.linear(x, out);
  const auto factor = [&](const char* which, ValueId from, int64_t to, bool bias) {
    auto inner = b.scope(which);
    return b.linear(from, to, bias);
  };
  x = factor("inner", x, rank, false);
  if (three) x = factor("middle", x, rank, false);
  return factor("outer", x, out, true);
}

// Table [2·farthest + 2, 64] by the distance between two tokens along one axis, as [T, T] entries: 0 for the class token.
Tensor distances(int64_t rows, int64_t columns, bool vertical) {
  const int64_t count = rows * columns + 1;
  Tensor t(DType::kI64, {count, count});
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < count; ++j) {
      const auto place = [&](int64_t token) { return vertical ? (token - 1) / columns : (token - 1) % columns; };
      t.data<int64_t>()[i * count + j] = i == 0 || j == 0 ? 0 : std::clamp(place(j) - place(i), -kFarthest, kFarthest) + kFarthest + 1;
    }
  return t;
}

// [T, T, 64]: of the vertical and the horizontal table, added.
ValueId relative(Builder& b, const std::string& name, int64_t rows, int64_t columns) {
  const auto part = [&](const char* axis, bool vertical) {
    const ValueId table = b.parameter(name + "_" + axis, {2 * kFarthest + 2, kHead}, Init::truncated(0.02));
    return b.op("Gather", {table, b.graph().add_constant(distances(rows, columns, vertical))});
  };
  return b.add(part("vertical", true), part("horizontal", false));
}

ValueId attention(Builder& b, ValueId x, const Form& f, int64_t rows, int64_t columns) {
  const int64_t tokens = b.shape(x)[1], inner = kHead * f.heads, rank = static_cast<int64_t>(static_cast<double>(kSuperWidth) * f.rank + 1e-9);
  const ValueId all = b.transpose(b.reshape(low_rank_linear(b, "qkv", x, 3 * inner, rank, f.three), {0, tokens, 3, f.heads, kHead}), {2, 0, 3, 1, 4});
  const auto part = [&](int64_t i) { return b.op("Gather", {all, b.index(i)}, {{"axis", int64_t{0}}}); };
  const ValueId query = b.mul(part(0), b.literal(0.125));  // 1/√64
  ValueId scores = b.op("MatMul", {query, b.transpose(part(1), {0, 1, 3, 2})});
  const auto unsqueezed = [&](ValueId v) { return b.op("Unsqueeze", {v, b.graph().add_constant(Tensor::of_i64({3}))}); };
  const auto squeezed = [&](ValueId v) { return b.op("Squeeze", {v, b.graph().add_constant(Tensor::of_i64({3}))}); };
  // A row of queries by a matrix of its own: s_ij += q_i · r_ij.
  if (f.relative) scores = b.add(scores, squeezed(b.op("MatMul", {unsqueezed(query), b.transpose(relative(b, "key", rows, columns), {0, 2, 1})})));
  const ValueId weights = b.op("Softmax", {scores}, {{"axis", int64_t{-1}}});
  ValueId mixed = b.op("MatMul", {weights, part(2)});
  if (f.relative) mixed = b.add(mixed, squeezed(b.op("MatMul", {unsqueezed(weights), relative(b, "value", rows, columns)})));
  return low_rank_linear(b, "projection", b.reshape(b.transpose(mixed, {0, 2, 1, 3}), {0, tokens, inner}), f.width, rank, f.three);
}

Graph build(const BuildOptions& o) {
  const FamilyOptions set("mcuformer", o);
  if (o.depths.size() > 1 || o.widths.size() > 1) fail(ErrorKind::kUsage, "mcuformer: one number as depth and one as width");
  const Stages stages = stages_of("mcuformer", o, {12}, {192});
  const Form f{stages.widths[0], stages.depths[0], set.integers("heads", {3}, 1, 1)[0], set.integers("patch", {16}, 1, 1)[0], set.number("mlp", 4, 0.1, 16), set.number("rank", 0, 0, 1),
               set.flag("three", false), set.flag("relative", true), set.flag("mean", false)};
  const int64_t padding = f.patch == 32 ? 8 : f.patch == 28 ? 6 : 0;
  for (size_t axis : {1, 2})
    if ((o.input[axis] + 2 * padding) % f.patch != 0) fail(ErrorKind::kUsage, "mcuformer: an input of {} with {} around it is not made of patches of {}×{}", to_string(o.input), padding, f.patch, f.patch);
  const double drop_path = set.number("drop_path", 0.1, 0, 0.99);
  Builder b("mcuformer", o);
  b.conv_init = {Init::Kind::kUniformIn};
  b.linear_init = transformer_init(set);
  ValueId x = b.input(o.input);
  const int64_t rows = (o.input[1] + 2 * padding) / f.patch, columns = (o.input[2] + 2 * padding) / f.patch;
  x = patch_tokens(b, x, {.patch = f.patch, .pad = padding, .width = f.width});
  const auto norm = [&](const std::string& name, ValueId v) {
    auto scope = b.scope(name);
    return b.layer_norm(v, 1e-5);
  };
  const auto hidden = static_cast<int64_t>(static_cast<double>(f.width) * f.mlp + 1e-9);
  const auto mlp_rank = static_cast<int64_t>(static_cast<double>(std::min(f.width, hidden)) * f.rank + 1e-9);
  for (int64_t i = 0; i < f.depth; ++i) {
    auto scope = b.scope(fmt::format("blocks.{}", i));
    const auto branch = [&](ValueId y) { return b.add(x, f.depth > 1 ? b.drop_path(y, drop_path * static_cast<double>(i) / static_cast<double>(f.depth - 1)) : y); };
    const ValueId normed = norm("norm1", x);
    {
      auto inner = b.scope("attention");
      x = branch(attention(b, normed, f, rows, columns));
    }
    ValueId y = norm("norm2", x);
    {
      auto inner = b.scope("mlp");
      y = low_rank_linear(b, "fc2", b.gelu(low_rank_linear(b, "fc1", y, hidden, mlp_rank, f.three)), f.width, mlp_rank, f.three);
    }
    x = branch(y);
  }
  x = norm("norm", x);
  if (f.mean) {
    // Of the patches, without the class token.
    const auto list = [&](int64_t v) { return b.graph().add_constant(Tensor::of_i64({v})); };
    x = b.op("Slice", {x, list(1), list(rows * columns + 1), list(1)});
    x = b.op("ReduceMean", {x, list(1)}, {{"keepdims", int64_t{0}}});
  } else {
    x = b.op("Gather", {x, b.index(0)}, {{"axis", int64_t{1}}});
  }
  auto scope = b.scope("head");
  return b.finish({b.linear(x, o.classes)});
}

// Counts of a subnet, with and without relative positions; MACs are told of the latter alone, as its products with them are counted in no figure.
void add_variants(ModelEntry& m, const std::string& name, int64_t width, int64_t depth, int64_t heads, const std::string& mlp, const std::string& patch, const std::string& rank, bool three,
                  int64_t parameters, int64_t macs) {
  BuildOptions o;
  o.widths = {width};
  o.depths = {depth};
  o.more = {{"heads", std::to_string(heads)}, {"mlp", mlp}, {"patch", patch}, {"rank", rank}, {"three", three ? "1" : "0"}};
  m.variants.push_back({name, o, {parameters, 0, 0}});
  o.more["relative"] = "0";
  // Four tables of 30×64 a block.
  m.variants.push_back({name + ", no relative positions", o, {parameters - depth * 4 * (2 * kFarthest + 2) * kHead, 0, macs}});
}

}  // namespace

std::vector<ModelEntry> mcuformer() {
  ModelEntry m{.name = "mcuformer",
               .family = "mcuformer",
               .source = "Liang et al. 2023, MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
               .input = {3, 240, 240},
               .counts = {5'815'144, 0, 1'703'788'032},
               .published_accuracy = "73.62 % (the found subnet)",
               .options = {kInitOption, "rank: of each product, as a part of the full one; 0: whole", "three: 1 for three factors, as the authors train them", "heads: of 64 channels each", "mlp: hidden channels to those of the tokens",
                           "patch: size of the patches (28 and 32 stand on pictures with a frame of 6 and 8)", "relative: 0 without relative positions", "mean: 1 for the mean of the patches in the place of the class token",
                           "drop_path: the rate of the last block, in training"},
               .build = build};
  struct Subnet {
    int64_t width, depth, heads;
    const char *mlp, *patch;
    int64_t whole[2], three[2], folded[2], wide[2];
  };
  // Parameters and MACs: whole; rank 0.4 in three factors; the middle one folded; rank 0.9, folded.
  for (const Subnet& s : {Subnet{168, 12, 3, "3.5", "16", {4'373'992, 1'150'274'112}, {3'379'264, 925'465'584}, {3'021'832, 844'685'952}, {6'241'672, 1'572'369'792}},
                          Subnet{192, 12, 3, "4", "16", {5'815'144, 1'468'429'824}, {4'056'136, 1'070'894'016}, {3'667'816, 983'133'696}, {7'649'128, 1'882'910'208}},
                          Subnet{192, 12, 3, "4", "32", {6'226'600, 402'456'576}, {4'467'592, 288'121'056}, {4'079'272, 262'880'256}, {8'060'584, 521'665'536}},
                          Subnet{216, 14, 4, "4", "20", {8'978'944, 1'394'944'960}, {5'835'104, 939'088'160}, {5'336'704, 866'820'160}, {11'211'776, 1'718'705'600}}}) {
    const std::string name = fmt::format("width {}, depth {}, {} heads, mlp {}, patches of {}", s.width, s.depth, s.heads, s.mlp, s.patch);
    add_variants(m, name, s.width, s.depth, s.heads, s.mlp, s.patch, "0", false, s.whole[0], s.whole[1]);
    add_variants(m, name + ", rank 0.4 in three", s.width, s.depth, s.heads, s.mlp, s.patch, "0.4", true, s.three[0], s.three[1]);
    add_variants(m, name + ", rank 0.4", s.width, s.depth, s.heads, s.mlp, s.patch, "0.4", false, s.folded[0], s.folded[1]);
    add_variants(m, name + ", rank 0.9", s.width, s.depth, s.heads, s.mlp, s.patch, "0.9", false, s.wide[0], s.wide[1]);
  }
  return {m};
}

}  // namespace lathe::family
