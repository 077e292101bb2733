// The public functions over optimize/ and quantize/: settings in, reports out, nothing else.
#include "lathe/optimize.h"

#include <nlohmann/json.hpp>

#include "core/parallel.h"
#include "core/version.h"
#include "kernels/probe.h"
#include "optimize/quantized.h"
#include "optimize/report.h"

namespace lathe {
namespace {

PreprocessChoices choices_of(const PictureSteps& steps) {
  PreprocessChoices c;
  c.file = steps.file;
  c.mean = steps.mean;
  c.std = steps.std;
  c.scale = steps.scale;
  c.resize = steps.resize;
  c.stretch = steps.stretch;
  return c;
}

}  // namespace

QuantizeReport quantize_model(const std::string& model, const std::string& output, const QuantizeSettings& settings) {
  const ThreadScope threads(settings.threads);
  const Scheme scheme = settings.scheme.empty() ? default_scheme() : parse_scheme(settings.scheme);
  DatasetOptions options;
  options.preprocess = choices_of(settings.pictures);
  options.limit = settings.samples;
  options.seed = settings.seed;
  QuantizeInput input(model, settings.data, options);
  const Samples samples = input.samples();
  const Quantized q = quantize_network(input.model().graph, scheme, samples, settings.progress);
  export_onnx(q.graph, output, input.model().metadata);
  QuantizeReport report{scheme.text(), samples.count, {}, q.notices};
  for (const LayerResult& l : q.layers)
    report.layers.push_back({l.layer.name, l.layer.op, l.scheme.weights ? l.scheme.weights->text() : "float", l.scheme.on_codes, l.weight_noise, l.storage_bits});
  return report;
}

OptimizeReport optimize_model(const std::string& model, const std::string& folder, const OptimizeSettings& settings) {
  OptimizeRequest request;
  request.model = model;
  request.data = settings.data;
  request.dataset.preprocess = choices_of(settings.pictures);
  request.dataset.labels = settings.labels;
  if (!settings.metric.empty()) request.metric = parse_metric(settings.metric);
  if (!settings.budget.empty()) request.budget = parse_budget(settings.budget);
  request.only = settings.techniques;
  request.exclude = settings.exclude;
  request.threads = settings.threads;
  request.seed = settings.seed;
  request.trials = settings.trials;
  request.time_limit = settings.seconds;
  request.store = settings.store;
  request.stop = settings.stop;
  if (settings.progress) request.progress = [&](const OptimizeProgress& p) { settings.progress(p.stage, p.part); };
  check_output(folder, settings.replace);
  const ThreadScope threads(settings.threads);
  const Device device = probe_host();
  const Optimization result = optimize(request, device);
  const nlohmann::json json = report_json(result, request, device, {kVersion, "lathe::optimize_model", host_identity(), 0, 0});
  write_result(result, json, folder, settings.replace);
  OptimizeReport report;
  report.met = result.chosen.has_value();
  report.reason = result.reason;
  report.json = json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  if (result.chosen) {
    const Trial& best = result.trials[*result.chosen];
    report.techniques = best.name();
    if (best.speedup) report.speedup = best.speedup->value, report.speedup_low = best.speedup->low, report.speedup_high = best.speedup->high;
    report.latency_ms = best.latency.value * 1e3;
    report.size_ratio = static_cast<double>(best.size_bytes) / static_cast<double>(std::max<int64_t>(result.trials[0].size_bytes, 1));
    if (best.quality) report.drop = best.figures().drop;
  }
  return report;
}

}  // namespace lathe
