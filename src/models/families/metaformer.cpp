// MetaFormer: a pyramid of blocks norm → token mixer → residual, norm → channel MLP → residual.
//   PoolFormer and the ablations of its Table 5: Yu et al. 2022, MetaFormer Is Actually What You Need for Vision (CVPR 2022).
//   IdentityFormer, RandFormer, PoolFormerV2, ConvFormer, CAFormer: Yu et al. 2024, MetaFormer Baselines for Vision (TPAMI 46).
// One network serves all; the tables at the end are the papers'.
#include <cmath>

#include "models/family_options.h"

namespace lathe::family {

namespace {

constexpr int64_t kHeadSize = 32;  // channels of an attention head, in both papers
constexpr int64_t kRatio = 4;      // of the MLP's channels to the block's

// A row of a table, and what the options make of it.
struct Network {
  std::string name;
  bool baseline;            // of the second paper: no biases in blocks, norms of ε = 1e-6, all weights truncated normal
  std::string mixers;       // a letter each stage: I identity, R random, P pooling, D depthwise 3×3, C separable convolution,
                            // A attention, F spatial FC
  std::string norm;         // of blocks: group (one group: over H, W and C), layer (over C), batch, none
  std::string activation;   // gelu, relu, silu, starrelu, squared-relu
  std::string head;         // linear, mlp
  std::vector<int64_t> depths, widths;
  double drop_path = 0, head_dropout = 0;
  double layer_scale = 0;   // start of the factors of branches; 0: there are none
  bool res_scale = false;   // factors of the shortcuts in the last two stages
  int64_t pool = 3;
  std::vector<int64_t> stem{7, 4, 2};  // kernel, stride, pad
  bool residual = true, mlp = true, features = false;
  Init init = Init::truncated(0.02);  // of linear layers and, in the second paper, of all
};

class MetaFormer {
 public:
  MetaFormer(const Network& n, const BuildOptions& o, const Stages& stages) : n_(n), o_(o), stages_(stages), b_(n.name, o) {
    if (n.baseline) b_.conv_init = n.init;
    else b_.conv_init = {Init::Kind::kUniformIn};
    b_.bias_init = n.baseline ? Init::constant(0) : b_.conv_init;
    b_.linear_init = n.init;
  }

  Graph build() {
    ValueId x = b_.input(o_.input);
    std::vector<ValueId> features;
    std::vector<std::string> names;
    for (size_t stage = 0; stage < stages_.count(); ++stage) {
      x = stage == 0 ? stem(x) : downsample(x, stage);
      if (!n_.baseline && n_.mixers[stage] == 'A' && n_.mixers.find('A') == stage) x = with_positions(x);
      for (int64_t i = 0; i < stages_.depths[stage]; ++i, ++block_) {
        auto scope = b_.scope(fmt::format("stages.{}.blocks.{}", stage, i));
        x = block(x, stage);
      }
      if (!n_.features) continue;
      auto scope = b_.scope(fmt::format("norm{}", 2 * stage));
      features.push_back(norm(x));
      names.push_back(fmt::format("stage{}", stage + 1));
    }
    if (n_.features) return b_.finish(features, names);
    auto scope = b_.scope("head");
    return b_.finish({head(x)});
  }

 private:
  ValueId stem(ValueId x) {
    auto scope = b_.scope("stem");
    x = conv(x, stages_.widths[0], n_.stem);
    return n_.baseline ? embedding_norm(x) : x;
  }
  ValueId downsample(ValueId x, size_t stage) {
    auto scope = b_.scope(fmt::format("stages.{}.downsample", stage));
    return conv(n_.baseline ? embedding_norm(x) : x, stages_.widths[stage], {3, 2, 1});
  }
  ValueId conv(ValueId x, int64_t out, const std::vector<int64_t>& window) {
    auto scope = b_.scope("conv");
    return b_.conv(x, {.out = out, .kernel = window[0], .stride = window[1], .pad = window[2], .bias = true});
  }
  ValueId embedding_norm(ValueId x) {
    auto scope = b_.scope("norm");
    return b_.channel_norm(x, 1e-6, false);
  }
  ValueId with_positions(ValueId x) {
    Shape map = b_.shape(x);
    map.erase(map.begin());
    return b_.add(x, b_.parameter("positions", map, Init::constant(0)));
  }

  // x ← rs1·x + drop_path(ls1·mixer(norm1(x))), x ← rs2·x + drop_path(ls2·mlp(norm2(x)))
  ValueId block(ValueId x, size_t stage) {
    const auto half = [&](const std::string& number, auto&& branch) {
      ValueId y;
      {
        auto scope = b_.scope("norm" + number);
        y = norm(x);
      }
      y = branch(y);
      if (n_.layer_scale != 0) y = b_.mul(y, factors("layer_scale" + number, n_.layer_scale, x));
      if (stages_.blocks() > 1) y = b_.drop_path(y, n_.drop_path * static_cast<double>(block_) / static_cast<double>(stages_.blocks() - 1));
      if (!n_.residual) return y;
      const bool scaled = n_.res_scale && stage + 2 >= stages_.count();
      return b_.add(scaled ? b_.mul(x, factors("res_scale" + number, 1, x)) : x, y);
    };
    x = half("1", [&](ValueId y) {
      auto scope = b_.scope("mixer");
      return mix(y, n_.mixers[stage]);
    });
    return half("2", [&](ValueId y) {
      if (!n_.mlp) return y;  // the norm and the factors of the half stay, by the paper's count
      auto scope = b_.scope("mlp");
      const int64_t width = b_.channels(y);
      return pointwise("fc2", activated(pointwise("fc1", y, kRatio * width, !n_.baseline)), width, !n_.baseline);
    });
  }
  ValueId factors(const std::string& name, double start, ValueId x) {
    return b_.parameter(name, {b_.channels(x), 1, 1}, Init::constant(start));
  }

  ValueId norm(ValueId x) {
    if (n_.norm == "none") return x;
    if (n_.norm == "batch") return b_.batch_norm(x);
    const double epsilon = n_.baseline ? 1e-6 : 1e-5;
    return n_.norm == "group" ? b_.group_norm(x, epsilon, !n_.baseline) : b_.channel_norm(x, epsilon, !n_.baseline);
  }

  ValueId pointwise(const std::string& name, ValueId x, int64_t out, bool bias) {
    auto scope = b_.scope(name);
    const Init conv = b_.conv_init, shift = b_.bias_init;
    b_.conv_init = n_.init;
    b_.bias_init = Init::constant(0);
    x = b_.conv(x, {.out = out, .bias = bias});
    b_.conv_init = conv;
    b_.bias_init = shift;
    return x;
  }

  ValueId activated(ValueId x) {
    if (n_.activation == "gelu") return b_.gelu(x);
    if (n_.activation == "silu") return b_.silu(x);
    x = b_.relu(x);
    if (n_.activation == "relu") return x;
    x = b_.mul(x, x);
    if (n_.activation == "squared-relu") return x;
    auto scope = b_.scope("act");  // s·relu(x)² + b, two numbers to be learnt
    return b_.add(b_.mul(x, b_.parameter("scale", {1}, Init::constant(1))), b_.parameter("bias", {1}, Init::constant(0)));
  }

  ValueId mix(ValueId x, char mixer) {
    const int64_t width = b_.channels(x);
    switch (mixer) {
      case 'P': {
        const ValueId mean = b_.average_pool(x, {.kernel = n_.pool, .stride = 1, .pad = n_.pool / 2});
        return b_.op("Sub", {mean, x});
      }
      case 'D': return b_.depthwise(x, 3, 1, 1, true);
      case 'C': {
        x = activated(pointwise("pointwise1", x, 2 * width, false));
        {
          auto scope = b_.scope("depthwise");
          x = b_.depthwise(x, 7, 1, 3);
        }
        return pointwise("pointwise2", x, width, false);
      }
      case 'A': {
        const Init shift = b_.bias_init;
        b_.bias_init = Init::constant(0);
        x = as_tokens(x, [&](ValueId t) { return b_.self_attention(t, width / kHeadSize, false, !n_.baseline); });
        b_.bias_init = shift;
        return x;
      }
      case 'R': return as_tokens(x, [&](ValueId t) { return b_.op("MatMul", {b_.frozen("matrix", random_rows(b_.shape(t)[1])), t}); });
      case 'F': {
        const Shape s = b_.shape(x);
        const ValueId flat = b_.reshape(x, {0, width, s[2] * s[3]});
        return b_.reshape(b_.linear(flat, s[2] * s[3], false), {0, width, s[2], s[3]});
      }
      default: return x;  // I
    }
  }

  // f of [N, H·W, C], and back.
  template <class F>
  ValueId as_tokens(ValueId x, F f) {
    const Shape s = b_.shape(x);
    const ValueId tokens = f(b_.reshape(b_.transpose(x, {0, 2, 3, 1}), {0, s[2] * s[3], s[1]}));
    return b_.transpose(b_.reshape(tokens, {0, s[2], s[3], s[1]}), {0, 3, 1, 2});
  }

  // Softmax over each row of uniform numbers.
  Tensor random_rows(int64_t size) {
    Tensor t(DType::kF32, {size, size});
    if (!b_.draws()) return t;
    for (int64_t row = 0; row < size; ++row) {
      float* p = t.data<float>() + row * size;
      double sum = 0;
      for (int64_t i = 0; i < size; ++i) sum += p[i] = static_cast<float>(std::exp(b_.uniform()));
      for (int64_t i = 0; i < size; ++i) p[i] = static_cast<float>(p[i] / sum);
    }
    return t;
  }

  ValueId head(ValueId x) {
    const auto normed = [&](auto&& layer) {
      auto scope = b_.scope("norm");
      return layer();
    };
    if (!n_.baseline) {
      x = normed([&] { return n_.norm == "none" ? b_.group_norm(x, 1e-5) : norm(x); });
      x = b_.pooled(x);
    } else {
      x = b_.pooled(x);
      x = normed([&] { return b_.layer_norm(x, 1e-6); });
    }
    b_.bias_init = Init::constant(0);
    if (n_.head == "mlp") {
      {
        auto scope = b_.scope("fc1");
        x = b_.relu(b_.linear(x, kRatio * b_.channels(x)));
      }
      x = b_.mul(x, x);
      auto scope = b_.scope("norm2");
      x = b_.dropout(b_.layer_norm(x, 1e-5), n_.head_dropout);
    }
    auto scope = b_.scope(n_.head == "mlp" ? "fc2" : "fc");
    return b_.linear(x, o_.classes);
  }

  const Network& n_;
  const BuildOptions& o_;
  const Stages& stages_;
  Builder b_;
  int64_t block_ = 0;  // of all stages
};

Graph build(Network n, const BuildOptions& o) {
  const FamilyOptions set(n.name, o);
  const Stages stages = stages_of(n.name, o, n.depths, n.widths);
  n.mixers = set.text("mixers", n.mixers);
  if (n.mixers.size() != stages.count()) set.refuse("mixers", fmt::format("({}) does not name {} stages", n.mixers, stages.count()));
  if (n.mixers.find_first_not_of("IRPDCAF") != n.mixers.npos) set.refuse("mixers", "holds another letter than I, R, P, D, C, A, F");
  if (!n.baseline && n.mixers.find('A') != n.mixers.npos) n.norm = "layer";
  n.norm = set.choice("norm", n.norm, {"group", "layer", "batch", "none"});
  n.activation = set.choice("activation", n.activation, {"gelu", "relu", "silu", "starrelu", "squared-relu"});
  n.init = transformer_init(set);
  n.residual = set.flag("residual", true);
  n.mlp = set.flag("mlp", true);
  n.features = set.flag("features", false);
  n.drop_path = set.number("drop_path", n.drop_path, 0, 0.99);
  n.layer_scale = set.number("layer_scale", n.layer_scale, 0, 1e6);
  n.res_scale = set.flag("res_scale", n.res_scale);
  n.head = set.choice("head", n.head, {"linear", "mlp"});
  n.head_dropout = set.number("head_dropout", n.head == "mlp" ? n.head_dropout : 0, 0, 0.99);
  if (n.head == "linear" && n.head_dropout > 0) set.refuse("head_dropout", "needs head=mlp");
  n.pool = set.integers("pool", {n.pool}, 1, 1)[0];
  if (n.pool % 2 == 0) set.refuse("pool", "is even");
  if (set.text("stem", "") == "small") n.stem = {7, 2, 3};
  else n.stem = set.integers("stem", n.stem, 3, 0);
  if (n.stem[0] < 1 || n.stem[1] < 1) set.refuse("stem", "has a kernel or a stride of 0");
  for (size_t axis : {1, 2})
    if (o.input[axis] + 2 * n.stem[2] < n.stem[0])
      fail(ErrorKind::kUsage, "{}: an input of {} is smaller than {}, which the stem needs", n.name, to_string(o.input),
           n.stem[0] - 2 * n.stem[2]);
  for (size_t i = 0; i < stages.count(); ++i)
    if (n.mixers[i] == 'A' && stages.widths[i] % kHeadSize != 0)
      fail(ErrorKind::kUsage, "{}: widths: {} channels of stage {} are no multiple of {}, the size of an attention head", n.name,
           stages.widths[i], i + 1, kHeadSize);
  return MetaFormer(n, o, stages).build();
}

const std::vector<int64_t> k12{2, 2, 6, 2}, k24{4, 4, 12, 4}, k36{6, 6, 18, 6}, k48{8, 8, 24, 8};
const std::vector<int64_t> kS{64, 128, 320, 512}, kM{96, 192, 384, 768};
const std::vector<std::string> kOptions{
    "mixers: a letter for each stage: I identity, R frozen random matrix, P pooling, D depthwise 3x3, C separable convolution, A attention, F spatial FC",
    "norm: of the blocks: group (one group), layer (over channels), batch or none",
    "activation: gelu, relu, silu, starrelu or squared-relu",
    "residual: 0 leaves out the shortcuts",
    "mlp: 0 puts the identity in the place of the channel MLPs",
    "pool: size of the window of pooling, odd",
    "layer_scale: where the factors of the branches start; 0 leaves them out",
    "res_scale: 1 or 0, factors of the shortcuts in the last two stages",
    "head: linear or mlp",
    "head_dropout: its rate in the MLP head, in training",
    "drop_path: the rate of the last block, in training",
    "stem: KERNEL,STRIDE,PAD of the first convolution; small is 7,2,3",
    kInitOption,
    "features: 1 gives the map of each stage with a norm of its own in place of classes"};

// The networks on which both papers' claims are tried in small.
BuildOptions small(Shape input, std::map<std::string, std::string> more = {}) {
  more["stem"] = "small";
  return {.classes = 10, .input = std::move(input), .depths = {1, 1, 3, 1}, .widths = {16, 32, 64, 128}, .more = std::move(more)};
}
ModelVariant at_384(ModelCounts counts) { return {"384²", {.input = {3, 384, 384}}, counts}; }

ModelEntry entry(const Network& n, ModelCounts counts) {
  ModelEntry m{.name = n.name,
               .family = n.baseline ? "metaformer-baselines" : "metaformer",
               .source = n.baseline ? "Yu et al. 2024, MetaFormer Baselines for Vision"
                                    : "Yu et al. 2022, MetaFormer Is Actually What You Need for Vision",
               .input = {3, 224, 224},
               .counts = counts,
               .options = kOptions};
  m.build = [n](const BuildOptions& o) { return build(n, o); };
  return m;
}

// The first paper, Table 1 and (as options of S12) Table 5.
void add_poolformers(std::vector<ModelEntry>& list) {
  struct Size {
    std::string name;
    std::vector<int64_t> depths, widths;
    double drop_path, layer_scale;
    int64_t parameters, macs, macs_384, features;
    std::string published_parameters, published_macs, accuracy;
  };
  for (const Size& s :
       {Size{"poolformer_s12", k12, kS, 0.1, 1e-5, 11'915'176, 1'812'267'008, 5'324'853'248, 11'403'200, "11.9M", "1.8G", "77.2 %"},
        Size{"poolformer_s24", k24, kS, 0.1, 1e-5, 21'388'968, 3'392'208'896, 9'967'947'776, 20'876'992, "21.4M", "3.4G", "80.3 %"},
        Size{"poolformer_s36", k36, kS, 0.2, 1e-6, 30'862'760, 4'972'150'784, 14'611'042'304, 30'350'784, "30.8M", "5.0G", "81.4 %"},
        Size{"poolformer_m36", k36, kM, 0.3, 1e-6, 56'172'520, 8'758'788'096, 25'738'622'976, 55'404'864, "56.1M", "8.8G", "82.1 %"},
        Size{"poolformer_m48", k48, kM, 0.4, 1e-6, 73'473'448, 11'533'320'192, 33'892'349'952, 72'705'792, "73.4M", "11.6G", "82.5 %"}}) {
    ModelEntry m = entry({.name = s.name,
                          .baseline = false,
                          .mixers = "PPPP",
                          .norm = "group",
                          .activation = "gelu",
                          .head = "linear",
                          .depths = s.depths,
                          .widths = s.widths,
                          .drop_path = s.drop_path,
                          .layer_scale = s.layer_scale},
                         {s.parameters, 0, s.macs});
    m.published_parameters = s.published_parameters;
    m.published_macs = s.published_macs;
    m.published_accuracy = s.accuracy;
    if (s.depths == k36 || s.depths == k48) m.parameters_note = "the paper counts them without LayerScale";
    if (s.depths == k48) m.macs_note = "the paper's figure includes 5 for each element of a norm, as fvcore counts";
    m.variants = {at_384({s.parameters, 0, s.macs_384}), {"features", {.more = {{"features", "1"}}}, {s.features, 0, 0}}};
    if (s.name == "poolformer_s12") {
      const auto changed = [&](const std::string& what, std::map<std::string, std::string> more, ModelCounts counts) {
        m.variants.push_back({what, {.more = std::move(more)}, counts});
      };
      changed("identity", {{"mixers", "IIII"}}, {11'915'176, 0, 1'812'267'008});
      changed("random matrices", {{"mixers", "RRRR"}}, {11'915'176, 21'133'602, 3'304'651'776});
      changed("depthwise 3×3", {{"mixers", "DDDD"}}, {11'948'456, 0, 1'821'524'480});
      changed("pooling 9×9", {{"pool", "9"}}, m.counts);
      changed("LayerNorm", {{"norm", "layer"}}, m.counts);
      changed("BatchNorm", {{"norm", "batch"}}, m.counts);
      changed("no norm", {{"norm", "none"}}, {11'901'864, 0, 1'812'267'008});
      changed("ReLU", {{"activation", "relu"}}, m.counts);
      changed("SiLU", {{"activation", "silu"}}, m.counts);
      changed("no residual", {{"residual", "0"}}, m.counts);
      changed("no channel MLP", {{"mlp", "0"}}, {2'461'352, 0, 232'325'120});
      changed("attention in stage 4", {{"mixers", "PPPA"}}, {14'038'440, 0, 1'919'944'704});
      changed("attention in stages 3, 4", {{"mixers", "PPAA"}}, {16'535'592, 0, 2'549'151'744});
      changed("spatial FC in stage 4", {{"mixers", "PPPF"}}, {11'919'978, 0, 1'814'725'632});
      changed("spatial FC in stages 3, 4", {{"mixers", "PPFF"}}, {12'150'474, 0, 1'888'484'352});
      m.variants.push_back({"small, 28²", small({1, 28, 28}), {343'002, 0, 3'870'528}});
    }
    list.push_back(std::move(m));
  }
}

// The second paper's networks of plain mixers: norms over H, W and C, StarReLU, factors of shortcuts, a linear head.
void add_plain_baselines(std::vector<ModelEntry>& list) {
  struct Size {
    std::string name;
    std::vector<int64_t> depths, widths;
    double drop_path;
    int64_t parameters, macs;
    std::string published_parameters, published_macs;
    int64_t random_frozen, random_macs;
    std::string random_published_macs, accuracies[3];  // of identity, random, pooling
  };
  const std::vector<Size> sizes{
      {"s12", k12, kS, 0.1, 11'891'712, 1'812'267'008, "11.9M", "1.8G", 235'298, 1'888'484'352, "1.9G", {"74.6 %", "76.6 %", "78.0 %"}},
      {"s24", k24, kS, 0.1, 21'341'464, 3'392'208'896, "21.3M", "3.4G", 470'596, 3'544'643'584, "3.5G", {"78.2 %", "78.2 %", "80.7 %"}},
      {"s36", k36, kS, 0.2, 30'791'216, 4'972'150'784, "30.8M", "5.0G", 705'894, 5'200'802'816, "5.2G", {"79.3 %", "79.5 %", "81.6 %"}},
      {"m36", k36, kM, 0.3, 56'077'168, 8'758'788'096, "56.1M", "8.8G", 705'894, 9'035'383'296, "9.0G", {"80.0 %", "81.2 %", "82.2 %"}},
      {"m48", k48, kM, 0.4, 73'346'056, 11'533'320'192, "73.3M", "11.5G", 941'192, 11'902'113'792, "11.9G", {"80.4 %", "81.4 %", "82.6 %"}}};
  const std::pair<std::string, std::string> families[] = {{"identityformer", "IIII"}, {"randformer", "IIRR"}, {"poolformerv2", "PPPP"}};
  for (size_t f = 0; f < 3; ++f)
    for (const Size& s : sizes) {
      const bool random = f == 1;
      const auto& [family, mixers] = families[f];
      ModelEntry m = entry({.name = family + "_" + s.name,
                            .baseline = true,
                            .mixers = mixers,
                            .norm = "group",
                            .activation = "starrelu",
                            .head = "linear",
                            .depths = s.depths,
                            .widths = s.widths,
                            .drop_path = random ? std::min(s.drop_path, 0.3) : s.drop_path,
                            .res_scale = true},
                           {s.parameters, random ? s.random_frozen : 0, random ? s.random_macs : s.macs});
      m.published_parameters = s.published_parameters;
      m.published_macs = random ? s.random_published_macs : s.published_macs;
      m.published_accuracy = s.accuracies[f];
      if (s.name == "s12")
        m.variants = {
            {"small, 32²", small({3, 32, 32}), random ? ModelCounts{342'038, 784, 4'685'056} : ModelCounts{342'038, 0, 4'633'856}}};
      list.push_back(std::move(m));
    }
}

// ConvFormer and CAFormer: norms over channels, an MLP as head.
void add_convolution_baselines(std::vector<ModelEntry>& list) {
  struct Size {
    std::string name;
    std::vector<int64_t> depths, widths;
    double drop_path, head_dropout;
    int64_t parameters, macs, macs_384, parameters_21841;
    std::string published_parameters, published_macs, accuracy;
  };
  const std::vector<int64_t> d18{3, 3, 9, 3}, d36{3, 12, 18, 3}, m{96, 192, 384, 576}, b{128, 256, 512, 768};
  for (const Size& s :
       {Size{"convformer_s18", d18, kS, 0.2, 0, 26'774'448, 3'940'984'320, 11'575'664'640, 69'477'657, "27M", "3.9G", "83.0 %"},
        Size{"convformer_s36", d36, kS, 0.3, 0, 40'012'152, 7'639'683'072, 22'445'309'952, 82'715'361, "40M", "7.6G", "84.1 %"},
        Size{"convformer_m36", d36, m, 0.4, 0, 57'051'640, 12'842'333'568, 37'733'695'488, 105'090'145, "57M", "12.8G", "84.5 %"},
        Size{"convformer_b36", d36, b, 0.6, 0, 99'882'616, 22'629'413'376, 66'492'235'776, 163'927'009, "100M", "22.6G", "84.8 %"},
        Size{"caformer_s18", d18, kS, 0.15, 0, 26'341'656, 4'106'941'440, 13'366'149'120, 69'044'865, "26M", "4.1G", "83.6 %"},
        Size{"caformer_s36", d36, kS, 0.3, 0.4, 39'297'102, 7'971'597'312, 25'984'253'952, 82'000'311, "39M", "8.0G", "84.5 %"},
        Size{"caformer_m36", d36, m, 0.4, 0.4, 56'204'878, 13'240'630'656, 41'977'276'416, 104'243'383, "56M", "13.2G", "85.2 %"},
        Size{"caformer_b36", d36, b, 0.6, 0.5, 98'753'614, 23'160'476'160, 72'150'343'680, 162'798'007, "99M", "23.2G", "85.5 %"}}) {
    const bool attention = s.name[1] == 'a';
    ModelEntry e = entry({.name = s.name,
                          .baseline = true,
                          .mixers = attention ? "CCAA" : "CCCC",
                          .norm = "layer",
                          .activation = "starrelu",
                          .head = "mlp",
                          .depths = s.depths,
                          .widths = s.widths,
                          .drop_path = s.drop_path,
                          .head_dropout = s.head_dropout,
                          .res_scale = true},
                         {s.parameters, 0, s.macs});
    e.published_parameters = s.published_parameters;
    e.published_macs = s.published_macs;
    e.published_accuracy = s.accuracy;
    e.variants = {at_384({s.parameters, 0, s.macs_384}), {"21,841 classes", {.classes = 21'841}, {s.parameters_21841, 0, 0}}};
    const auto in_small = [&](const std::string& what, Shape input, ModelCounts counts) {
      e.variants.push_back({what, small(std::move(input), {{"head", "linear"}}), counts});
    };
    if (s.name == "convformer_s18") {
      in_small("small, 32²", {3, 32, 32}, {497'922, 0, 7'160'064});
      in_small("small, 28²", {1, 28, 28}, {496'354, 0, 6'132'736});
    }
    if (s.name == "caformer_s18") in_small("small, 32²", {3, 32, 32}, {466'554, 0, 6'911'232});
    list.push_back(std::move(e));
  }
}

}  // namespace

std::vector<ModelEntry> metaformer() {
  std::vector<ModelEntry> list;
  add_poolformers(list);
  add_plain_baselines(list);
  add_convolution_baselines(list);
  return list;
}

}  // namespace lathe::family
