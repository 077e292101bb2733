// U-Net: Ronneberger, Fischer and Brox 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation, figure 1. The published form has
// no padding: what the way down hands over is cropped to what comes up. With padding=same pictures keep their size, as most of today's have it.
#include <cmath>

#include "models/family_options.h"

namespace lathe::family {

namespace {

Graph build_unet(const BuildOptions& o) {
  const FamilyOptions set("unet", o);
  const bool same = set.choice("padding", "valid", {"valid", "same"}) == "same", norm = set.flag("batch_norm", false);
  if (o.depths.size() > 1 || o.widths.size() > 1) fail(ErrorKind::kUsage, "unet: one depth, which is the number of levels, and one width, the channels of the first");
  const int64_t levels = o.depths.empty() ? 5 : o.depths[0];
  if (levels < 2 || levels > 10) fail(ErrorKind::kUsage, "unet: {} levels; there are 2 to 10", levels);
  const auto channels = [&](int64_t level) {
    return std::max<int64_t>(1, std::llround(static_cast<double>((o.widths.empty() ? 64 : o.widths[0]) << level) * o.width));
  };
  Builder b("unet", o);
  b.bias_init = {Init::Kind::kUniformIn};
  const auto layer = [&](const std::string& name, ValueId x, int64_t out) {
    auto scope = b.scope(name);
    if (!same && std::min(b.shape(x)[2], b.shape(x)[3]) < 3) fail(ErrorKind::kUsage, "unet: an input of {} is too small for {} levels", to_string(o.input), levels);
    x = b.conv(x, {.out = out, .kernel = 3, .pad = same ? 1 : 0, .bias = !norm});
    return b.relu(norm ? b.batch_norm(x) : x);
  };
  const auto block = [&](const std::string& name, ValueId x, int64_t out) {
    auto scope = b.scope(name);
    return layer("conv2", layer("conv1", x, out), out);
  };
  std::vector<ValueId> across;
  ValueId x = b.input(o.input);
  for (int64_t level = 0; level < levels; ++level) {
    if (level > 0) {
      across.push_back(x);
      const bool even = b.shape(x)[2] % 2 == 0 && b.shape(x)[3] % 2 == 0;
      if (!even) fail(ErrorKind::kUsage, "unet: an input of {} becomes {} on level {}: every pooled picture has even sides", to_string(o.input), to_string(b.shape(x)), level);
      x = b.max_pool(x, {});
    }
    x = block(fmt::format("down.{}", level), x, channels(level));
  }
  for (int64_t level = levels - 2; level >= 0; --level) {
    auto scope = b.scope(fmt::format("up.{}", level));
    {
      auto inner = b.scope("transpose");
      const int64_t in = b.channels(x), out = channels(level);
      x = b.op("ConvTranspose", {x, b.parameter("weight", {in, out, 2, 2}, b.conv_init, in, out * 4), b.parameter("bias", {out}, b.bias_init, in)},
               {{"kernel_shape", std::vector<int64_t>{2, 2}}, {"strides", std::vector<int64_t>{2, 2}}});
    }
    ValueId skip = across[static_cast<size_t>(level)];
    const Shape from = b.shape(skip), to = b.shape(x);
    if (from != to) {
      const auto numbers = [&](const std::vector<int64_t>& values) { return b.graph().add_constant(Tensor::of_i64(values)); };
      const int64_t top = (from[2] - to[2]) / 2, left = (from[3] - to[3]) / 2;
      skip = b.op("Slice", {skip, numbers({top, left}), numbers({top + to[2], left + to[3]}), numbers({2, 3})});
    }
    x = block("convs", b.concat({skip, x}), channels(level));
  }
  auto scope = b.scope("head");
  return b.finish({b.conv(x, {.out = o.classes, .kernel = 1, .bias = true})});
}

}  // namespace

std::vector<ModelEntry> unet() {
  return {{.name = "unet", .family = "standard", .source = "Ronneberger et al. 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation", .input = {1, 572, 572}, .classes = 2,
           .counts = {31'030'658, 0, 150'428'424'448}, .published_accuracy = "92.0 % (IoU, PhC-U373)",
           .options = {"padding: valid (the published), or same, which keeps the size of pictures", "batch_norm: 1 puts one behind each 3×3 convolution"},
           .variants = {{"padding same, 3×256×256, batch norm", {.classes = 2, .input = {3, 256, 256}, .more = {{"padding", "same"}, {"batch_norm", "1"}}}, {31'037'698, 0, 48'171'581'440}}},
           .build = build_unet}};
}

}  // namespace lathe::family
