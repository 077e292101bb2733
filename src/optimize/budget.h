// Budget: what the user demands of the result, written as "latency<=5ms, drop<=1%, size<=10MB".
//
//   Budget budget = parse_budget("latency<=5ms, drop<=1%");
//   std::vector<Miss> misses = check(budget, figures);      // empty: met
//
// Fields: latency (median of one inference; ns, us, ms, s), memory (arena and weights) and size (model file)
// in B, kB, MB, GB, KiB, MiB or GiB; drop (% or points: percentage points)
// of the metric that is measured against the original; a metric itself: top1, top5, map, iou (%), cosine (a number), all lower
// bounds, and mse (a number); error (largest output error over the output's range, %), agreement with the original's answers (%).
// Lower bounds are written >= or >, everything else is an upper bound: <= or <.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lathe {

enum class BudgetField { kLatency, kMemory, kSize, kDrop, kError, kAgreement, kTop1, kTop5, kMap, kIou, kCosine, kMse };
std::string_view name_of(BudgetField field);
bool is_lower_bound(BudgetField field);

struct Limit {
  BudgetField field;
  bool strict = false;    // < or >
  double value = 0;       // seconds, bytes, or a fraction
  std::string text() const;  // "latency <= 5 ms"
  bool met_by(double measured) const;
  // By which part of the limit `measured` misses it; 0 when met.
  double excess(double measured) const;
};

struct Budget {
  std::vector<Limit> limits;
  bool asks_for(BudgetField field) const;
};

// What was measured of a candidate. Fields that cannot be measured (a drop without labels) are empty.
struct Figures {
  std::optional<double> latency = {}, memory = {}, size = {}, drop = {}, error = {}, agreement = {}, top1 = {}, top5 = {}, map = {}, iou = {}, cosine = {}, mse = {};
  std::optional<double> of(BudgetField field) const;
};

struct Miss {
  Limit limit;
  double measured;
  std::string text() const;  // "latency 7.1 ms, 42 % above latency <= 5 ms"
};

// Throws kUsage with the position of the fault. The same field twice, a contradiction of units and unknown
// fields are faults.
Budget parse_budget(std::string_view text);
std::string to_string(const Budget& budget);
// Limits that the figures miss. A limit whose field was not measured counts as an internal defect: ask
// beforehand with asks_for().
std::vector<Miss> check(const Budget& budget, const Figures& figures);

// "3.21 ms", "4.5 MiB", "0.7 %"
std::string format_value(BudgetField field, double value);

}  // namespace lathe
