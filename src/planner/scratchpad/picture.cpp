#include "planner/scratchpad/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/text.h"

namespace lathe {
namespace {

std::string amount(int64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  return bytes < 10'000'000 ? fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3) : fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6);
}

// Neighbours in the list are far apart on the circle of hues.
std::string colour(int tensor) { return fmt::format("hsl({},{}%,{}%)", tensor * 137 % 360, 55 + tensor % 3 * 12, 62 + tensor % 4 * 6); }

}  // namespace

std::string schedule_svg(const ScheduleProblem& problem, const ScratchSchedule& s, const std::string& title) {
  const ScheduleIndex index(problem, false);
  std::vector<std::vector<Residence>> owners;
  const std::vector<PackItem> items = residences(index, s, &owners);
  constexpr double kLeft = 80, kTop = 50, kWidth = 1100, kHeight = 480, kLegend = 300;
  const double steps = static_cast<double>(s.steps.size()), capacity = static_cast<double>(problem.capacity);
  const auto px = [&](double step) { return kLeft + step / steps * kWidth; };
  const auto py = [&](double address) { return kTop + kHeight - address / capacity * kHeight; };
  std::string svg = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" role=\"img\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
                                kLeft + kWidth + kLegend, kTop + kHeight + 60, kLeft + kWidth + kLegend);
  svg += fmt::format("<text x=\"{}\" y=\"18\" font-size=\"14\">{}</text>\n<text x=\"{}\" y=\"36\" fill=\"#555\">scratchpad {}, {} moved beyond the compulsory {}; {}</text>\n", kLeft, escape_markup(title), kLeft,
                     amount(problem.capacity), amount(s.other_bytes()), amount(s.compulsory_bytes), s.optimal() ? "optimal" : fmt::format("gap {:.1f} %", 100 * s.gap()));
  svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>\n", kLeft, kTop, kWidth, kHeight);
  std::vector<int64_t> area(problem.tensors.size(), 0);
  for (size_t i = 0; i < items.size(); ++i) {
    int64_t address = -1;
    for (const Residence& r : owners[i]) {
      const ScratchStep& step = s.steps[static_cast<size_t>(r.step)];
      if (r.tensor < 0) address = step.scratch_address;
      for (const auto* list : {&step.loads, &step.outputs})
        for (const PlacedTensor& p : *list) if (p.tensor == r.tensor && address < 0) address = p.address;
    }
    if (address < 0) continue;
    for (size_t part = 0; part < items[i].parts.size(); ++part) {
      const PackItem::Part& span = items[i].parts[part];
      const int e = owners[i][part].tensor;
      const std::string name = e < 0 ? "scratch of " + problem.operators[static_cast<size_t>(s.steps[static_cast<size_t>(span.first)].op)].name : problem.tensors[static_cast<size_t>(e)].name;
      if (e >= 0) area[static_cast<size_t>(e)] += span.height * (span.last - span.first + 1);
      svg += fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\" stroke=\"#333\" stroke-width=\"0.4\"><title>{} ({}, address {}, steps {} to {})</title></rect>\n",
                         px(span.first), py(static_cast<double>(address + span.height)), px(span.last + 1) - px(span.first), static_cast<double>(span.height) / capacity * kHeight,
                         e < 0 ? "#ddd" : colour(e), escape_markup(name), amount(span.height), address, span.first, span.last);
    }
  }
  // Triangles below the axis: up for what is loaded again, down for what is written out; compulsory ones are grey.
  std::vector<char> touched(problem.tensors.size(), 0);
  for (size_t t = 0; t < s.steps.size(); ++t) {
    const double x = px(static_cast<double>(t)), y = kTop + kHeight + 6;
    bool again = false, first = false;
    std::string what;
    for (const PlacedTensor& l : s.steps[t].loads) {
      const bool compulsory = index.from_outside(l.tensor) && !touched[static_cast<size_t>(l.tensor)];
      (compulsory ? first : again) = true;
      touched[static_cast<size_t>(l.tensor)] = 1;
      what += problem.tensors[static_cast<size_t>(l.tensor)].name + " ";
    }
    if (again || first)
      svg += fmt::format("<path d=\"M{:.1f} {}l-4 9h8z\" fill=\"{}\"><title>step {} loads {}</title></path>\n", x, y, again ? "#c0392b" : "#bbb", t, escape_markup(what));
    what.clear();
    for (int e : s.steps[t].stores) what += problem.tensors[static_cast<size_t>(e)].name + " ";
    if (!what.empty()) svg += fmt::format("<path d=\"M{:.1f} {}l-4 -9h8z\" fill=\"#2c6fbb\"><title>step {} stores {}</title></path>\n", x, y + 22, t, escape_markup(what));
    if (!s.steps[t].writes.empty()) svg += fmt::format("<path d=\"M{:.1f} {}l-4 -9h8z\" fill=\"#bbb\"><title>step {} writes an output</title></path>\n", px(static_cast<double>(t) + 1), y + 22, t);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"#555\">step 0 to {}; red: loaded again, blue: stored, grey: compulsory</text>\n", kLeft, kTop + kHeight + 48, s.steps.size() - 1);
  for (int i = 0; i <= 4; ++i)
    svg += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#555\">{}</text>\n", kLeft - 6, py(capacity * i / 4) + 4, amount(problem.capacity * i / 4));
  std::vector<int> largest(problem.tensors.size());
  std::iota(largest.begin(), largest.end(), 0);
  std::stable_sort(largest.begin(), largest.end(), [&](int a, int b) { return area[static_cast<size_t>(a)] > area[static_cast<size_t>(b)]; });
  for (size_t i = 0; i < std::min<size_t>(largest.size(), 30); ++i) {
    const ScheduleTensor& t = problem.tensors[static_cast<size_t>(largest[i])];
    const double y = kTop + 16 * static_cast<double>(i);
    const std::string name = t.name.size() > 34 ? "…" + t.name.substr(t.name.size() - 33) : t.name;
    svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{}\" stroke=\"#333\" stroke-width=\"0.4\"/><text x=\"{}\" y=\"{}\">{} {}</text>\n", kLeft + kWidth + 12, y, colour(largest[i]), kLeft + kWidth + 28, y + 10,
                       escape_markup(name), amount(t.bytes));
  }
  if (largest.size() > 30) svg += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"#555\">and {} smaller ones</text>\n", kLeft + kWidth + 28, kTop + 16 * 30 + 10, largest.size() - 30);
  return svg + "</svg>\n";
}

std::string schedule_html(const ScheduleProblem& problem, const ScratchSchedule& s, const std::string& title) {
  const auto row = [](const char* what, const std::string& value) { return fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", what, value); };
  std::string html = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + escape_markup(title) +
                     "</title><style>body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222}svg{max-width:100%;height:auto}"
                     "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.2em .9em;border-bottom:1px solid #e4e4e4}pre{overflow-x:auto}</style></head><body>\n<h1>" +
                     escape_markup(title) + "</h1>\n<table>\n";
  html += row("scratchpad", amount(problem.capacity)) + row("highest address in use", amount(s.peak_bytes)) + row("operators", std::to_string(s.steps.size())) +
          row("compulsory traffic", amount(s.compulsory_bytes)) + row("other traffic", fmt::format("{} ({} read again, {} written out)", amount(s.other_bytes()), amount(s.load_bytes), amount(s.store_bytes))) +
          row("bound", s.optimal() ? "optimal" : fmt::format("gap {:.2f} %", 100 * s.gap())) + row("found by", fmt::format("{} in {:.2f} s", escape_markup(s.method), s.solve_seconds));
  return html + "</table>\n" + schedule_svg(problem, s, "time across, address up") + "<h2>Steps</h2>\n<pre>" + escape_markup(print_schedule(problem, s)) + "</pre>\n</body></html>\n";
}

}  // namespace lathe
