// Bytes → budget, the expression of `lathe optimize --budget`. Only lathe::Error may come out, and only limits that
// figures can be held against.
#include <cmath>
#include <cstdlib>

#include "core/error.h"
#include "optimize/budget.h"

using namespace lathe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    Budget budget = parse_budget({reinterpret_cast<const char*>(data), size});
    if (budget.limits.empty() || to_string(budget).empty()) std::abort();
    for (const Limit& limit : budget.limits)
      if (!std::isfinite(limit.value) || limit.value < 0 || !budget.asks_for(limit.field)) std::abort();
    for (const Miss& miss : check(budget, {.latency = 1, .memory = 1, .size = 1, .drop = 1, .error = 1, .agreement = 0}))
      if (miss.text().empty()) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
