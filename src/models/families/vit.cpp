// Vision transformers with a class token, on patches of 16×16.
//   ViT: Dosovitskiy et al. 2021, An Image Is Worth 16x16 Words, section 3.1 and Table 1.
//   DeiT: Touvron et al. 2021, Training Data-Efficient Image Transformers & Distillation Through Attention, Table 1.
//   stem=convolutions: Xiao et al. 2021, Early Convolutions Help Transformers See Better, section 3.
#include <bit>

#include "models/family_options.h"
#include "models/tokens.h"

namespace lathe::family {

namespace {

struct Size {
  std::string name;
  int64_t width, heads;
  double drop_path;
  ModelCounts counts;
  std::string parameters, macs, accuracy;
};

Graph build(const Size& size, const BuildOptions& o) {
  const FamilyOptions set(size.name, o);
  if (o.depths.size() > 1 || o.widths.size() > 1) fail(ErrorKind::kUsage, "{}: one number as depth and one as width", size.name);
  const Stages stages = stages_of(size.name, o, {12}, {size.width});
  const int64_t width = stages.widths[0], patch = set.integers("patch", {16}, 1, 1)[0], heads = set.integers("heads", {size.heads}, 1, 1)[0];
  const double dropout = set.number("dropout", 0, 0, 0.99), drop_path = set.number("drop_path", size.drop_path, 0, 0.99);
  for (size_t axis : {1, 2})
    if (o.input[axis] % patch != 0)
      fail(ErrorKind::kUsage, "{}: an input of {} is not made of patches of {}×{}", size.name, to_string(o.input), patch, patch);
  if (width % heads != 0) fail(ErrorKind::kUsage, "{}: {} channels cannot form {} heads", size.name, width, heads);
  const bool convolutions = set.choice("stem", "patches", {"patches", "convolutions"}) == "convolutions";
  if (convolutions && (!std::has_single_bit(static_cast<uint64_t>(patch)) || width % std::max<int64_t>(patch / 2, 1) != 0))
    fail(ErrorKind::kUsage, "{}: convolutions by steps of 2 make patches of a power of 2, and {} channels to halve for each step but one, not patch={}", size.name, width, patch);
  Builder b(size.name, o);
  b.conv_init = b.linear_init = transformer_init(set);
  const auto norm = [&](const std::string& name, ValueId x) {
    auto scope = b.scope(name);
    return b.layer_norm(x, 1e-6);
  };
  const auto linear = [&](const std::string& name, ValueId x, int64_t out) {
    auto scope = b.scope(name);
    return b.linear(x, out);
  };
  ValueId x = b.input(o.input);
  x = patch_tokens(b, x, {.patch = patch, .width = width, .dropout = dropout, .convolutions = convolutions});
  const int64_t depth = stages.depths[0];
  for (int64_t i = 0; i < depth; ++i) {
    auto scope = b.scope(fmt::format("blocks.{}", i));
    const auto branch = [&](ValueId y) {
      return b.add(x, depth > 1 ? b.drop_path(y, drop_path * static_cast<double>(i) / static_cast<double>(depth - 1)) : y);
    };
    const ValueId normed = norm("norm1", x);
    {
      auto attention = b.scope("attention");
      x = branch(b.dropout(b.self_attention(normed, heads, true, true), dropout));
    }
    ValueId y = norm("norm2", x);
    {
      auto mlp = b.scope("mlp");
      y = b.dropout(b.gelu(linear("fc1", y, 4 * width)), dropout);
      y = b.dropout(linear("fc2", y, width), dropout);
    }
    x = branch(y);
  }
  x = norm("norm", x);
  x = b.op("Gather", {x, b.index(0)}, {{"axis", int64_t{1}}});
  return b.finish({linear("head", x, o.classes)});
}

}  // namespace

std::vector<ModelEntry> vit() {
  std::vector<ModelEntry> list;
  // MACs with both products of attention, as fvcore counts them.
  for (const Size& s : {Size{"vit_s_16", 384, 6, 0, {22'050'664, 0, 4'598'882'304}, "", "", ""},
                        Size{"vit_b_16", 768, 12, 0, {86'567'656, 0, 17'563'828'224}, "86M", "17.56G", "81.1 %"},
                        Size{"deit_tiny", 192, 3, 0.1, {5'717'416, 0, 1'253'683'200}, "5M", "", "72.2 %"},
                        Size{"deit_small", 384, 6, 0.1, {22'050'664, 0, 4'598'882'304}, "22M", "", "79.8 %"},
                        Size{"deit_base", 768, 12, 0.1, {86'567'656, 0, 17'563'828'224}, "86M", "", "81.8 %"}}) {
    const bool deit = s.name[0] == 'd';
    ModelEntry m{.name = s.name,
                 .family = "standard",
                 .source = deit ? "Touvron et al. 2021, Training Data-Efficient Image Transformers & Distillation Through Attention"
                                : "Dosovitskiy et al. 2021, An Image Is Worth 16x16 Words (MACs and accuracy: torchvision)",
                 .input = {3, 224, 224},
                 .counts = s.counts,
                 .published_parameters = s.parameters,
                 .published_macs = s.macs,
                 .published_accuracy = s.accuracy,
                 .options = {"patch: size of the patches", "heads: of attention", "dropout: its rate, in training",
                             "drop_path: the rate of the last block, in training",
                             "stem: patches as published, or convolutions of 3×3 by steps of 2 (Xiao et al. 2021: learns faster; take a block less)", kInitOption}};
    if (s.width == 768) m.parameters_note = "the paper counts them without the head";
    if (s.width == 192) m.parameters_note = "the paper's figure is rounded down";
    m.build = [s](const BuildOptions& o) { return build(s, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
