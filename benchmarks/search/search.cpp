// Is the search better than drawing at random? On recorded tables of measured trials.
//
//   bench_search record --model net.onnx --data pictures --techniques bf16,tuned --blocks 9 -o table.tsv
//   bench_search compare benchmarks/search/*.tsv
//
// `record` measures every point of a space: each technique with or without, and for each that is set layer by layer, the layers
// in so many blocks of neighbours, each block at one of the choices.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <numeric>

#include "core/file.h"
#include "formats/onnx.h"
#include "kernels/probe.h"
#include "optimize/evaluate.h"
#include "recorded.h"

namespace lathe {
namespace {

struct RecordOptions {
  std::string model, data, output;
  std::vector<std::string> techniques;
  DatasetOptions dataset;
  size_t blocks = 9, samples = 32;
  double seconds = 0.12;
};

// The layers of one technique, block by block, and what they may be set to.
struct Blocks {
  const Technique* technique;
  const Knob* knob;
  std::vector<std::vector<std::string>> layers;
};

void record(const RecordOptions& o) {
  Model model = import_onnx(o.model);
  Dataset data(o.data, o.model, model.graph, o.dataset);
  Candidate base;
  base.graph = model.graph;
  Device device;
  TechniqueContext context{.device = device};
  context.input_shapes = data.input_shapes();
  context.calibration = {.count = data.calibration_size(), .labelled = data.labelled(), .inputs = [&](size_t i) { return data.inputs(data.size() + i); }, .label = nullptr};
  std::vector<Dimension> dimensions;
  std::vector<Blocks> blocks;  // one a dimension; those of no layers switch their technique
  for (const std::string& key : o.techniques) {
    const Technique& t = find_technique(key);
    bool by_layer = false;
    for (const Knob& knob : t.knobs) {
      if (knob.kind != Knob::Kind::kLayers) continue;
      by_layer = true;
      std::vector<std::string> names = knob.layers(base, context);
      for (size_t b = 0; b < o.blocks; ++b) {
        auto begin = names.begin() + static_cast<std::ptrdiff_t>(names.size() * b / o.blocks), end = names.begin() + static_cast<std::ptrdiff_t>(names.size() * (b + 1) / o.blocks);
        // The last choice leaves the layer as it was: choice 0 of a dimension.
        dimensions.push_back({fmt::format("{}.{}", key, b), static_cast<int>(knob.choices.size())});
        blocks.push_back({&t, &knob, {std::vector<std::string>(begin, end)}});
      }
    }
    if (by_layer) continue;
    dimensions.push_back({key, 2});
    blocks.push_back({&t, nullptr, {}});
  }
  auto parts_of = [&](const Point& p) {
    std::vector<Applied> parts;
    for (size_t d = 0; d < p.size(); ++d) {
      const Blocks& b = blocks[d];
      auto part = std::find_if(parts.begin(), parts.end(), [&](const Applied& a) { return a.technique == b.technique; });
      if (!b.knob) {
        if (p[d]) parts.push_back({b.technique, {}});
        continue;
      }
      if (part == parts.end()) part = parts.insert(parts.end(), {b.technique, {}});
      LayerChoices set = part->settings.layers(b.knob->name);
      const size_t choices = b.knob->choices.size(), choice = (static_cast<size_t>(p[d]) + choices - 1) % choices;
      for (const std::string& layer : b.layers[0])
        if (choice > 0) set[layer] = b.knob->choices[choice];
      part->settings[b.knob->name] = std::move(set);
    }
    return parts;
  };
  Runner original(base, data.input_shapes());
  Evaluation evaluation(original, data);
  const auto size = static_cast<double>(onnx_bytes(base.graph).size());
  std::string text = fmt::format("# {}: {} samples, {} s of timing a point\n# {}\ndimensions", std::string_view(o.model).substr(o.model.rfind('/') + 1), o.samples, o.seconds, host_identity());
  size_t count = 1;
  for (const Dimension& d : dimensions) {
    text += fmt::format(" {}:{}", d.name, d.choices);
    count *= static_cast<size_t>(d.choices);
  }
  text += "\n";
  for (size_t n = 0; n < count; ++n) {
    Point p;
    std::string digits;
    size_t rest = n;
    for (const Dimension& d : dimensions) {
      p.push_back(static_cast<int>(rest % static_cast<size_t>(d.choices)));
      digits += static_cast<char>('0' + p.back());
      rest /= static_cast<size_t>(d.choices);
    }
    Candidate c = compose(base, parts_of(p), context);
    Runner runner(c, data.input_shapes());
    Quality q = evaluation.compare(runner, nullptr, o.samples);
    PairedTimesOptions timing;
    timing.seconds = o.seconds;
    timing.seed = n + 1;
    // The least of many turns: a table is to hold the candidates and not what else ran on the machine.
    PairedTimes times = time_pairs(original, runner, data, timing);
    double ratio = *std::min_element(times.second.begin(), times.second.end()) / *std::min_element(times.first.begin(), times.first.end());
    text += fmt::format("{}\t{:.4f}\t{:.4g}\t{:.4f}\n", digits, ratio, q.mean_error, static_cast<double>(onnx_bytes(c.graph).size()) / size);
    if (n % 16 == 0) fmt::print(stderr, "\r{} of {}", n, count);
  }
  fmt::print(stderr, "\n");
  write_file(o.output, text);
}

void compare_tables(const std::vector<std::string>& tables, int trials, int seeds) {
  fmt::print("{:<44} {:>6} {:>10} {:>10} {:>10} {:>8} {:>8}\n", "table", "points", "search", "random", "all", "ratio", "worst");
  for (const std::string& path : tables) {
    RecordedTable table = read_table(path);
    for (size_t axes : {2, 3}) {
      Comparison c = compare(table, trials, seeds, axes);
      fmt::print("{:<44} {:>6} {:>10.4g} {:>10.4g} {:>10.4g} {:>8.3f} {:>8.3f}\n", fmt::format("{}, {}", path.substr(path.rfind('/') + 1), axes == 2 ? "time and error" : "and size"),
                 table.points.size(), c.guided, c.random, c.all, c.ratio, c.worst);
    }
  }
  fmt::print("hypervolumes at {} trials, means over {} seeds; ratio: search over random's mean\n", trials, seeds);
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) {
  CLI::App app{"Records tables of trials and compares the search with random search on them."};
  app.require_subcommand(1);
  lathe::RecordOptions o;
  auto* record = app.add_subcommand("record", "Measure every point of a space");
  record->add_option("--model", o.model)->required();
  record->add_option("--data", o.data)->required();
  record->add_option("-o,--output", o.output)->required();
  record->add_option("--techniques", o.techniques)->delimiter(',')->required();
  record->add_option("--blocks", o.blocks)->capture_default_str();
  record->add_option("--samples", o.samples)->capture_default_str();
  record->add_option("--seconds", o.seconds)->capture_default_str();
  record->add_option("--mean", o.dataset.preprocess.mean)->expected(1, 3);
  record->add_option("--std", o.dataset.preprocess.std)->expected(1, 3);
  std::vector<std::string> tables;
  int trials = 40, seeds = 5;
  auto* compare = app.add_subcommand("compare", "Hypervolumes of the search and of random search");
  compare->add_option("TABLE", tables)->required();
  compare->add_option("--trials", trials)->capture_default_str();
  compare->add_option("--seeds", seeds)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    o.dataset.limit = static_cast<int64_t>(o.samples);
    o.dataset.calibration = 64;
    if (*record) lathe::record(o);
    if (*compare) lathe::compare_tables(tables, trials, seeds);
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_search: {}\n", e.what());
    return 1;
  }
}
