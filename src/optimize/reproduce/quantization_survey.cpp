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
#include "runtime/load.h"
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

CheckResult same_accuracy(const ReproduceContext& context) {
  std::vector<Classifier> models = found(context);
  if (models.empty()) return CheckResult::skipped(kNoAssets);
  bool good = true;
  std::string text;
  Device device;
  TechniqueContext techniques{.device = device};
  for (const Classifier& c : models) {
    const std::string path = (fs::path(context.assets) / "models" / c.file).string();
    Candidate original;
    original.graph = import_onnx(path).graph;
    DatasetOptions options;
    options.preprocess.mean = c.mean;
    options.preprocess.std = c.std;
    options.limit = context.quick ? 100 : 500;
    options.seed = context.seed;
    Dataset data((fs::path(context.assets) / "images/imagenet").string(), path, original.graph, options);
    context.tell(fmt::format("{} on {} pictures", c.file, data.size()));
    Candidate half = compose(original, {{&find_technique("bf16"), {}}}, techniques);
    Runner before(original, data.input_shapes()), after(half, data.input_shapes());
    Evaluation evaluation(before, data);
    Quality q = evaluation.compare(after);
    good = good && q.drop && q.drop->low <= 0 && q.drop->value <= 0.01;
    text += fmt::format("{}{}: {:.1f} % to {:.1f} %, drop {:.1f} points ({:.1f} to {:.1f})", text.empty() ? "" : "; ", fs::path(c.file).stem().string(),
                        100 * evaluation.accuracy()->value, 100 * q.accuracy->value, 100 * q.drop->value, 100 * q.drop->low, 100 * q.drop->high);
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
      {"errors that cancel beat rounding to nearest", "Guo et al. 2022 (SQuant), section 3: a smaller error of each layer's output, without data", "on at least 95 % of layers", true, cancelling_rounding},
  };
  return r;
}

}  // namespace lathe::experiments
