// What a quantization scheme costs: a row for each scheme with the accuracy (or agreement with the float network) on samples that
// were not used for calibration.
//
//   bench_quantization MODEL --data DIR "w:int8 a:uint8,minmax" "w:int8 a:uint8,entropy equalize bias" …
//
// --calibration samples are drawn for calibration, the others are evaluated.
#include <fmt/format.h>

#include <chrono>

#include "options.h"
#include "optimize/evaluate.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "transform/passes.h"

using namespace lathe;

int main(int argc, char** argv) {
  CLI::App app{"Accuracy of quantization schemes"};
  std::string model, folder, labels;
  std::vector<std::string> schemes;
  int64_t calibration = 64, limit = 100000;
  bool markdown = false;
  cli::PictureOptions pictures;
  app.add_option("MODEL", model)->required();
  app.add_option("SCHEMES", schemes)->required();
  app.add_option("--data", folder)->required();
  app.add_option("--labels", labels);
  app.add_option("--calibration", calibration);
  app.add_option("--samples", limit);
  app.add_flag("--markdown", markdown);
  pictures.add_to(app);
  CLI11_PARSE(app, argc, argv);
  omp_set_num_threads(1);
  try {
    Model m = load_model(model);
    clean_up(m.graph);
    Dataset data(folder, model, m.graph, {.preprocess = pictures.choices, .labels = labels, .limit = limit, .calibration = calibration, .seed = 1});
    Samples samples{data.calibration_size(), [&](size_t i) { return data.inputs(data.size() + i); }};
    Candidate original;
    original.graph = m.graph;
    Runner exact(original, data.input_shapes());
    Evaluation evaluation(exact, data);
    const auto before = evaluation.accuracy();
    const char* separator = markdown ? " | " : "  ";
    fmt::print("{}{}scheme{}accuracy{}drop{}agreement{}noise dB{}ms{}s\n", markdown ? "| " : "", "", separator, separator, separator, separator, separator, separator);
    for (const std::string& text : schemes) {
      const auto begin = std::chrono::steady_clock::now();
      Quantized q = quantize_network(m.graph, parse_scheme(text), samples);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      Candidate candidate;
      candidate.graph = q.graph;
      Runner near(candidate, data.input_shapes());
      const Quality quality = evaluation.compare(near);
      PairedTimes times = time_pairs(exact, near, data, {.seconds = 0.5, .turns = 31, .seed = 1, .stop = nullptr});
      auto share = [](const std::optional<Interval>& i) { return i ? fmt::format("{:.1f} [{:.1f}, {:.1f}]", 100 * i->value, 100 * i->low, 100 * i->high) : std::string("-"); };
      fmt::print("{}{:44}{}{} of {:.1f}{}{}{}{}{}{:.1f}{}{:.2f} of {:.2f}{}{:.1f}\n", markdown ? "| " : "", text, separator, quality.accuracy ? fmt::format("{:.1f}", 100 * quality.accuracy->value) : "-",
                 before ? 100 * before->value : 0.0, separator, share(quality.drop), separator, share(quality.agreement), separator,
                 quality.signal_to_noise.value_or(0), separator, times.second_seconds.value * 1e3, times.first_seconds.value * 1e3, separator, seconds);
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
