// Quantization: Rokh, Azarpeyvand and Khanteymoori 2023, "A Comprehensive Survey on Model Quantization for Deep Neural Networks in Image
// Classification", and the papers that it surveys. reproduce/quantization-survey/README.md says what each check stands for.
#include <cmath>
#include <filesystem>
#include <random>

#include "formats/onnx.h"
#include "graph/op.h"
#include "optimize/evaluate.h"
#include "optimize/reproduce.h"
#include "optimize/technique.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "transform/passes.h"
#include "transform/round_weights.h"

namespace lathe::experiments {
namespace {

namespace fs = std::filesystem;

struct Classifier {
  std::string file;
  std::vector<float> mean, std;  // empty: ImageNet's
};

const std::vector<Classifier>& classifiers() {
  static const std::vector<Classifier> all = {{"mobilenet_v1_025_224.onnx", {0.5f}, {0.5f}}, {"squeezenet1_1.onnx", {}, {}}, {"mobilenet_v2_100_224.onnx", {0.5f}, {0.5f}}};
  return all;
}

// Those that are there, the smallest alone when it is to be quick.
std::vector<Classifier> found(const ReproduceContext& context) {
  std::vector<Classifier> there;
  if (context.assets.empty() || !fs::is_directory(fs::path(context.assets) / "images/imagenet")) return there;
  for (const Classifier& c : classifiers())
    if (fs::exists(fs::path(context.assets) / "models" / c.file) && !(context.quick && !there.empty())) there.push_back(c);
  return there;
}

const char* kNoAssets = "no folder with models/ and images/imagenet/ was given (--assets)";

Tensor random_tensor_of(Shape shape, std::mt19937_64& random, double scale, double shift = 0) {
  std::normal_distribution<double> normal;
  Tensor t(DType::kF32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, shift + scale * normal(random));
  return t;
}

// Convolutions with batch norms between. With `open` what the convolutions make is an output too, so that nothing can fold.
Graph random_network(std::mt19937_64 random, bool open) {
  Graph g;
  std::vector<ValueId> sums;
  int64_t channels = 3;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, channels, 24, 24});
  for (int64_t width : {16, 24, 32}) {
    x = g.add("Conv", {x, g.add_constant(random_tensor_of({width, channels, 3, 3}, random, 1 / std::sqrt(9.0 * static_cast<double>(channels))))}, {{"pads", std::vector<int64_t>(4, 1)}});
    if (open) sums.push_back(x);
    Tensor variance = random_tensor_of({width}, random, 0.3, 1);
    for (int64_t i = 0; i < width; ++i) variance.set(i, std::fabs(variance.get(i)) + 0.1);
    x = g.add("BatchNormalization", {x, g.add_constant(random_tensor_of({width}, random, 0.2, 1)), g.add_constant(random_tensor_of({width}, random, 0.2)),
                                     g.add_constant(random_tensor_of({width}, random, 0.2)), g.add_constant(variance)});
    x = g.add("Relu", {x});
    channels = width;
  }
  g.outputs = {x};
  g.outputs.insert(g.outputs.end(), sums.begin(), sums.end());
  return g;
}

// The first output by the reference kernels, and how many batch norms were run.
Tensor answer(const Candidate& c, const std::map<std::string, Shape>& shapes, int* norms) {
  Candidate copy = c;
  copy.options.reference = true;
  copy.options.fuse = false;
  Runner runner(copy, shapes);
  *norms = 0;
  for (const Step& step : runner.plan().steps) *norms += runner.plan().graph[step.node].op->name == "BatchNormalization";
  return runner.run(random_inputs(runner.plan(), 3))[0].clone();
}

CheckResult folding_is_exact(const ReproduceContext& context) {
  std::mt19937_64 random(context.seed);
  const int networks = context.quick ? 5 : 50;
  double worst = 0;
  Device device;
  TechniqueContext techniques{.device = device};
  for (int i = 0; i < networks; ++i) {
    context.tell(fmt::format("network {} of {}", i + 1, networks));
    Candidate original, open;
    original.graph = random_network(random, false);
    open.graph = random_network(random, true);
    random.discard(1000);
    Candidate folded = compose(original, {{&find_technique("clean"), {}}}, techniques);
    std::map<std::string, Shape> shapes = {{"x", {1, 3, 24, 24}}};
    int left = 0, run = 0;
    Tensor without = answer(folded, shapes, &left), with = answer(open, shapes, &run);
    if (left > 0 || run == 0) return CheckResult::of(false, fmt::format("{} batch norms are left, {} were run before", left, run));
    worst = std::max(worst, largest_relative_error({without}, {with}));
  }
  return CheckResult::of(worst <= 1e-5, fmt::format("largest difference {:.1e} of the output's range, {} random networks", worst, networks));
}

CheckResult half_the_size(const ReproduceContext& context) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  double logs = 0;
  Device device;
  TechniqueContext techniques{.device = device};
  for (const Classifier& c : models) {
    context.tell(c.file);
    Candidate original;
    original.graph = import_onnx(fs::path(context.assets) / "models" / c.file).graph;
    Candidate half = compose(original, {{&find_technique("bf16"), {}}}, techniques);
    logs += std::log(static_cast<double>(onnx_bytes(half.graph).size()) / static_cast<double>(onnx_bytes(original.graph).size()));
  }
  double ratio = std::exp(logs / static_cast<double>(models.size()));
  return CheckResult::of(ratio <= 0.55, fmt::format("{:.3f} of the size, geometric mean of {} networks", ratio, models.size()));
}

// A classifier with its pictures: what a change of its network costs.
class Trial {
 public:
  Trial(const Classifier& c, const ReproduceContext& context, int64_t pictures) : path_((fs::path(context.assets) / "models" / c.file).string()) {
    original_.graph = import_onnx(path_).graph;
    DatasetOptions options;
    options.preprocess.mean = c.mean;
    options.preprocess.std = c.std;
    options.limit = pictures;
    options.calibration = 64;
    options.seed = context.seed;
    data_ = std::make_unique<Dataset>((fs::path(context.assets) / "images/imagenet").string(), path_, original_.graph, options);
    context.tell(fmt::format("{} on {} pictures", c.file, data_->size()));
    runner_ = std::make_unique<Runner>(original_, data_->input_shapes());
    evaluation_ = std::make_unique<Evaluation>(*runner_, *data_);
  }
  const Candidate& original() const { return original_; }
  double accuracy() const { return evaluation_->accuracy()->value; }
  Quality quality(const Candidate& changed) {
    Runner runner(changed, data_->input_shapes());
    return evaluation_->compare(runner);
  }
  // Pictures that are not evaluated.
  Samples samples() {
    return {data_->calibration_size(), [this](size_t i) { return data_->inputs(data_->size() + i); }};
  }
  Quantized quantized(std::string_view scheme) {
    Graph g = original_.graph;
    clean_up(g);
    return quantize_network(g, parse_scheme(scheme), samples());
  }
  Quality quality(std::string_view scheme) {
    Candidate c = original_;
    c.graph = quantized(scheme).graph;
    return quality(c);
  }
  std::string name() const { return fs::path(path_).stem().string(); }

 private:
  std::string path_;
  Candidate original_;
  std::unique_ptr<Dataset> data_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Evaluation> evaluation_;
};

// No drop of the accuracy that is beyond its interval, or of more than a point; `both`: neither.
template <class Change>
CheckResult keeps_accuracy(const ReproduceContext& context, bool both, const Change& change) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  bool good = true;
  std::string text;
  for (const Classifier& c : models) {
    Trial trial(c, context, context.quick ? 100 : 500);
    const Quality q = change(trial);
    const bool inside = q.drop && q.drop->low <= 0, small = q.drop && q.drop->value <= 0.01;
    good = good && (both ? inside && small : inside || small);
    text += fmt::format("{}{}: {:.1f} % to {:.1f} %, drop {:.1f} points ({:.1f} to {:.1f})", text.empty() ? "" : "; ", trial.name(), 100 * trial.accuracy(),
                        100 * q.accuracy->value, 100 * q.drop->value, 100 * q.drop->low, 100 * q.drop->high);
  }
  return CheckResult::of(good, text);
}

CheckResult same_accuracy(const ReproduceContext& context) {
  return keeps_accuracy(context, true, [](Trial& trial) {
    Device device;
    return trial.quality(compose(trial.original(), {{&find_technique("bf16"), {}}}, TechniqueContext{.device = device}));
  });
}

CheckResult int8_keeps_accuracy(const ReproduceContext& context) {
  return keeps_accuracy(context, false, [](Trial& trial) { return trial.quality(default_scheme().text()); });
}

// The error of what each layer makes, against rounding to nearest with the same grids.
CheckResult compensation(const ReproduceContext& context, const char* rounding) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  int better = 0, layers = 0;
  double logs = 0;
  for (const Classifier& c : models) {
    Trial trial(c, context, 10);
    const Quantized nearest = trial.quantized("w:int4 ends:same bias"), learned = trial.quantized(fmt::format("w:int4,{} ends:same bias", rounding));
    for (size_t i = 0; i < nearest.layers.size(); ++i) {
      if (!(nearest.layers[i].output_noise > 0)) continue;
      ++layers;
      better += learned.layers[i].output_noise < nearest.layers[i].output_noise;
      logs += std::log(std::max(learned.layers[i].output_noise, 1e-12) / nearest.layers[i].output_noise);
    }
  }
  return CheckResult::of(better >= 0.95 * layers, fmt::format("{} of {} layers, squared error {:.2f} of nearest (geometric mean), int4 by channel", better, layers, std::exp(logs / std::max(layers, 1))));
}
CheckResult gptq_beats_nearest(const ReproduceContext& context) { return compensation(context, "gptq"); }
CheckResult adaround_beats_nearest(const ReproduceContext& context) { return compensation(context, "adaround"); }

CheckResult gptq_halves_the_loss(const ReproduceContext& context) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  int halved = 0;
  std::string text;
  for (const Classifier& c : models) {
    Trial trial(c, context, context.quick ? 100 : 500);
    const Quality nearest = trial.quality("w:int4,g64"), learned = trial.quality("w:int4,g64,gptq bias");
    halved += learned.drop->value <= 0.5 * nearest.drop->value;
    text += fmt::format("{}{}: {:.1f} points lost instead of {:.1f}", text.empty() ? "" : "; ", trial.name(), 100 * learned.drop->value, 100 * nearest.drop->value);
  }
  return CheckResult::of(halved >= std::min<int>(2, static_cast<int>(models.size())), text);
}

// One scale for a whole tensor, then one for each channel, then biases corrected: what each step buys.
CheckResult steps(const ReproduceContext& context) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  bool good = true;
  std::string text;
  for (const Classifier& c : models) {
    Trial trial(c, context, context.quick ? 100 : 500);
    std::vector<double> accuracy, noise;
    for (const char* scheme : {"w:int8,tensor a:uint8,minmax", "w:int8 a:uint8,minmax", "w:int8,gptq a:uint8,mse bias"}) {
      const Quality q = trial.quality(scheme);
      accuracy.push_back(100 * q.accuracy->value);
      noise.push_back(q.signal_to_noise.value_or(0));
    }
    good = good && noise[0] < noise[1] && noise[1] < noise[2];
    text += fmt::format("{}{}: {:.1f} %, {:.1f} %, {:.1f} % ({:.0f}, {:.0f}, {:.0f} dB)", text.empty() ? "" : "; ", trial.name(), accuracy[0], accuracy[1], accuracy[2], noise[0], noise[1], noise[2]);
  }
  return CheckResult::of(good, text);
}

// Error of W·x for inputs that are never negative, as activations are: rounding that cancels against rounding to nearest.
CheckResult cancelling_rounding(const ReproduceContext& context) {
  std::mt19937_64 random(context.seed);
  const int layers = context.quick ? 50 : 400;
  int better = 0;
  double logs = 0;
  std::exponential_distribution<double> positive(1);
  for (int l = 0; l < layers; ++l) {
    const int64_t rows = 16, columns = 64 + static_cast<int64_t>(random() % 192);
    Tensor w = random_tensor_of({rows, columns}, random, 0.1), nearest = cast(cast(w, DType::kBF16), DType::kF32);
    Tensor cancelling = cast(round_weights(w, false, 1, {}), DType::kF32);
    double errors[2] = {0, 0};
    for (int s = 0; s < 16; ++s) {
      std::vector<double> x(static_cast<size_t>(columns));
      for (double& v : x) v = positive(random);
      for (int64_t r = 0; r < rows; ++r) {
        double d[2] = {0, 0};
        for (int64_t c = 0; c < columns; ++c) {
          d[0] += (nearest.get(r * columns + c) - w.get(r * columns + c)) * x[static_cast<size_t>(c)];
          d[1] += (cancelling.get(r * columns + c) - w.get(r * columns + c)) * x[static_cast<size_t>(c)];
        }
        for (int k : {0, 1}) errors[k] += d[k] * d[k];
      }
    }
    better += errors[1] < errors[0];
    logs += std::log(errors[1] / errors[0]);
  }
  double share = static_cast<double>(better) / layers;
  return CheckResult::of(share >= 0.95, fmt::format("{:.1f} % of {} random layers, squared error {:.2f} of rounding to nearest (geometric mean)", 100 * share, layers, std::exp(logs / layers)));
}

}  // namespace

Reproduction quantization_survey() {
  Reproduction r;
  r.key = "quantization-survey";
  r.title = "Quantization of classifiers after training";
  r.source = "Rokh et al. 2023, arXiv 2205.07877, and the papers that it surveys";
  r.checks = {
      {"batch norms fold exactly", "Jacob et al. 2018, section 3.2: folding is part of inference and changes no answer", "outputs equal to 1e-5 of their range", true, folding_is_exact},
      {"bf16 halves the file", "Kalamkar et al. 2019: 16 bits for each weight instead of 32", "at most 0.55 of the size", true, half_the_size},
      {"bf16 keeps the accuracy", "Kalamkar et al. 2019, table 1: the accuracy of FP32, no tuning", "no drop beyond the 95 % interval, none of more than a point", true, same_accuracy},
      {"int8 keeps the accuracy", "Jacob et al. 2018, section 4: within 2 points of float; survey, table of networks after training", "no drop beyond the 95 % interval, or none of more than a point", true, int8_keeps_accuracy},
      {"what each step buys", "Nagel et al. 2019, table 1: MobileNetV2 0.1 % with one scale for a tensor, 70 % and more with what follows", "more signal with scales by channel, and more again with rounding that compensates and biases corrected", true, steps},
      {"GPTQ beats rounding to nearest", "Frantar et al. 2023, section 5", "smaller error of the output on at least 95 % of layers", true, gptq_beats_nearest},
      {"AdaRound beats rounding to nearest", "Nagel et al. 2020, table 1", "smaller error of the output on at least 95 % of layers", false, adaround_beats_nearest},
      {"GPTQ halves the loss of int4", "Frantar et al. 2023, table 2: most of the loss of rounding to nearest at 4 bits is gone", "half the accuracy loss at most, on two networks (one when it is to be quick)", true, gptq_halves_the_loss},
      {"errors that cancel beat rounding to nearest", "Guo et al. 2022 (SQuant), section 3: a smaller error of each layer's output, without data", "on at least 95 % of layers", true, cancelling_rounding},
  };
  return r;
}

}  // namespace lathe::experiments
