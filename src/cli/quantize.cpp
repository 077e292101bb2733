#include <fmt/format.h>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "optimize/dataset.h"
#include "options.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe::cli {
namespace {

struct QuantizeCommand {
  std::string model, data, output, scheme;
  int64_t samples = 64;
  uint64_t seed = 1;
  int threads = 1;
  bool json = false;
  PictureOptions pictures;
};

void run(const QuantizeCommand& c) {
  omp_set_num_threads(c.threads);
  Model model = load_model(c.model);
  clean_up(model.graph);
  const Scheme scheme = c.scheme.empty() ? default_scheme() : parse_scheme(c.scheme);
  std::optional<Dataset> data;
  Samples samples;
  if (!c.data.empty()) {
    data.emplace(c.data, c.model, model.graph, DatasetOptions{.preprocess = c.pictures.choices, .labels = "", .limit = c.samples, .seed = c.seed});
    samples = {data->size(), [&](size_t i) { return data->inputs(i); }};
  }
  const bool shows = isatty(2);
  const Quantized q = quantize_network(model.graph, scheme, samples, [&](const std::string& stage, double part) {
    if (shows) fmt::print(stderr, "\r{} {:3.0f} %  ", stage, part * 100);
  });
  if (shows) fmt::print(stderr, "\r{:60}\r", "");
  export_onnx(q.graph, c.output, model.metadata);
  const auto bytes_before = static_cast<double>(std::filesystem::file_size(c.model)), bytes = static_cast<double>(std::filesystem::file_size(c.output));
  if (c.json) {
    nlohmann::json layers = nlohmann::json::array();
    for (const LayerResult& l : q.layers)
      layers.push_back({{"name", l.layer.name}, {"op", l.layer.op}, {"weights", l.scheme.weights ? l.scheme.weights->text() : "float"}, {"on_codes", l.scheme.on_codes},
                        {"weight_noise", l.weight_noise}, {"storage_bits", l.storage_bits}, {"macs", l.layer.macs}});
    fmt::print("{}\n", nlohmann::json{{"model", c.model}, {"output", c.output}, {"scheme", scheme.text()}, {"samples", samples.count}, {"size_ratio", bytes / bytes_before},
                                     {"values_on_codes", q.values_on_codes}, {"layers", layers}, {"notices", q.notices}}.dump(2));
    return;
  }
  fmt::print("{:44} {:10} {:>10} {:>14} {:>12}\n", "layer", "operator", "weights", "quantizer", "noise dB");
  for (const LayerResult& l : q.layers)
    fmt::print("{:44.44} {:10} {:>10} {:>14} {:>12}\n", l.layer.name, l.layer.op, l.layer.rows * l.layer.columns,
               l.scheme.weights ? l.scheme.weights->text() : "float", l.scheme.weights && l.weight_noise > 0 ? fmt::format("{:.1f}", 10 * std::log10(l.weight_noise)) : "");
  for (const std::string& n : q.notices) fmt::print(stderr, "lathe: note: {}\n", n);
  fmt::print("{}: {} ({} samples), {:.2f} of the size\n", c.output, scheme.text(), samples.count, bytes / bytes_before);
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto* command = app.add_subcommand("quantize", "Quantize a network by one scheme; lathe optimize tries many");
  command->footer("The result is standard ONNX (QuantizeLinear, DequantizeLinear) that other runtimes can run.\n\n"
                  "A scheme is words: w:QUANTIZER for weights, a:uint8[,CALIBRATION] for activations, and corrections\n"
                  "(equalize, bias, smooth=0.5). docs/QUANTIZE.md lists them all.\n\n"
                  "Examples:\n  lathe quantize net.onnx --data pictures -o int8.onnx\n"
                  "  lathe quantize net.onnx --scheme \"w:int4,g64,gptq\" --data pictures -o int4.onnx\n"
                  "  lathe quantize net.onnx --scheme \"w:int8 a:uint8,entropy bias\" --data x.npz -o int8.onnx");
  auto c = std::make_shared<QuantizeCommand>();
  command->add_option("MODEL", c->model, "An ONNX file")->required()->type_name("FILE");
  command->add_option("--scheme", c->scheme, "How (\"w:int8,gptq a:uint8,mse bias\" by default)");
  command->add_option("--data", c->data, "Samples: a folder of pictures or arrays, or one .npy or .npz file")->type_name("DIR");
  command->add_option("--samples", c->samples, "At most so many of them, drawn by --seed")->check(CLI::Range(int64_t{1}, int64_t{1000000}))->capture_default_str();
  command->add_option("--seed", c->seed, "Of random choices")->capture_default_str();
  command->add_option("--threads", c->threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("-o,--output", c->output, "Where to write")->required()->type_name("FILE");
  command->add_flag("--json", c->json, "Print one JSON object");
  c->pictures.add_to(*command);
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
