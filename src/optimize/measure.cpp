#include "optimize/measure.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

namespace lathe {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// A turn times at least so much at a stretch: the clock and a first cache miss are then below a per cent.
constexpr double kStretch = 1e-3;
constexpr int kMaxBurst = 256;
// The bootstrap of a median needs some turns to say anything.
constexpr int kLeastTurns = 15;
// After so few turns a candidate is given up whose every turn was slower by more than this.
constexpr int kHopelessTurns = 5;
constexpr double kHopeless = 0.5;
// Inputs that take turns: timing may depend on the data (denormals, early outs), and one could be odd.
constexpr size_t kInputs = 8;

// Refilling the caches takes a few milliseconds at most: beyond this it is below the noise.
constexpr double kNeedsWarmUp = 0.1;

struct Burst {
  int runs = 1;
  bool warm_up = true;  // brings code and weights back into the caches, as in a steady stream of requests
};

double time_burst(Runner& runner, const std::vector<Tensor>& inputs, const Burst& burst) {
  if (burst.warm_up) runner.run(inputs);
  auto begin = Clock::now();
  for (int i = 0; i < burst.runs; ++i) runner.run(inputs);
  return since(begin) / burst.runs;
}

Burst burst_of(Runner& runner, const std::vector<Tensor>& inputs) {
  double seconds = time_burst(runner, inputs, {});
  return {static_cast<int>(std::clamp(std::ceil(kStretch / std::max(seconds, 1e-9)), 1.0, static_cast<double>(kMaxBurst))), seconds < kNeedsWarmUp};
}

}  // namespace

Runner::Runner(const Candidate& candidate, const std::map<std::string, Shape>& input_shapes) : threads_(candidate.threads) {
  omp_set_num_threads(threads_);
  PlanOptions options = candidate.options;
  options.input_shapes = input_shapes;
  session_ = std::make_unique<Session>(make_plan(candidate.graph, options));
}

const std::vector<Tensor>& Runner::run(const std::vector<Tensor>& inputs) {
  omp_set_num_threads(threads_);
  return session_->run(inputs);
}

int64_t Runner::memory_bytes() const {
  const Plan& p = plan();
  int64_t bytes = p.arena_bytes;
  std::vector<bool> counted(p.graph.value_count(), false);
  for (const Step& step : p.steps)
    for (ValueId v : p.graph[step.node].inputs) {
      if (!v || !p.graph[v].is_constant() || counted[v.index]) continue;
      counted[v.index] = true;
      bytes += static_cast<int64_t>(p.graph[v].constant.bytes());
    }
  return bytes;
}

std::string Runner::signature() const {
  std::string text = fmt::format("{} threads\n", threads_);
  for (const Step& step : plan().steps) {
    const Node& n = plan().graph[step.node];
    const Value& v = plan().graph[n.outputs[0]];
    text += fmt::format("{} {} {}{}\n", n.op->name, step.kernel_name, name_of(v.dtype), v.shape ? to_string(*v.shape) : "?");
  }
  if (plan().patches) text += fmt::format("{} steps in {} strips\n", plan().patches->stage().nodes.size(), plan().patches->strips());
  return text;
}

PairedTimes time_pairs(Runner& first, Runner& second, Dataset& data, const PairedTimesOptions& options) {
  std::mt19937_64 random(options.seed);
  std::vector<std::vector<Tensor>> inputs;
  for (size_t i = 0; i < std::min(kInputs, data.size()); ++i) inputs.push_back(data.inputs(i));
  const Burst bursts[2] = {burst_of(first, inputs[0]), burst_of(second, inputs[0])};
  PairedTimes times;
  std::vector<double> ratios;
  auto begin = Clock::now();
  for (int turn = 0; turn < options.turns; ++turn) {
    if (turn >= kLeastTurns && (since(begin) > options.seconds || (options.stop && options.stop()))) break;
    const std::vector<Tensor>& x = inputs[static_cast<size_t>(turn) % inputs.size()];
    double seconds[2];
    bool swapped = random() & 1;
    for (int k = 0; k < 2; ++k) {
      int which = swapped ? 1 - k : k;
      seconds[which] = time_burst(which ? second : first, x, bursts[which]);
    }
    times.first.push_back(seconds[0]);
    times.second.push_back(seconds[1]);
    ratios.push_back(seconds[0] / std::max(seconds[1], 1e-12));
    if (turn + 1 == kHopelessTurns && *std::max_element(ratios.begin(), ratios.end()) < kHopeless) break;
  }
  times.ratio = bootstrap_median(ratios, options.seed);
  times.first_seconds = bootstrap_median(times.first, options.seed);
  times.second_seconds = bootstrap_median(times.second, options.seed);
  return times;
}

}  // namespace lathe
