// The networks that people learn with. LeNet-5: LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, section II.B,
// in today's form: every map of C3 reads all of S2, pooling has no weights, the output is linear. TinyVGG: Wang et al. 2020, CNN
// Explainer.
#include <cmath>

#include "models/family_options.h"

namespace lathe::family {

namespace {

Graph build_lenet(const BuildOptions& o) {
  const bool relu = FamilyOptions("lenet5", o).choice("activation", "tanh", {"tanh", "relu"}) == "relu";
  if (!o.depths.empty() || !o.widths.empty()) fail(ErrorKind::kUsage, "lenet5: its layers are as published; there is width");
  if (std::min(o.input[1], o.input[2]) < 14) fail(ErrorKind::kUsage, "lenet5: an input of {}; the side is at least 14", to_string(o.input));
  Builder b("lenet5", o);
  b.conv_init = b.bias_init = {Init::Kind::kUniformIn};
  const auto act = [&](ValueId v) { return relu ? b.relu(v) : b.op("Tanh", {v}); };
  const auto width = [&](int64_t channels) { return std::max<int64_t>(1, std::llround(static_cast<double>(channels) * o.width)); };
  const auto conv = [&](const std::string& name, ValueId v, int64_t out, Sizes pad) {
    auto scope = b.scope(name);
    return b.average_pool(act(b.conv(v, {.out = out, .kernel = 5, .pad = std::move(pad), .bias = true})), {});
  };
  const auto dense = [&](const std::string& name, ValueId v, int64_t out) {
    auto scope = b.scope(name);
    return b.linear(v, out);
  };
  // The paper's pictures of 28×28 stand in a frame of 32×32.
  const auto frame = [](int64_t side) { return side < 32 ? std::min<int64_t>((32 - side) / 2, 2) : int64_t{0}; };
  ValueId x = conv("C1", b.input(o.input), width(6), {frame(o.input[1]), frame(o.input[2])});
  x = b.flatten(conv("C3", x, width(16), 0));
  x = act(dense("C5", x, width(120)));
  x = act(dense("F6", x, width(84)));
  return b.finish({dense("output", x, o.classes)});
}

Graph build_tiny_vgg(const BuildOptions& o) {
  if (o.widths.size() > 1 || o.depths.size() > 1) fail(ErrorKind::kUsage, "tiny_vgg: one width and one depth, which is the number of blocks");
  const int64_t blocks = o.depths.empty() ? 2 : o.depths[0];
  const int64_t hidden = std::max<int64_t>(1, std::llround(static_cast<double>(o.widths.empty() ? 10 : o.widths[0]) * o.width));
  Builder b("tiny_vgg", o);
  b.conv_init = b.bias_init = {Init::Kind::kUniformIn};
  ValueId x = b.input(o.input);
  for (int64_t i = 0; i < blocks; ++i) {
    auto scope = b.scope(fmt::format("blocks.{}", i));
    if (std::min(b.shape(x)[2], b.shape(x)[3]) < 6) fail(ErrorKind::kUsage, "tiny_vgg: an input of {} is too small for {} blocks", to_string(o.input), blocks);
    for (const char* name : {"conv1", "conv2"}) {
      auto inner = b.scope(name);
      x = b.relu(b.conv(x, {.out = hidden, .kernel = 3, .bias = true}));
    }
    x = b.max_pool(x, {});
  }
  auto scope = b.scope("head");
  return b.finish({b.linear(b.flatten(x), o.classes)});
}

}  // namespace

std::vector<ModelEntry> small() {
  return {{.name = "lenet5", .family = "standard", .source = "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition", .input = {1, 28, 28}, .classes = 10,
           .counts = {61'706, 0, 416'520}, .published_parameters = "60k", .published_accuracy = "99.05 % (MNIST)",
           .parameters_note = "the paper's C3 reads some maps of S2 only, its pools have weights, and its output has none",
           .options = {"activation: tanh (the published) or relu"}, .build = build_lenet},
          {.name = "tiny_vgg", .family = "standard", .source = "Wang et al. 2020, CNN Explainer: Learning Convolutional Neural Networks with Interactive Visualization", .input = {3, 64, 64}, .classes = 10,
           .counts = {19'920, 0, 5'608'780}, .build = build_tiny_vgg}};
}

}  // namespace lathe::family
