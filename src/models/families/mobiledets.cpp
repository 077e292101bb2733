// MobileDets: Xiong et al. 2021, MobileDets: Searching for Object Detection Architectures for Mobile Accelerators, Figure 4 (the networks);
// the head is SSDLite as tensorflow/models has it (research/object_detection). Pixels are x · 2/255 − 1.
#include <cctype>
#include <cmath>
#include <functional>

#include "models/family_options.h"
#include "models/ssd.h"

namespace lathe::family {

namespace {

// I: inverted bottleneck, 1×1 to e·c, depthwise k×k, 1×1.  S: the same without the first 1×1 ("IBN0").  F: fused, full k×k to e·c, 1×1.
// T: Tucker, 1×1 to i quarters of c, full k×k to o quarters of the output, 1×1.
// "3*I72k5e8s2r" is three of 72 channels with k = 5, e = 8, stride 2 and a residual, which is said and not inferred; k = 3, s = 1 else.
struct Network {
  std::string name, device;
  int64_t stem;
  std::vector<std::string> stages;  // C1 to C5
  bool squeeze;                     // squeeze and excitation, and hard-swish for ReLU6
  ModelCounts counts;
  std::string parameters, macs, accuracy;
};

struct Layer {
  char kind = 0;
  int64_t out = 0, kernel = 3, expand = 1, stride = 1, in_quarters = 1, out_quarters = 1, repeat = 1;
  bool residual = false;
};

// Throws what `refuse` throws, with what is wrong.
std::vector<Layer> layers_of(const std::string& stage, const std::function<void(const std::string&)>& refuse) {
  std::vector<Layer> layers;
  size_t at = 0;
  const auto next = [&] { return at < stage.size() ? stage[at] : '\0'; };
  const auto number = [&](const std::string& what, int64_t highest) {
    int64_t n = 0;
    for (; std::isdigit(static_cast<unsigned char>(next())) && n <= highest; ++at) n = 10 * n + (stage[at] - '0');
    if (n < 1 || n > highest) refuse(fmt::format("has no {} of 1 to {} at character {}", what, highest, at + 1));
    return n;
  };
  while (true) {
    Layer l;
    if (std::isdigit(static_cast<unsigned char>(next()))) {
      l.repeat = number("number of layers", 64);
      if (next() == '*') ++at;
      else refuse(fmt::format("has no * behind a number of layers, at character {}", at + 1));
    }
    l.kind = next();
    if (l.kind == '\0' || std::string("ISFT").find(l.kind) == std::string::npos) refuse(fmt::format("has none of I, S, F, T at character {}", at + 1));
    ++at;
    l.out = number("channels", 4096);
    for (; next() != '\0' && next() != ' ';) {
      const char key = stage[at++];
      switch (key) {
        case 'r': l.residual = true; break;
        case 'k':
          l.kernel = number("window", 15);
          if (l.kernel % 2 == 0) refuse(fmt::format("has an even window of {}", l.kernel));
          break;
        case 'e': l.expand = number("expansion", 64); break;
        case 's': l.stride = number("stride", 2); break;
        case 'i': l.in_quarters = number("quarters", 64); break;
        case 'o': l.out_quarters = number("quarters", 64); break;
        default: refuse(fmt::format("has none of k, e, s, i, o, r at character {}", at));
      }
    }
    layers.push_back(l);
    if (next() == '\0') return layers;
    ++at;
  }
}

// Channels times a factor as a multiple of 8, at least 8; without the 0.9 of make_divisible.
int64_t scaled(double channels, double factor) { return std::max<int64_t>(8, 8 * static_cast<int64_t>(std::floor(channels * factor / 8 + 0.5))); }

class Layers {
 public:
  Layers(Builder& b, bool squeeze) : b_(b), squeeze_(squeeze) {}

  // Convolution, norm, activation.
  ValueId conv(const std::string& name, ValueId x, int64_t out, int64_t kernel = 1, int64_t stride = 1, bool linear = false) {
    auto scope = b_.scope(name);
    x = b_.batch_norm(b_.conv(x, {.out = out, .kernel = kernel, .stride = stride, .pad = kSamePad}));
    return linear ? x : act(x);
  }
  ValueId depthwise(ValueId x, int64_t kernel, int64_t stride) {
    auto scope = b_.scope("depthwise");
    const Init before = b_.conv_init;
    // TensorFlow cuts at two deviations and divides by 0.8796 to keep the deviation; torch's cut is beyond reach.
    if (depthwise_normal) b_.conv_init = Init::truncated(std::sqrt(2.0 / static_cast<double>(kernel * kernel)));
    x = act(b_.batch_norm(b_.depthwise(x, kernel, stride)));
    b_.conv_init = before;
    return x;
  }

  ValueId layer(const Layer& l, ValueId x, double width) {
    const auto c = static_cast<double>(b_.channels(x));
    const int64_t out = scaled(static_cast<double>(l.out), width), expanded = l.expand * b_.channels(x);
    ValueId y = x;
    switch (l.kind) {
      case 'I': y = depthwise(conv("expand", x, expanded), l.kernel, l.stride); break;
      case 'S': y = depthwise(x, l.kernel, l.stride); break;
      case 'F': y = conv("expand", x, expanded, l.kernel, l.stride); break;
      default:
        y = conv("compress", x, scaled(c, static_cast<double>(l.in_quarters) / 4));
        y = conv("core", y, scaled(static_cast<double>(out), static_cast<double>(l.out_quarters) / 4), l.kernel, l.stride);
    }
    if (squeeze_) y = excite(y);
    y = conv("project", y, out, 1, 1, true);
    return l.residual ? b_.add(y, x) : y;
  }

  bool depthwise_normal = true;

 private:
  ValueId act(ValueId x) { return squeeze_ ? b_.hard_swish(x) : b_.relu6(x); }
  ValueId excite(ValueId x) {
    auto scope = b_.scope("squeeze");
    const auto one = [&](const std::string& name, ValueId v, int64_t out) {
      auto inner = b_.scope(name);
      return b_.conv(v, {.out = out, .bias = true});
    };
    const ValueId y = act(one("reduce", b_.global_average(x), scaled(static_cast<double>(b_.channels(x)), 0.25)));
    return b_.mul(x, b_.sigmoid(one("expand", y, b_.channels(x))));
  }

  Builder& b_;
  bool squeeze_;
};

// C4 and C5, and four maps more, each of half the size.
std::vector<ValueId> feature_maps(Builder& b, const std::vector<ValueId>& stages, double width) {
  std::vector<ValueId> maps{stages[3], stages[4]};
  Layers layers(b, false);
  layers.depthwise_normal = false;
  const auto depth = [&](int64_t d) { return std::max<int64_t>(static_cast<int64_t>(static_cast<double>(d) * width), 16); };
  for (int64_t i = 0; const int64_t d : {512, 256, 256, 128}) {
    auto scope = b.scope(fmt::format("extra.{}", i++));
    maps.push_back(layers.conv("expand", layers.depthwise(layers.conv("reduce", maps.back(), depth(d / 2)), 3, 2), depth(d)));
  }
  return maps;
}

Graph ssdlite(Builder& b, const std::vector<ValueId>& stages, const BuildOptions& o, bool boxes) {
  b.batch_norm_epsilon = 0.001;
  b.conv_init = Init::truncated(0.03);
  const std::vector<ValueId> maps = feature_maps(b, stages, o.width);
  b.conv_init = Init::normal(0.03);
  const AnchorOptions anchors{.height = o.input[1], .width = o.input[2]};
  const std::vector<int64_t> per_cell = anchors_per_cell(maps.size(), anchors);
  std::vector<ValueId> codes, scores;
  std::vector<std::array<int64_t, 2>> sizes;
  Layers layers(b, false);
  layers.depthwise_normal = false;
  for (size_t i = 0; i < maps.size(); ++i) {
    const auto predictor = [&](const std::string& name, int64_t values, double bias) {
      auto scope = b.scope(fmt::format("head.{}.{}", i, name));
      const ValueId x = layers.depthwise(maps[i], 3, 1);
      b.bias_init = Init::constant(bias);
      auto inner = b.scope("project");
      const ValueId y = b.conv(x, {.out = per_cell[i] * values, .bias = true});
      // Slot 0 of each anchor is background, which nearly all are: it begins as sure as the others are not. At −4.6 it would make a first
      // loss of about 100, and by steps of Adam's size it takes epochs to turn round.
      if (bias != 0 && b.draws())
        for (int64_t anchor = 0; anchor < per_cell[i]; ++anchor) b.graph()[b.graph()[b.graph()[y].producer].inputs[2]].constant.data<float>()[anchor * values] = static_cast<float>(-bias);
      return b.reshape(b.transpose(y, {0, 2, 3, 1}), {0, -1, values});
    };
    codes.push_back(predictor("box", 4, 0));
    // A focal loss over all anchors starts far too high where every slot begins at one half.
    scores.push_back(predictor("class", o.classes + 1, -4.6));
    sizes.push_back({b.shape(maps[i])[2], b.shape(maps[i])[3]});
  }
  const ValueId code = b.concat(codes), score = b.concat(scores);
  Graph g = b.finish({code, score}, {"codes", "logits"});
  if (boxes) append_decoding(g, grid_anchors(sizes, anchors));
  return g;
}

Graph build(const Network& n, const BuildOptions& o) {
  const FamilyOptions set(n.name, o);
  const bool features = set.choice("head", "ssdlite", {"ssdlite", "features"}) == "features", boxes = set.choice("output", "codes", {"codes", "boxes"}) == "boxes";
  if (boxes && (features || o.training)) set.refuse("output", "is of the ssdlite head, and not for training");
  if (std::min(o.input[1], o.input[2]) < 33) fail(ErrorKind::kUsage, "{}: an input of {}; the side is at least 33", n.name, to_string(o.input));
  if (!o.depths.empty() || !o.widths.empty()) fail(ErrorKind::kUsage, "{}: its stages are as they were found; there is width", n.name);

  Builder b(n.name, o);
  b.batch_norm_epsilon = 0.01;
  b.conv_init = {Init::Kind::kHeNormalIn};
  Layers layers(b, n.squeeze);
  ValueId x = b.input(o.input);
  std::vector<ValueId> stages;
  for (size_t c = 0; c < n.stages.size(); ++c) {
    const std::string name = fmt::format("C{}", c + 1);
    auto stage = b.scope(name);
    if (c == 0) x = layers.conv("stem", x, scaled(static_cast<double>(n.stem), o.width), 3, 2);
    int64_t i = 0;
    for (const Layer& l : layers_of(set.text(name, n.stages[c]), [&](const std::string& why) { set.refuse(name, why); }))
      for (int64_t k = 0; k < l.repeat; ++k) {
        if (l.residual && (l.stride != 1 || b.channels(x) != scaled(static_cast<double>(l.out), o.width)))
          set.refuse(name, fmt::format("asks for a residual in layer {}, whose output is not as its input", i + 1));
        auto scope = b.scope(std::to_string(i++));
        x = layers.layer(l, x, o.width);
      }
    stages.push_back(x);
  }
  if (features) return b.finish(stages, {"C1", "C2", "C3", "C4", "C5"});
  return ssdlite(b, stages, o, boxes);
}

}  // namespace

std::vector<ModelEntry> mobiledets() {
  std::vector<ModelEntry> list;
  const std::vector<Network> networks = {
      {"mobiledet_cpu", "CPU", 16,
       {"S8", "I16e4s2", "I32e8s2 3*I32e4r", "I72k5e8s2 I72e8r I72k5e4r I72e4r I72e8 3*I72e8r", "I104k5e8s2 2*I104k5e4r I104e4r I144e8"}, true,
       {4'165'055, 0, 444'227'776}, "4.21M", "0.45B", "24.1 mAP (COCO)"},
      {"mobiledet_edgetpu", "EdgeTPU", 32,
       {"T16i1o3", "F16e8s2 F16e4r F16e8r F16e4r", "F40k5e8s2 3*F40e4r", "I72e8s2 I72e8r 2*F72e4r I96k5e8 I96k5e8r 2*I96e8r", "I120k5e8s2 I120e8r I120k5e4r I120e8r I384k5e8"}, false,
       {4'146'543, 0, 1'533'181'504}, "4.20M", "1.53B", "26.0 mAP (COCO)"},
      {"mobiledet_dsp", "DSP", 32,
       {"S24", "F32e4s2 F32e4r I32e4r T32i1o3r", "F64e8s2 I64e4r 2*F64e4r", "F120e8s2 I120e4r 2*I120e8r F144e8 3*I144e8r", "I160e4s2 I160e4r F160e4r T160i3o3r I240e8"}, false,
       {7'102'079, 0, 2'816'403'904}, "7.16M", "2.82B", "28.9 mAP (COCO)"},
      {"mobiledet_gpu", "GPU", 32,
       {"T16i1o1", "F32e8s2 3*T32i1o1r", "F64e8s2 2*F64e8r F64e4r", "F128e8s2 3*F128e4r F128e8 3*F128e8r", "F128e4s2 3*F128e4r I384e8"}, false,
       {13'069'247, 0, 5'073'184'704}, "13.11M", "5.07B", "28.7 mAP (COCO)"}};
  const std::map<std::string, ModelCounts> halves = {{"mobiledet_cpu", {1'423'239, 0, 152'928'736}}, {"mobiledet_edgetpu", {1'411'887, 0, 470'518'496}},
                                                     {"mobiledet_dsp", {2'099'351, 0, 789'228'896}}, {"mobiledet_gpu", {3'521'215, 0, 1'310'256'096}}};
  const std::map<std::string, ModelCounts> backbones = {{"mobiledet_cpu", {3'006'440, 0, 408'006'272}}, {"mobiledet_edgetpu", {2'777'040, 0, 1'473'795'200}},
                                                        {"mobiledet_dsp", {5'839'952, 0, 2'763'353'600}}, {"mobiledet_gpu", {11'689'920, 0, 5'009'920'000}}};
  for (const Network& n : networks) {
    ModelEntry m{.name = n.name, .family = "mobiledets", .source = "Xiong et al. 2021, MobileDets: Searching for Object Detection Architectures for Mobile Accelerators",
                 .input = {3, 320, 320}, .classes = 90, .counts = n.counts, .published_parameters = n.parameters, .published_macs = n.macs, .published_accuracy = n.accuracy,
                 .parameters_note = "published with the means and variances of batch norms",
                 .options = {"head: ssdlite (91 slots for 90 classes, the first is background) or features (the maps C1 to C5)",
                             "output: codes (of boxes, and logits, as training needs them) or boxes (with scores, as lathe run reads them)",
                             "C1: its layers, as docs/MODELS.md writes them", "C2: likewise", "C3: likewise", "C4: likewise", "C5: likewise"},
                 .variants = {{"width 0.5", {.width = 0.5}, halves.at(n.name)}, {"the backbone", {.more = {{"head", "features"}}}, backbones.at(n.name)}}};
    if (n.squeeze) m.macs_note = "published with the products and sums of squeeze and excitation's scaling and pooling";
    if (n.squeeze) m.variants.push_back({"width 0.25, 96², 3 classes", {.classes = 3, .input = {3, 96, 96}, .width = 0.25}, {232'576, 0, 4'548'672}});
    m.build = [n](const BuildOptions& o) { return build(n, o); };
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace lathe::family
