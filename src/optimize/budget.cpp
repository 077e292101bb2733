#include "optimize/budget.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace lathe {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

const std::vector<Unit>& units_of(BudgetField field) {
  static const std::vector<Unit> time = {{"ns", 1e-9}, {"us", 1e-6}, {"µs", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  static const std::vector<Unit> bytes = {{"B", 1},           {"kB", 1e3},        {"KB", 1e3},        {"MB", 1e6},
                                          {"GB", 1e9},        {"KiB", 1024},      {"kiB", 1024},      {"MiB", 1048576},
                                          {"GiB", 1073741824}};
  static const std::vector<Unit> points = {{"%", 0.01}, {"points", 0.01}, {"point", 0.01}};
  static const std::vector<Unit> part = {{"%", 0.01}};
  static const std::vector<Unit> plain = {{"", 1}};
  switch (field) {
    case BudgetField::kLatency: return time;
    case BudgetField::kMemory:
    case BudgetField::kSize: return bytes;
    case BudgetField::kDrop: return points;
    case BudgetField::kCosine:
    case BudgetField::kMse: return plain;
    default: return part;
  }
}

constexpr BudgetField kFields[] = {BudgetField::kLatency, BudgetField::kMemory, BudgetField::kSize,
                                   BudgetField::kDrop,    BudgetField::kError,  BudgetField::kAgreement,
                                   BudgetField::kTop1,    BudgetField::kTop5,   BudgetField::kMap,
                                   BudgetField::kIou,     BudgetField::kCosine, BudgetField::kMse};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Budget run() {
    Budget budget;
    skip_spaces();
    if (at_ == text_.size()) fault(at_, "is empty; expected for instance latency<=5ms");
    while (true) {
      size_t begin = at_;
      Limit limit = term();
      if (budget.asks_for(limit.field)) fault(begin, "'{}' is given twice", name_of(limit.field));
      budget.limits.push_back(limit);
      skip_spaces();
      if (at_ == text_.size()) return budget;
      if (text_[at_] != ',') fault(at_, "expected ',' before '{}'", text_.substr(at_));
      ++at_;
      skip_spaces();
    }
  }

 private:
  template <class... Args>
  [[noreturn]] void fault(size_t at, fmt::format_string<Args...> text, Args&&... args) {
    fail(ErrorKind::kUsage, "budget \"{}\", position {}: {}", text_, at + 1, fmt::format(text, std::forward<Args>(args)...));
  }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }

  Limit term() {
    size_t begin = at_;
    while (at_ < text_.size() && std::isalnum(static_cast<unsigned char>(text_[at_]))) ++at_;
    std::string_view name = text_.substr(begin, at_ - begin);
    auto field = std::find_if(std::begin(kFields), std::end(kFields), [&](BudgetField f) { return name_of(f) == name; });
    if (field == std::end(kFields))
      fault(begin, "'{}' is not one of latency, memory, size, drop, error, agreement, top1, top5, map, iou, cosine, mse", name);
    Limit limit{*field};
    skip_spaces();
    comparison(limit);
    skip_spaces();
    limit.value = number();
    skip_spaces();
    size_t begin_unit = at_;
    limit.value *= unit(limit.field);
    if (!std::isfinite(limit.value)) fault(begin_unit, "the limit is too large");
    return limit;
  }

  void comparison(Limit& limit) {
    size_t begin = at_;
    char sign = at_ < text_.size() ? text_[at_] : ' ';
    if (sign != '<' && sign != '>') fault(begin, "expected <= or < (agreement and metrics: >= or >)");
    bool lower = is_lower_bound(limit.field);
    if ((sign == '>') != lower)
      fault(begin, "{} is {} bound: write {}{}= or {}", name_of(limit.field), lower ? "a lower" : "an upper",
            name_of(limit.field), lower ? '>' : '<', lower ? '>' : '<');
    ++at_;
    limit.strict = at_ >= text_.size() || text_[at_] != '=';
    if (!limit.strict) ++at_;
  }

  double number() {
    double value = 0;
    const char* begin = text_.data() + at_;
    auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value, std::chars_format::fixed);
    if (error != std::errc() || !std::isfinite(value)) fault(at_, "expected a number");
    if (value < 0) fault(at_, "a limit cannot be negative");
    at_ += static_cast<size_t>(end - begin);
    return value;
  }

  double unit(BudgetField field) {
    size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ',' && text_[at_] != ' ' && text_[at_] != '\t') ++at_;
    std::string_view name = text_.substr(begin, at_ - begin);
    std::string known;
    for (const Unit& u : units_of(field)) {
      if (u.name == name) return u.factor;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", u.name);
    }
    if (name.empty()) fault(begin, "{} needs a unit: {}", name_of(field), known);
    if (known.empty()) fault(begin, "{} has no unit, found '{}'", name_of(field), name);
    fault(begin, "'{}' is no unit of {}: expected {}", name, name_of(field), known);
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::string_view name_of(BudgetField field) {
  constexpr std::string_view names[] = {"latency", "memory", "size", "drop", "error", "agreement", "top1", "top5", "map", "iou", "cosine", "mse"};
  return names[static_cast<int>(field)];
}

bool is_lower_bound(BudgetField field) { return field >= BudgetField::kAgreement && field != BudgetField::kMse; }

std::string format_value(BudgetField field, double value) {
  switch (field) {
    case BudgetField::kLatency:
      return value < 1e-3 ? fmt::format("{:.4g} µs", value * 1e6) : value < 1 ? fmt::format("{:.4g} ms", value * 1e3) : fmt::format("{:.4g} s", value);
    case BudgetField::kMemory:
    case BudgetField::kSize:
      return value < 1e3 ? fmt::format("{:.0f} B", value) : value < 1e6 ? fmt::format("{:.4g} kB", value / 1e3) : fmt::format("{:.4g} MB", value / 1e6);
    case BudgetField::kDrop: return fmt::format("{:.3g} points", value * 100);
    case BudgetField::kCosine:
    case BudgetField::kMse: return fmt::format("{:.6g}", value);
    default: return fmt::format("{:.4g} %", value * 100);
  }
}

std::string Limit::text() const {
  return fmt::format("{} {}{} {}", name_of(field), is_lower_bound(field) ? '>' : '<', strict ? "" : "=", format_value(field, value));
}

bool Limit::met_by(double measured) const {
  if (is_lower_bound(field)) return strict ? measured > value : measured >= value;
  return strict ? measured < value : measured <= value;
}

double Limit::excess(double measured) const {
  if (met_by(measured)) return 0;
  // Shares are counted in points (an agreement of 98 % misses 99 % by one), the rest by ratio.
  if (is_lower_bound(field)) return value - measured;
  if (field == BudgetField::kDrop || field == BudgetField::kError) return measured - value;
  return measured / std::max(value, 1e-12) - 1;
}

bool Budget::asks_for(BudgetField field) const {
  return std::any_of(limits.begin(), limits.end(), [&](const Limit& l) { return l.field == field; });
}

std::optional<double> Figures::of(BudgetField field) const {
  const std::optional<double>* all[] = {&latency, &memory, &size, &drop, &error, &agreement, &top1, &top5, &map, &iou, &cosine, &mse};
  return *all[static_cast<int>(field)];
}

std::string Miss::text() const {
  bool ratio = limit.field == BudgetField::kLatency || limit.field == BudgetField::kMemory || limit.field == BudgetField::kSize || limit.field == BudgetField::kMse;
  std::string by = limit.field == BudgetField::kCosine ? fmt::format("{:.3g}", limit.excess(measured)) : ratio ? fmt::format("{:.3g} %", 100 * limit.excess(measured)) : fmt::format("{:.3g} points", 100 * limit.excess(measured));
  return fmt::format("{} is {}, {} {} what {} allows", name_of(limit.field), format_value(limit.field, measured), by,
                     is_lower_bound(limit.field) ? "below" : "above", limit.text());
}

Budget parse_budget(std::string_view text) { return Parser(text).run(); }

std::string to_string(const Budget& budget) {
  std::string text;
  for (const Limit& l : budget.limits) text += (text.empty() ? "" : ", ") + l.text();
  return text;
}

std::vector<Miss> check(const Budget& budget, const Figures& figures) {
  std::vector<Miss> misses;
  for (const Limit& limit : budget.limits) {
    std::optional<double> measured = figures.of(limit.field);
    require(measured.has_value(), "the budget asks for {}, which was not measured", name_of(limit.field));
    if (!limit.met_by(*measured)) misses.push_back({limit, *measured});
  }
  return misses;
}

}  // namespace lathe
