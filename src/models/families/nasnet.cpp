// NASNet-A: Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition; stacked as
// tensorflow/models has it (research/slim/nets/nasnet). "N @ P": N cells between reductions, P channels before the head.
#include <algorithm>

#include "models/cell.h"
#include "models/family_options.h"

namespace lathe::family {

namespace {

// Figure 4 of the paper.
const char* const kNormal = "sep5:0+sep3:1 sep5:1+sep3:1 avg3:0+id:1 avg3:1+avg3:1 sep3:0+id:0 out:1,2,3,4,5,6";
const char* const kReduction = "sep5:0+sep7:1 max3:0+sep7:1 avg3:0+sep5:1 id:3+avg3:2 sep3:2+max3:0 out:3,4,5,6";

struct Network {
  std::string name;
  int64_t filters, cells;
  bool imagenet;        // a stem of a convolution with stride and two reduction cells, against one convolution
  int64_t stem;         // its channels are 32 (ImageNet) or `filters` (CIFAR) times this
  bool skip_reduction;  // the cell after a reduction takes what stood before the one that the reduction took
  double keep;          // of a path of the last cell at the end of training
  Shape input;
  int64_t classes;
  ModelCounts counts;
  std::string parameters, macs, accuracy;
};

int64_t one_of(const std::string& name, const char* what, const std::vector<int64_t>& given, int64_t published) {
  if (given.size() > 1) fail(ErrorKind::kUsage, "{}: {} {}, where one number is meant", name, given.size(), what);
  return given.empty() ? published : given[0];
}

// For training alone (weight 0.4): of the cell before the second reduction.
ValueId auxiliary_head(Builder& b, ValueId x, int64_t classes) {
  auto scope = b.scope("auxiliary");
  const auto layer = [&](const std::string& name, ValueId v, const ConvSpec& spec) {
    auto inner = b.scope(name);
    return b.relu(b.batch_norm(b.conv(v, spec)));
  };
  x = b.relu(x);
  const Shape s = b.shape(x);
  x = b.average_pool(x, {.kernel = {std::min<int64_t>(5, s[2]), std::min<int64_t>(5, s[3])}, .stride = 3});
  x = layer("project", x, {.out = 128});
  x = layer("whole", x, {.out = 768, .kernel = {b.shape(x)[2], b.shape(x)[3]}});
  return b.linear(b.flatten(x), classes);
}

Graph build(const Network& n, const BuildOptions& o) {
  const FamilyOptions set(n.name, o);
  const Cell normal = parse_cell(set.text("normal", kNormal)), reduction = parse_cell(set.text("reduction", kReduction));
  const std::string drop = set.choice("drop_path", "scheduled", {"scheduled", "constant", "none"});
  const double keep = set.number("keep", n.keep, 0.001, 1);
  const int64_t cells = one_of(n.name, "depths", o.depths, n.cells), unit = n.imagenet ? 4 : 2;
  const int64_t filters = make_divisible(static_cast<double>(one_of(n.name, "widths", o.widths, n.filters)) * o.width, unit);
  if (cells < 3) fail(ErrorKind::kUsage, "{}: {} cells; three blocks need 3", n.name, cells);

  Builder b(n.name, o);
  b.batch_norm_epsilon = n.imagenet ? 1e-3 : 1e-5;
  const int64_t total = cells + 2 + (n.imagenet ? 2 : 0);
  int64_t made = 0;
  std::vector<ValueId> outputs;  // of all cells, the stem's convolution first
  const auto cell = [&](const Cell& description, ValueId previous, int64_t f, int64_t stride) {
    auto scope = b.scope(fmt::format("cells.{}", made));
    ++made;
    const double rate = drop == "none" ? 0 : static_cast<double>(made) / static_cast<double>(total) * (1 - keep);
    outputs.push_back(build_cell(b, description, {.net = outputs.back(), .previous = previous, .filters = f, .stride = stride, .drop_rate = rate, .scheduled = drop == "scheduled"}));
  };
  const auto second_last = [&] { return outputs.size() < 2 ? ValueId{} : outputs[outputs.size() - 2]; };

  const ValueId x = b.input(o.input);
  if (n.imagenet && (o.input[1] < 3 || o.input[2] < 3)) fail(ErrorKind::kUsage, "{}: an input of {}; the side is at least 3", n.name, to_string(o.input));
  {
    auto scope = b.scope("stem");
    outputs.push_back(b.batch_norm(b.conv(x, n.imagenet ? ConvSpec{.out = 32 * n.stem, .kernel = 3, .stride = 2} : ConvSpec{.out = filters * n.stem, .kernel = 3, .pad = kSamePad})));
  }
  if (n.imagenet)
    for (int64_t part : {4, 2}) cell(reduction, second_last(), filters / part, 2);
  int64_t f = filters;
  ValueId auxiliary;
  for (int64_t i = 0; i < cells; ++i) {
    ValueId previous = second_last();
    if (i == cells / 3 || i == 2 * cells / 3) {
      f *= 2;
      cell(reduction, previous, f, 2);
      if (!n.skip_reduction) previous = second_last();
    }
    cell(normal, previous, f, 1);
    if (b.training() && i == 2 * cells / 3 - 1) auxiliary = auxiliary_head(b, outputs.back(), o.classes);
  }
  auto scope = b.scope("head");
  const ValueId logits = b.linear(b.dropout(b.pooled(b.relu(outputs.back())), n.imagenet ? 0.5 : 0), o.classes);
  if (b.training()) return b.finish({logits, auxiliary}, {"logits", "auxiliary"});
  return b.finish({logits});
}

}  // namespace

std::vector<ModelEntry> nasnet() {
  std::vector<ModelEntry> list;
  for (const Network& n :
       {Network{"nasnet_a_mobile", 44, 12, true, 1, false, 1.0, {3, 224, 224}, 1000, {5'289'978, 0, 563'638'816}, "5.3M", "564M", "74.0 %"},
        Network{"nasnet_a_large", 168, 18, true, 3, true, 0.7, {3, 331, 331}, 1000, {88'753'150, 0, 23'783'414'658}, "88.9M", "23.8B", "82.7 %"},
        Network{"nasnet_a_cifar", 32, 18, false, 3, false, 0.6, {3, 32, 32}, 10, {3'346'538, 0, 544'333'312}, "3.3M", "", "96.59 % (CIFAR-10)"}}) {
    ModelEntry m{.name = n.name, .family = "nasnet", .source = "Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition",
                 .input = n.input, .classes = n.classes, .counts = n.counts, .published_parameters = n.parameters, .published_macs = n.macs,
                 .published_accuracy = n.accuracy,
                 .options = {"normal: the cell, as \"sep5:0+sep3:1 avg3:0+id:1 out:2,3\"", "reduction: the cell with stride 2",
                             "drop_path: scheduled (the published), constant or none; in training",
                             "keep: probability that a path of the last cell stays at the end of training"}};
    if (n.name == "nasnet_a_large") m.parameters_note = "as tensorflow/models defines it; the paper prints 88.9M";
    m.build = [n](const BuildOptions& o) { return build(n, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
