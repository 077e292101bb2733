// How many samples a second the loader gives: bench_data DATA [--augment …] [--threads 1 2] [--size 0] [--seconds 1] [--rounds 5]. Prints
// the best round of each number of threads, taken in turns: the first epoch, which decodes, and later ones, from what was kept; beside it
// samples for each second of processor time, which other programs on the machine do not change much.
#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>

#include "data/loader.h"

using namespace lathe;

namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Samples a second, the best seen.
struct Rate {
  double wall = 0, processor = 0;
};
struct Rates {
  Rate first, later;
};

void measure(const std::shared_ptr<const TrainingSet>& set, const LoaderOptions& options, double seconds, Rates& best) {
  Loader loader(set, options);
  for (bool later : {false, true}) {
    const int64_t epoch = later ? 1 : 0;
    // Kept samples are whole only after an epoch; one that takes longer than a round is measured in part, and not later.
    const auto begin = std::chrono::steady_clock::now();
    const double before = processor_seconds();
    size_t samples = 0;
    int64_t batches = 0;
    while (batches < loader.batches() && (!later || seconds_since(begin) < seconds)) {
      Batch b = loader.next();
      if (b.epoch < epoch) continue;
      samples += b.samples.size();
      ++batches;
    }
    Rate& rate = later ? best.later : best.first;
    rate.wall = std::max(rate.wall, static_cast<double>(samples) / seconds_since(begin));
    rate.processor = std::max(rate.processor, static_cast<double>(samples) / (processor_seconds() - before));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Samples a second of the training data loader");
  std::string data, augment = "none";
  std::vector<int> threads{1, 2};
  int64_t size = 0, batch = 128;
  double seconds = 1;
  int rounds = 5;
  app.add_option("data", data)->required();
  app.add_option("--augment", augment);
  app.add_option("--threads", threads);
  app.add_option("--size", size);
  app.add_option("--batch", batch);
  app.add_option("--seconds", seconds);
  app.add_option("--rounds", rounds);
  CLI11_PARSE(app, argc, argv);
  try {
    DataParts parts = open_dataset(data);
    fmt::print("{}\naugmentation {}\n", parts.description, augment);
    LoaderOptions options;
    options.batch = batch;
    options.augment = parse_augment(augment);
    options.augment.height = options.augment.width = size;
    std::vector<Rates> rates(threads.size());
    for (int round = 0; round < rounds; ++round)
      for (size_t i = 0; i < threads.size(); ++i) {
        options.threads = threads[i];
        measure(parts.train, options, seconds, rates[i]);
      }
    for (size_t i = 0; i < threads.size(); ++i)
      for (const auto& [rate, what] : {std::pair(rates[i].first, "first epoch"), std::pair(rates[i].later, "later epochs")})
        fmt::print("{} threads, {}: {:.0f} samples/s, {:.0f} a processor second\n", threads[i], what, rate.wall, rate.processor);
  } catch (const Error& e) {
    fmt::print(stderr, "bench_data: {}\n", e.what());
    return 1;
  }
  return 0;
}
