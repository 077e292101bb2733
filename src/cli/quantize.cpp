#include <fmt/format.h>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "optimize/quantized.h"
#include "options.h"

namespace lathe::cli {
namespace {

struct QuantizeCommand {
  std::string model, data, output, scheme;
  int64_t samples = 64;
  uint64_t seed = 1;
  int threads = 1;
  bool json = false, sensitivity = false;
  PictureOptions pictures;
};

// What each layer alone does to the network under the scheme's quantizer.
void show_sensitivity(const QuantizeCommand& c, const Graph& graph, const Scheme& scheme, const Samples& samples) {
  const std::vector<Layer> layers = layers_of(graph);
  if (layers.empty()) fail(ErrorKind::kModel, "there is nothing to quantize: no convolution or matrix product with constant f32 weights");
  auto progress = [](double part) {
    if (isatty(2)) fmt::print(stderr, "\rmeasuring layers {:3.0f} %  ", part * 100);
  };
  const auto effects = layer_effects(graph, layers, {{scheme.weights, scheme.activations.has_value()}}, scheme.activations.value_or(ActivationScheme{}), samples, progress);
  std::vector<double> traces;
  std::string no_traces;
  try {
    traces = fisher_traces(graph, layers, samples, 2, c.seed, progress);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kUsage) throw;
    no_traces = e.what();
  }
  if (isatty(2)) fmt::print(stderr, "\r{:60}\r", "");
  if (c.json) {
    nlohmann::json list = nlohmann::json::array();
    for (size_t i = 0; i < layers.size(); ++i) {
      const LayerEffect& e = effects[i][0];
      list.push_back({{"name", layers[i].name}, {"op", layers[i].op}, {"weights", layers[i].rows * layers[i].columns}, {"weight_noise", e.weight_noise}, {"output_squared_error", e.squared_error},
                      {"output_mean_error", e.mean_error}, {"cosine_distance", e.cosine_distance}, {"divergence", e.divergence}, {"changed", e.changed}});
      if (!traces.empty()) list.back()["fisher_trace"] = traces[i];
    }
    fmt::print("{}\n", nlohmann::json{{"model", c.model}, {"scheme", scheme.text()}, {"samples", samples.count}, {"layers", list}}.dump(2));
    return;
  }
  fmt::print("{:40} {:8} {:>12} {:>12} {:>12} {:>12} {:>10} {:>12}\n", "layer", "operator", "weights dB", "output dB", "1 - cosine", "divergence", "changed %", "Fisher");
  auto decibel = [](double x) { return x > 0 ? fmt::format("{:.1f}", 10 * std::log10(x)) : std::string("-"); };
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerEffect& e = effects[i][0];
    fmt::print("{:40.40} {:8} {:>12} {:>12} {:>12.2e} {:>12.2e} {:>10.1f} {:>12}\n", layers[i].name, layers[i].op, decibel(e.weight_noise), decibel(e.squared_error), e.cosine_distance,
               e.divergence, 100 * e.changed, traces.empty() ? "-" : fmt::format("{:.2e}", traces[i]));
  }
  if (!no_traces.empty()) fmt::print(stderr, "lathe: note: {}\n", no_traces);
}

void run(const QuantizeCommand& c) {
  omp_set_num_threads(c.threads);
  const Scheme scheme = c.scheme.empty() ? default_scheme() : parse_scheme(c.scheme);
  QuantizeInput input(c.model, c.data, {.preprocess = c.pictures.choices, .labels = "", .limit = c.samples, .seed = c.seed});
  const Samples samples = input.samples();
  const bool shows = isatty(2);
  if (c.sensitivity) return show_sensitivity(c, input.model().graph, scheme, samples);
  if (c.output.empty()) fail(ErrorKind::kUsage, "--output is required");
  const Quantized q = quantize_network(input.model().graph, scheme, samples, [&](const std::string& stage, double part) {
    if (shows) fmt::print(stderr, "\r{} {:3.0f} %  ", stage, part * 100);
  });
  if (shows) fmt::print(stderr, "\r{:60}\r", "");
  export_onnx(q.graph, c.output, input.model().metadata);
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
                  "  lathe quantize net.onnx --scheme \"w:int8 a:uint8,entropy bias\" --data x.npz -o int8.onnx\n"
                  "  lathe quantize net.onnx --scheme \"w:int4\" --sensitivity --data pictures --samples 16");
  auto c = std::make_shared<QuantizeCommand>();
  command->add_option("MODEL", c->model, "An ONNX file")->required()->type_name("FILE");
  command->add_option("--scheme", c->scheme, "How (\"w:int8,gptq a:uint8,mse bias\" by default)");
  command->add_option("--data", c->data, "Samples: a folder of pictures or arrays, or one .npy or .npz file")->type_name("DIR");
  command->add_option("--samples", c->samples, "At most so many of them, drawn by --seed")->check(CLI::Range(int64_t{1}, int64_t{1000000}))->capture_default_str();
  command->add_option("--seed", c->seed, "Of random choices")->capture_default_str();
  command->add_option("--threads", c->threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("-o,--output", c->output, "Where to write")->type_name("FILE");
  command->add_flag("--sensitivity", c->sensitivity, "Quantize each layer alone and show what that does to the network, instead of writing one");
  command->add_flag("--json", c->json, "Print one JSON object");
  c->pictures.add_to(*command);
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
