// Where the time of a network goes: its slowest steps.
//
//   profile MODEL.onnx [THREADS]
#include <lathe/network.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: profile MODEL.onnx [THREADS]\n");
    return 2;
  }
  try {
    lathe::Network network = lathe::Network::open(argv[1]);
    const lathe::NetworkSummary& summary = network.summary();
    std::printf("%lld nodes, %.2f M parameters, %.2f M multiply-accumulates\n", static_cast<long long>(summary.nodes),
                1e-6 * static_cast<double>(summary.parameters), 1e-6 * static_cast<double>(summary.macs));
    for (const std::string& problem : summary.problems) std::printf("cannot run: %s\n", problem.c_str());

    lathe::Runner runner = network.compile({.threads = argc > 2 ? std::atoi(argv[2]) : 1, .batch = 1});
    // Zeros of whatever type: a network's time hardly depends on what it sees.
    std::vector<std::vector<int64_t>> zeros;
    for (const lathe::TensorInfo& input : runner.inputs()) {
      lathe::TensorView view{input.dtype, input.shape, nullptr};
      for (int64_t& dim : view.shape) dim = dim < 0 ? 1 : dim;
      zeros.emplace_back(view.size() * lathe::size_of(view.dtype) / sizeof(int64_t) + 1);
      view.data = zeros.back().data();
      runner.set_input(input.name, view);
    }
    runner.run();  // plans, warms up
    runner.set_profiling(true);
    for (int i = 0; i < 10; ++i) runner.run();

    std::vector<lathe::StepProfile> steps = runner.profile();
    double total = 0;
    for (const lathe::StepProfile& s : steps) total += s.milliseconds;
    std::sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
    if (steps.size() > 10) steps.resize(10);
    std::printf("%.3f ms a run, %.2f MiB of activations\n", total, static_cast<double>(runner.memory().arena_bytes) / 1048576);
    for (const lathe::StepProfile& s : steps)
      std::printf("%8.3f ms %5.1f %%  %-24s %s\n", s.milliseconds, 100 * s.milliseconds / total, s.kernel.c_str(), s.name.c_str());
    return 0;
  } catch (const lathe::Error& e) {
    std::fprintf(stderr, "profile: %s\n", e.what());
    return 1;
  }
}
