#include <algorithm>

#include "planner/integer_program.h"
#include "quantize/sensitivity.h"

namespace lathe {

Allocation allocate(const std::vector<std::vector<LayerOption>>& layers, double most_seconds, int64_t most_bytes) {
  Allocation result;
  if (layers.empty()) return result;
  // x[l, o] ∈ {0, 1}; Σₒ x[l, o] = 1. Each sum in units of its limit, and errors of the largest: the solver's tolerances are absolute.
  IntegerProgram program;
  const auto count = static_cast<int>(layers.size());
  double largest = 0;
  for (const auto& options : layers)
    for (const LayerOption& o : options) largest = std::max(largest, o.error);
  std::vector<std::pair<int, double>> times, sizes;
  for (int l = 0; l < count; ++l) {
    require(!layers[static_cast<size_t>(l)].empty(), "layer {} has no option", l);
    std::vector<std::pair<int, double>> one;
    for (const LayerOption& o : layers[static_cast<size_t>(l)]) {
      const int x = program.add_binary(largest > 0 ? o.error / largest : 0);
      one.emplace_back(x, 1);
      if (most_seconds > 0) times.emplace_back(x, o.seconds / most_seconds);
      if (most_bytes > 0) sizes.emplace_back(x, static_cast<double>(o.bytes) / static_cast<double>(most_bytes));
    }
    program.add_row(1, 1, one);
  }
  if (most_seconds > 0) program.add_row(-kNoLimit, 1, times);
  if (most_bytes > 0) program.add_row(-kNoLimit, 1, sizes);
  const ProgramSolution solution = solve(program, {.seconds = 20, .relative_gap = 1e-6});
  if (!solution.found) fail(ErrorKind::kInput, "no choice of layers keeps to the limits: {} s, {} bytes", most_seconds, most_bytes);
  const std::vector<double>& x = solution.x;
  size_t at = 0;
  for (const auto& options : layers) {
    size_t best = 0;
    for (size_t o = 1; o < options.size(); ++o)
      if (x[at + o] > x[at + best]) best = o;
    result.choices.push_back(best);
    result.error += options[best].error;
    result.seconds += options[best].seconds;
    result.bytes += options[best].bytes;
    at += options.size();
  }
  return result;
}

}  // namespace lathe
