#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "factorize/low_rank.h"
#include "optimize/quantized.h"
#include "options.h"

namespace lathe::cli {
namespace {

struct FactorizeCommand {
  std::string model, data, output;
  LowRankOptions options;
  int threads = 1;
  bool json = false;
  PictureOptions pictures;
};

void run(FactorizeCommand c) {
  omp_set_num_threads(c.threads);
  if (c.options.ratio == 0 && c.options.energy == 0) c.options.ratio = 0.5;
  QuantizeInput input(c.model, c.data, {.preprocess = c.pictures.choices, .labels = "", .limit = static_cast<int64_t>(c.options.samples), .seed = c.options.seed});
  c.options.weighted = !c.data.empty();
  const bool shows = isatty(2);
  const Factorized f = factorize(input.model().graph, c.options, c.data.empty() ? Samples{} : input.samples(), [&](const std::string& layer, double part) {
    if (shows) fmt::print(stderr, "\r\033[K{:3.0f} %  {}", part * 100, layer);
  });
  if (shows) fmt::print(stderr, "\r\033[K");
  if (f.layers.empty()) fail(ErrorKind::kModel, "there is nothing to factorize: no convolution or matrix product with constant f32 weights");
  export_onnx(f.graph, c.output, input.model().metadata);
  const double ratio = static_cast<double>(f.weights()) / static_cast<double>(std::max<int64_t>(f.weights_before(), 1));
  if (c.json) {
    nlohmann::json layers = nlohmann::json::array();
    for (const LowRankLayer& l : f.layers)
      layers.push_back({{"name", l.layer.name}, {"op", l.layer.op}, {"rows", l.layer.rows}, {"columns", l.layer.columns}, {"rank", l.rank > 0 ? nlohmann::json(l.rank) : nlohmann::json()}, {"why", l.why},
                        {"left_out", l.left_out}, {"weights", l.weights}, {"weights_before", l.weights_before}, {"macs", l.macs}, {"macs_before", l.layer.macs}});
    fmt::print("{}\n", nlohmann::json{{"model", c.model}, {"output", c.output}, {"weighted", c.options.weighted}, {"weights", f.weights()}, {"weights_before", f.weights_before()}, {"layers", layers}}.dump(2));
    return;
  }
  fmt::print("{:44} {:8} {:>12} {:>6} {:>12} {:>10}\n", "layer", "operator", "matrix", "rank", "weights", "left out");
  for (const LowRankLayer& l : f.layers)
    fmt::print("{:44.44} {:8} {:>12} {:>6} {:>12} {:>10}\n", l.layer.name, l.layer.op, fmt::format("{}x{}", l.layer.rows, l.layer.columns), l.rank > 0 ? std::to_string(l.rank) : "-",
               l.rank > 0 ? fmt::format("{:.2f}", static_cast<double>(l.weights) / static_cast<double>(l.weights_before)) : "1.00", l.rank > 0 ? fmt::format("{:.2e}", l.left_out) : l.why);
  fmt::print("{}: {} weights of {} ({:.2f}), {}\n", c.output, f.weights(), f.weights_before(), ratio, c.options.weighted ? "weighted by the inputs of the samples" : "unweighted");
}

}  // namespace

void add_factorize(CLI::App& app) {
  auto* command = app.add_subcommand("factorize", "Replace products by two of low rank (singular value decomposition)");
  command->footer("The result is standard ONNX. A layer that two factors would make larger stays, unless --enlarge. Accuracy falls with\n"
                  "the rank; lathe finetune brings part of it back (docs/FACTORIZE.md).\n\n"
                  "Examples:\n  lathe factorize vit.onnx --rank 0.4 -o small.onnx\n"
                  "  lathe factorize vit.onnx --rank 0.4 --data pictures -o small.onnx\n"
                  "  lathe factorize net.onnx --energy 0.99 --only 'blocks.*.mlp*' -o small.onnx");
  auto c = std::make_shared<FactorizeCommand>();
  command->add_option("MODEL", c->model, "An ONNX file")->required()->type_name("FILE");
  auto* rank = command->add_option("--rank", c->options.ratio, "Of each layer, as a part of the full one (0.5)")->check(CLI::Range(1e-6, 1.0));
  command->add_option("--energy", c->options.energy, "Instead: the least rank that keeps this part of the sum of squares")->check(CLI::Range(1e-6, 1.0))->excludes(rank);
  command->add_option("--data", c->data, "Samples, for the rank that matters to what they make of it: a folder of pictures or arrays, or one .npy or .npz file")->type_name("DIR");
  command->add_option("--samples", c->options.samples, "At most so many of them, drawn by --seed")->check(CLI::Range(size_t{1}, size_t{1000000}))->capture_default_str();
  command->add_option("--only", c->options.only, "Layers named like this, * stands for anything (repeat for several)")->type_name("PATTERN")->allow_extra_args(false);
  command->add_flag("--enlarge", c->options.enlarge, "Also layers that two factors make larger");
  command->add_option("--seed", c->options.seed, "Of random choices")->capture_default_str();
  command->add_option("--threads", c->threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("-o,--output", c->output, "Where to write")->required()->type_name("FILE");
  command->add_flag("--json", c->json, "Print one JSON object");
  c->pictures.add_to(*command);
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
