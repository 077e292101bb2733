#include "train/quantization_aware.h"

#include <fmt/format.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>

#include "core/text.h"
#include "graph/op.h"
#include "quantize/calibrate.h"
#include "quantize/qdq.h"
#include "train/torch_network.h"
#include "train/training_nodes.h"
#include "transform/passes.h"

namespace lathe {
namespace {

const std::vector<std::string> kEstimators = {"identity", "clipped", "polynomial", "annealed"};

[[noreturn]] void wrong(std::string_view text, std::string_view word) {
  fail(ErrorKind::kUsage,
       "training scheme \"{}\": \"{}\" is not known; words are w:int2 … "
       "int8|twn|ttq|binary|dorefa:BITS[,channel|tensor][,lsq|minmax][,ESTIMATOR], "
       "a:uint2 … uint8[,lsq]|pact:BITS|hwgq:BITS|dorefa:BITS|sign[,ESTIMATOR], ends:same, "
       "pull=NUMBER; estimators are {}",
       text, word, fmt::join(kEstimators, ", "));
}

bool is_estimator(const std::string& word) {
  return std::find(kEstimators.begin(), kEstimators.end(), word) != kEstimators.end();
}
bool is_fake(const Node& n) { return n.op->name == "FakeQuantize" && n.op->domain == kLatheDomain; }

const char* family_name(Family f) {
  switch (f) {
    case Family::kUniform:
      return "uniform";
    case Family::kTernary:
      return "twn";
    case Family::kTrainedTernary:
      return "ttq";
    case Family::kBinary:
      return "binary";
    case Family::kDoReFa:
      return "dorefa";
    default:
      return nullptr;
  }
}

// Integer kernels take what is a whole number times a scale.
bool has_integer_codes(const QuantizerSpec& spec) {
  return spec.family != Family::kTrainedTernary &&
         !(spec.family == Family::kDoReFa && spec.bits > 7);
}

// The step of least squared error of numbers |x|, x ~ N(0, 1), to 0, Δ, … steps·Δ (Cai et al. 2017,
// HWGQ, section 4.1.1); 0.538 of two bits is theirs.
double half_wave_step(int bits) {
  if (bits == 2) return 0.538;
  const int steps = (1 << bits) - 1;
  double best = 0, least = HUGE_VAL;
  for (double step = 0.005; step < 2; step += 0.001) {
    double error = 0;
    for (double x = 0.005; x < 6; x += 0.01) {
      const double e = x - step * std::min<double>(std::nearbyint(x / step), steps);
      error += e * e * std::exp(-x * x / 2);
    }
    if (error < least) least = error, best = step;
  }
  return best;
}

Tensor numbers(const std::vector<float>& values) {
  Tensor t(DType::kF32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.data<float>());
  return t;
}

// The network as it will run, with the same handles for values and products: what training alone
// uses is passed by, norms are folded.
Graph as_deployed(const Graph& graph) {
  Graph g = graph;
  pass_by_training(g);
  fold_batch_norm(g);
  remove_dead(g);
  return g;
}

class Inserter {
 public:
  Inserter(Graph& g, const QatScheme& scheme, const Samples& samples, bool batch_statistics)
      : g_(g),
        scheme_(scheme),
        samples_(samples),
        batch_statistics_(batch_statistics),
        layers_(layers_of(g)) {}

  std::vector<std::string> run() {
    if (layers_.empty())
      fail(ErrorKind::kUsage,
           "there is nothing to quantize: no convolution or matrix product with constant f32 "
           "weights");
    const bool signs = scheme_.activations == "sign", rounds = !scheme_.activations.empty();
    if (rounds && samples_.count == 0)
      fail(ErrorKind::kUsage,
           "scheme \"{}\" needs samples: the first scales of activations are found by running the "
           "network",
           scheme_.text());
    std::set<int32_t> products;
    std::vector<std::string> names;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto spec = spec_of(i);
      if (!spec || !rounds || (signs && !is_end(i))) continue;
      if (has_integer_codes(*spec))
        products.insert(layers_[i].node.index);
      else
        names.push_back(layers_[i].name);
    }
    if (!names.empty())
      notices_.push_back(fmt::format(
          "{} layers have weights that no integer kernel takes: their inputs stay in float",
          names.size()));
    const QdqSites sites = products.empty() ? QdqSites{} : find_sites(as_deployed(g_), products);
    const std::map<int32_t, int> bits = bits_of_sites(sites);
    const std::vector<Observer> seen = observe_sites(sites);
    if (signs) insert_signs();
    for (size_t i = 0; i < sites.values.size(); ++i)
      if (!sites.same_as.contains(sites.values[i].index))
        insert_activation(sites.values[i], bits.at(sites.values[i].index), seen[i]);
    for (size_t i = 0; i < layers_.size(); ++i)
      if (const auto spec = spec_of(i))
        insert_weights(layers_[i], *spec, products.contains(layers_[i].node.index));
    infer_shapes(g_);
    verify(g_);
    return notices_;
  }

 private:
  bool is_end(size_t layer) const {
    return !scheme_.same_ends && (layer == 0 || layer + 1 == layers_.size());
  }
  std::optional<QuantizerSpec> spec_of(size_t layer) const {
    if (is_end(layer) && scheme_.weights) return QuantizerSpec{};
    return scheme_.weights;
  }

  // A value has the few bits where a product in the middle reads it, itself or through moves; 8
  // where only ends and sums do.
  std::map<int32_t, int> bits_of_sites(const QdqSites& sites) const {
    std::map<int32_t, int> bits;
    for (ValueId v : sites.values) bits[v.index] = 8;
    if (scheme_.activations == "sign") return bits;
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (is_end(i)) continue;
      int32_t v = g_[layers_[i].node].inputs[0].index;
      // Past what training alone uses.
      while (!bits.contains(v) && g_[ValueId{v}].producer &&
             (g_[g_[ValueId{v}].producer].op->name == "DropPath" ||
              g_[g_[ValueId{v}].producer].op->name == "Dropout"))
        v = g_[g_[ValueId{v}].producer].inputs[0].index;
      const auto same = sites.same_as.find(v);
      if (same != sites.same_as.end()) v = same->second;
      if (bits.contains(v)) bits[v] = scheme_.activation_bits;
    }
    return bits;
  }

  // What the values are over the samples, and what those above 0 deviate.
  std::vector<Observer> observe_sites(const QdqSites& sites) {
    std::vector<Observer> seen(sites.values.size());
    if (sites.values.empty()) return seen;
    Graph shown = g_;
    shown.outputs = sites.values;
    const torch::NoGradGuard guard;
    TorchNetwork net(std::move(shown));
    std::vector<double> squares(sites.values.size(), 0), counts(sites.values.size(), 0);
    for (size_t s = 0; s < samples_.count; ++s) {
      Tensors inputs;
      for (const Tensor& t : samples_.inputs(s)) inputs.push_back(to_torch(t));
      const Tensors y = net.forward(inputs, {.training = false,
                                             .batch_statistics = batch_statistics_,
                                             .progress = 0,
                                             .generator = {}});
      for (size_t i = 0; i < y.size(); ++i) {
        seen[i].add(from_torch(y[i]));
        squares[i] += y[i].clamp_min(0).square().sum(at::kDouble).item<double>();
        counts[i] += (y[i] > 0).sum().item<double>();
      }
    }
    for (size_t i = 0; i < seen.size(); ++i) {
      if (seen[i].not_finite() > 0)
        fail(ErrorKind::kModel,
             "{} holds numbers that are not finite for the samples: such a network cannot be "
             "quantized",
             g_[sites.values[i]].name);
      deviation_[sites.values[i].index] = counts[i] > 0 ? std::sqrt(squares[i] / counts[i]) : 1;
    }
    return seen;
  }

  void insert_activation(ValueId v, int bits, const Observer& seen) {
    const Range range = range_of(seen, {.method = RangeMethod::kSquaredError}, bits, false);
    const Grid grid = uniform_grid(range.least, range.most, bits, false);
    // Other families are for numbers from 0 on, in the middle of the network.
    const bool special = grid.zero == 0 && scheme_.activations != "uniform" &&
                         scheme_.activations != "sign" && bits == scheme_.activation_bits;
    std::string family = "uniform", end = "_scale";
    double number = static_cast<double>(grid.scale);
    if (special && scheme_.activations == "pact")
      family = "pact", number *= grid.high, end = "_clip";
    if (special && scheme_.activations == "hwgq")
      number = half_wave_step(bits) * deviation_[v.index], end = "_scale.frozen";
    if (special && scheme_.activations == "dorefa") number = 1.0 / grid.high, end = "_scale.frozen";
    const std::string estimator =
        scheme_.activation_estimator.empty() || scheme_.activations == "sign"
            ? "clipped"
            : scheme_.activation_estimator;
    const ValueId s = g_.add_constant(numbers({static_cast<float>(number)}), g_[v].name + end);
    const ValueId near = g_.add("ai.lathe::FakeQuantize", {v, s},
                                {{"family", family},
                                 {"bits", int64_t{bits}},
                                 {"signed", int64_t{0}},
                                 {"zero", int64_t{grid.zero}},
                                 {"estimator", estimator},
                                 {"batched", int64_t{1}}},
                                g_[v].name + "_rounded");
    replace_readers(g_, v, near, g_[near].producer);
  }

  // Each product reads the sign of its input: of what a Relu reads where that makes it, whose own
  // sign says nothing.
  void insert_signs() {
    std::map<int32_t, ValueId> made;
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (is_end(i)) continue;
      ValueId v = g_[layers_[i].node].inputs[0];
      if (g_[v].producer && g_[g_[v].producer].op->name == "Relu") v = g_[g_[v].producer].inputs[0];
      ValueId& near = made[v.index];
      if (!near)
        near = g_.add(
            "ai.lathe::FakeQuantize", {v},
            {{"family", std::string("sign")},
             {"bits", int64_t{1}},
             {"batched", int64_t{1}},
             {"estimator", scheme_.activation_estimator.empty() ? std::string("clipped")
                                                                : scheme_.activation_estimator}},
            g_[v].name + "_sign");
      g_[layers_[i].node].inputs[0] = near;
    }
  }

  void insert_weights(const Layer& layer, const QuantizerSpec& spec, bool on_codes) {
    const ValueId w = g_[layer.node].inputs[1];
    const std::string name = g_[w].name;
    QuantizerSpec first = spec;
    first.fit = ScaleFit::kSquaredError;
    std::vector<float> up, down;
    for (const Grid& grid : fit_rows(first, weight_rows(g_, layer))) {
      up.push_back(grid.uniform() ? grid.scale : grid.levels.back());
      down.push_back(grid.uniform() ? 0 : -grid.levels.front());
    }
    std::vector<ValueId> inputs{w};
    const bool learned = spec.family == Family::kUniform && scheme_.learned;
    if (learned) inputs.push_back(g_.add_constant(numbers(up), name + "_scale"));
    if (spec.family == Family::kTrainedTernary) {
      inputs.push_back(g_.add_constant(numbers(up), name + "_positive"));
      inputs.push_back(g_.add_constant(numbers(down), name + "_negative"));
    }
    const std::string estimator = !scheme_.weight_estimator.empty() ? scheme_.weight_estimator
                                  : learned                         ? "clipped"
                                                                    : "identity";
    const ValueId near =
        g_.add("ai.lathe::FakeQuantize", inputs,
               {{"family", std::string(family_name(spec.family))},
                {"bits", int64_t{spec.bits}},
                {"estimator", estimator},
                {"pull", static_cast<float>(scheme_.pull)},
                {"axis", spec.granularity == Granularity::kTensor ? int64_t{-1} : layer.axis},
                {"codes", int64_t{on_codes}}},
               name + "_rounded");
    g_[layer.node].inputs[1] = near;
  }

  Graph& g_;
  const QatScheme& scheme_;
  const Samples& samples_;
  const bool batch_statistics_;
  std::vector<Layer> layers_;
  std::map<int32_t, double> deviation_;  // by value index, of what is above 0
  std::vector<std::string> notices_;
};

// What was known of a layer's weights before norms were folded.
struct Rounded {
  std::string family;
  int64_t bits = 8;
  bool on_codes = false;
  Tensor rows;                // as they are rounded, f32
  std::vector<float> scales;  // of uniform ones, one or one a row
};

class Finisher {
 public:
  explicit Finisher(Graph& g) : g_(g) {}

  std::vector<std::string> run() {
    std::vector<NodeId> weights, activations;
    for (NodeId id : g_.order())
      if (is_fake(g_[id]))
        (g_[g_[id].inputs[0]].is_constant() ? weights : activations).push_back(id);
    for (NodeId id : weights) take_weights(id);
    for (NodeId id : activations) take_activation(id);
    fold_batch_norm(g_);
    remove_dead(g_);
    infer_shapes(g_);
    const std::vector<Layer> layers = layers_of(g_);
    std::map<int32_t, QuantizedTensor> codes;
    std::set<int32_t> products;
    std::vector<std::pair<const Layer*, QuantizedTensor>> others;
    for (const Layer& layer : layers) {
      const auto found = rounded_.find(layer.node.index);
      if (found == rounded_.end()) continue;
      QuantizedTensor q = quantized(layer, found->second);
      if (!found->second.on_codes) {
        others.emplace_back(&layer, std::move(q));
        continue;
      }
      products.insert(layer.node.index);
      codes.emplace(layer.node.index, std::move(q));
    }
    int64_t in_float = 0;
    for (const auto& [layer, q] : others) in_float += !store_weights(g_, *layer, q);
    if (in_float > 0)
      notices_.push_back(fmt::format(
          "the weights of {} layers have more than 16 levels: they are stored as f32", in_float));
    if (codes.empty()) {
      infer_shapes(g_);
      g_.compact();
    } else {
      insert_qdq(g_, find_sites(g_, products), grids_, layers, codes, {.float_biases = true});
    }
    verify(g_);
    return notices_;
  }

 private:
  void take_weights(NodeId id) {
    const Node n = g_[id];
    const auto readers = g_.consumers()[static_cast<size_t>(n.outputs[0].index)];
    require(readers.size() == 1, "{} is read by {} nodes", g_[n.outputs[0]].name, readers.size());
    // As libtorch rounds them: no second definition here.
    Tensors inputs;
    for (ValueId v : n.inputs) inputs.push_back(v ? to_torch(g_[v].constant) : at::Tensor());
    const torch::NoGradGuard guard;
    const Tensor near = from_torch(find_lowering(*n.op)({n, inputs, PassState{}})[0]);
    Rounded r{n.get_string("family"), n.get_int("bits"), n.get_int("codes") != 0, {}, {}};
    const int64_t axis = std::max<int64_t>(n.get_int("axis"), 0);
    if (r.family == "uniform") {
      const Tensor rows = to_rows(g_[n.inputs[0]].constant, axis);
      const bool one = n.get_int("axis") < 0;
      if (n.inputs.size() > 1) {
        for (int64_t i = 0; i < g_[n.inputs[1]].constant.size(); ++i)
          r.scales.push_back(std::abs(static_cast<float>(g_[n.inputs[1]].constant.get(i))));
      } else {
        const at::Tensor most = to_torch(rows).abs();
        const Tensor scales = from_torch((one ? most.amax().reshape({1}) : most.amax(1)) /
                                         (std::ldexp(1.0, static_cast<int>(r.bits) - 1) - 1));
        r.scales.assign(scales.data<float>(), scales.data<float>() + scales.size());
      }
    }
    const std::string name = g_[n.inputs[0]].name;
    g_[n.inputs[0]].name = name + "_whole";
    const ValueId now = g_.add_constant(near, name);
    g_.replace_uses(n.outputs[0], now);
    g_.remove(id);
    r.rows = near;
    rounded_[readers[0].index] = std::move(r);
  }

  void take_activation(NodeId id) {
    const Node n = g_[id];
    const ValueId v = n.inputs[0], near = n.outputs[0];
    if (n.get_string("family") == "sign") {
      const ValueId above = g_.add("GreaterOrEqual", {v, g_.add_constant(Tensor::scalar(0.0f))});
      g_.replace_uses(near, g_.add("Where",
                                   {above, g_.add_constant(Tensor::scalar(1.0f)),
                                    g_.add_constant(Tensor::scalar(-1.0f))},
                                   {}, g_[near].name + "s"));
      g_.remove(id);
      return;
    }
    const int64_t bits = n.get_int("bits"), zero = n.get_int("zero"),
                  high = (int64_t{1} << bits) - 1;
    auto scale = std::abs(static_cast<float>(g_[n.inputs[1]].constant.get(0)));
    if (n.get_string("family") == "pact") scale /= static_cast<float>(high - zero);
    g_.replace_uses(near, v);
    g_.remove(id);
    ValueId site = v;
    if (bits < 8) {
      // Fewer codes than u8 has: a Clip holds them, in the place of a Relu where one stands.
      ValueId from = v;
      const NodeId maker = g_[v].producer;
      if (zero == 0 && maker && g_[maker].op->name == "Relu" && g_[maker].op->domain.empty())
        from = g_[maker].inputs[0];
      const ValueId least = g_.add_constant(Tensor::scalar(scale * static_cast<float>(-zero))),
                    most = g_.add_constant(Tensor::scalar(scale * static_cast<float>(high - zero)));
      site = g_.add("Clip", {from, least, most}, {}, g_[v].name + "_limited");
      replace_readers(g_, v, site, g_[site].producer);
    }
    grids_[site.index] = Grid{scale, static_cast<int>(zero), 0, 255, {}, {}};
  }

  // Codes and grids of what stands in the layer now: the rounded weights, times what folding
  // brought to each row.
  QuantizedTensor quantized(const Layer& layer, const Rounded& r) const {
    const Tensor now = weight_rows(g_, layer), before = to_rows(r.rows, layer.axis);
    QuantizedTensor q;
    q.spec.granularity = Granularity::kChannel;
    const bool integer = r.on_codes || r.family == "uniform";
    int largest_code = 1;
    std::vector<std::vector<float>> levels(static_cast<size_t>(layer.rows));
    q.codes = Tensor(integer ? DType::kI8 : DType::kU8, now.shape());
    for (int64_t row = 0; row < layer.rows; ++row) {
      const float *was = before.data<float>() + row * layer.columns,
                  *is = now.data<float>() + row * layer.columns;
      int64_t top = 0;
      for (int64_t i = 1; i < layer.columns; ++i)
        if (std::abs(was[i]) > std::abs(was[top])) top = i;
      const double factor =
          was[top] != 0 ? static_cast<double>(is[top]) / static_cast<double>(was[top]) : 1;
      if (integer) {
        double scale = std::abs(static_cast<double>(was[top]));  // of ternary and binary ones
        if (r.family == "uniform")
          scale =
              static_cast<double>(r.scales[r.scales.size() == 1 ? 0 : static_cast<size_t>(row)]);
        if (r.family == "dorefa") scale = 1 / (std::ldexp(1.0, static_cast<int>(r.bits)) - 1);
        Grid grid{static_cast<float>(scale * std::abs(factor)), 0, -127, 127, {}, {}};
        if (!(grid.scale > 0)) grid.scale = std::numeric_limits<float>::min();  // all codes are 0
        for (int64_t i = 0; i < layer.columns; ++i) {
          const auto code =
              scale > 0 ? static_cast<int>(std::nearbyint(static_cast<double>(was[i]) / scale)) *
                              (factor < 0 ? -1 : 1)
                        : 0;
          require(std::abs(code) <= 127, "a code of {} in {}", code, layer.name);
          q.codes.set_int(row * layer.columns + i, code);
          largest_code = std::max(largest_code, std::abs(code));
        }
        q.grids.push_back(grid);
        continue;
      }
      auto& own = levels[static_cast<size_t>(row)];
      if (r.family == "binary")
        own = {-std::abs(is[top]), std::abs(is[top])};
      else if (r.family == "twn")
        own = {-std::abs(is[top]), 0, std::abs(is[top])};
      else
        own.assign(is, is + layer.columns);
      std::sort(own.begin(), own.end());
      own.erase(std::unique(own.begin(), own.end()), own.end());
      Grid grid;
      grid.levels = own;
      for (size_t k = 1; k < own.size(); ++k)
        grid.borders.push_back(own[k - 1] + (own[k] - own[k - 1]) / 2);
      grid.high = static_cast<int>(own.size()) - 1;
      for (int64_t i = 0; i < layer.columns; ++i)
        q.codes.set_int(row * layer.columns + i, grid.code(is[i]));
      q.grids.push_back(std::move(grid));
    }
    q.spec.bits = largest_code <= 7 && integer ? 4 : 8;
    return q;
  }

  Graph& g_;
  std::map<int32_t, Rounded> rounded_;  // by node index of the product
  std::map<int32_t, Grid> grids_;       // by value index
  std::vector<std::string> notices_;
};

}  // namespace

QatScheme parse_qat_scheme(std::string_view text) {
  QatScheme scheme;
  for (const std::string& word : words_of(text, ' ')) {
    if (word.starts_with("w:") && word != "w:float") {
      std::string quantizer;
      for (const std::string& part : words_of(std::string_view(word).substr(2), ',')) {
        if (is_estimator(part))
          scheme.weight_estimator = part;
        else if (part == "lsq" || part == "minmax")
          scheme.learned = part == "lsq";
        else
          quantizer += (quantizer.empty() ? "" : ",") + part;
      }
      scheme.weights = parse_quantizer(quantizer);
      if (!family_name(scheme.weights->family) ||
          scheme.weights->granularity == Granularity::kGroup ||
          (scheme.weights->family == Family::kUniform && !scheme.weights->symmetric))
        wrong(text, word);
      // One bit of DoReFa is the sign times the mean.
      if (scheme.weights->family == Family::kDoReFa && scheme.weights->bits == 1)
        scheme.weights->family = Family::kBinary,
        scheme.weights->granularity = Granularity::kTensor;
    } else if (word.starts_with("a:")) {
      bool first = true;
      for (const std::string& part : words_of(std::string_view(word).substr(2), ',')) {
        if (!first && is_estimator(part)) {
          scheme.activation_estimator = part;
        } else if (first) {
          const size_t colon = part.find(':');
          std::string digits = colon == part.npos ? "" : part.substr(colon + 1);
          scheme.activations = part.substr(0, colon);
          if (scheme.activations.starts_with("uint"))
            digits = part.substr(4), scheme.activations = "uniform";
          const bool known = scheme.activations == "uniform" || scheme.activations == "pact" ||
                             scheme.activations == "hwgq" || scheme.activations == "dorefa";
          if (scheme.activations == "sign"
                  ? colon != part.npos
                  : !known || digits.size() != 1 || digits[0] < '2' || digits[0] > '8')
            wrong(text, word);
          scheme.activation_bits = scheme.activations == "sign" ? 1 : digits[0] - '0';
        } else if (part != "lsq" || scheme.activations != "uniform") {
          wrong(text, word);
        }
        first = false;
      }
      if (first) wrong(text, word);
    } else if (word == "ends:same") {
      scheme.same_ends = true;
    } else if (word.starts_with("pull=")) {
      char* end = nullptr;
      scheme.pull = std::strtod(word.c_str() + 5, &end);
      if (word.size() == 5 || *end != 0 || !(scheme.pull >= 0 && scheme.pull <= 1e6))
        wrong(text, word);
    } else if (word != "w:float") {
      wrong(text, word);
    }
  }
  if (!scheme.weights)
    fail(ErrorKind::kUsage, "training scheme \"{}\" says nothing of weights: w:int8, say", text);
  if (scheme.activations == "sign" && scheme.weights->family == Family::kDoReFa &&
      scheme.weights->bits > 4)
    wrong(text, "a:sign");
  return scheme;
}

std::string QatScheme::text() const {
  std::string s = "w:" + (weights ? weights->text() : std::string("float"));
  if (weights && weights->family == Family::kUniform && !learned) s += ",minmax";
  if (!weight_estimator.empty()) s += "," + weight_estimator;
  if (activations == "uniform")
    s += fmt::format(" a:uint{}", activation_bits);
  else if (activations == "sign")
    s += " a:sign";
  else if (!activations.empty())
    s += fmt::format(" a:{}:{}", activations, activation_bits);
  if (!activation_estimator.empty()) s += "," + activation_estimator;
  if (same_ends) s += " ends:same";
  if (pull > 0) s += fmt::format(" pull={:g}", pull);
  return s;
}

std::vector<std::string> insert_fake_quantize(Graph& graph, const QatScheme& scheme,
                                              const Samples& samples, bool batch_statistics) {
  return Inserter(graph, scheme, samples, batch_statistics).run();
}

std::vector<std::string> finish_quantization(Graph& graph) { return Finisher(graph).run(); }

}  // namespace lathe
