#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "optimize/report.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr const char* kStyle = R"(
body{font:15px/1.5 system-ui,sans-serif;max-width:66em;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
th,td{padding:.25em .7em;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child,td.text,th.text{text-align:left}td.text{white-space:normal}
tr.chosen{background:#e6f2e6}.small{color:#666;font-size:.88em}.reason{background:#f3f3ee;padding:.8em 1em;border-left:4px solid #789}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1.2em}dt{color:#666}dd{margin:0;overflow-wrap:anywhere})";

std::string text_of(const json& j) { return escape_markup(j.is_string() ? j.get<std::string>() : j.dump()); }

std::string interval(const json& j, const char* format, double factor = 1) {
  if (j.is_null() || j["value"].is_null()) return "–";
  auto one = [&](const json& x) { return x.is_null() ? std::string("–") : fmt::format(fmt::runtime(format), x.get<double>() * factor); };
  return fmt::format("{} <span class=\"small\">{} to {}</span>", one(j["value"]), one(j["low"]), one(j["high"]));
}

std::string plain(const json& j, const char* format, double factor = 1) {
  return j.is_null() ? "–" : fmt::format(fmt::runtime(format), j.get<double>() * factor);
}

double unit_of(const json& r) { return r["metric"]["share"].get<bool>() ? 100 : 1; }

std::string given(const json& r) {
  const json &data = r["data"], &machine = r["machine"];
  auto row = [](std::string_view what, const std::string& value) { return fmt::format("<dt>{}</dt><dd>{}</dd>\n", what, value); };
  int64_t found = data["found"].get<int64_t>(), used = data["samples"].get<int64_t>();
  std::string samples = fmt::format("{} samples for evaluation and {} others for calibration{}, {}", used, data["calibration"].get<int64_t>(), found > used + data["calibration"].get<int64_t>() ? fmt::format(", drawn from {} by the seed", found) : "",
                                    data["labelled"].get<bool>() ? "labelled" : "without labels: the original's answers are the measure");
  std::string check = r["reference_check"]["largest_error"].is_null() ? text_of(r["reference_check"]["note"])
      : fmt::format("differs from the reference kernels by {:.2g} of the output's range", r["reference_check"]["largest_error"].get<double>());
  return "<dl>" + row("model", text_of(r["model"])) + row("data", text_of(data["path"]) + ": " + samples) +
         row("preparation", text_of(data["preparation"])) + row("metric", text_of(r["metric"]["name"]) + ", against " + text_of(r["metric"]["against"])) + row("budget", text_of(r["budget"]["text"]) + fmt::format(" <span class=\"small\">({})</span>", text_of(r["budget"]["origin"]))) +
         row("machine", fmt::format("{}, {} thread{} <span class=\"small\">{}</span>", text_of(machine["name"]), machine["threads"].get<int>(), machine["threads"].get<int>() > 1 ? "s" : "", text_of(machine["identity"]))) +
         row("load", fmt::format("{:.2f} before, {:.2f} after: above the threads in use, others were running", machine["load_before"].get<double>(), machine["load_after"].get<double>())) +
         row("original's plan", check) + row("seed", text_of(r["seed"])) + row("command", "<code>" + text_of(r["command"]) + "</code>") +
         row("lathe", text_of(r["lathe"]) + fmt::format(", {:.0f} seconds", r["seconds"].get<double>())) + "</dl>\n";
}

std::string candidates(const json& r) {
  bool agreement = !r["baseline"]["agreement"].is_null(), accuracy = !r["baseline"]["drop"].is_null();
  std::string html = "<div class=\"wide\"><table><tr><th>candidate</th><th>speed-up</th><th>measured again</th><th>latency, ms</th><th>memory, MB</th><th>file, MB</th><th>error, largest %</th><th>mean %</th><th>S/N, dB</th>";
  if (agreement) html += "<th>agreement, %</th>";
  if (accuracy) html += fmt::format("<th>{}</th><th>drop</th>", text_of(r["metric"]["name"]) + (unit_of(r) > 1 ? ", %" : ""));
  html += "<th class=\"text\">verdict</th></tr>\n";
  std::string chosen = r["best"].is_null() ? "" : r["best"]["name"].get<std::string>();
  for (const json& t : r["trials"]) {
    std::string verdict = text_of(t["outcome"]);
    if (!t["note"].get<std::string>().empty()) verdict += ": " + text_of(t["note"]);
    if (!t["measured"].get<bool>()) {
      html += fmt::format("<tr><td>{}</td><td colspan=\"{}\"></td><td class=\"text\">{}</td></tr>\n", text_of(t["name"]), 8 + agreement + 2 * accuracy, verdict);
      continue;
    }
    for (const json& m : t["misses"]) verdict += "; " + text_of(m["text"]);
    html += fmt::format("<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3g}</td><td>{:.3g}</td><td>{}</td><td>{}</td><td>{}</td>",
                        t["name"] == chosen ? " class=\"chosen\"" : "", text_of(t["name"]), interval(t["speedup"], "{:.3f}"),
                        interval(t["confirmed_speedup"], "{:.3f}"), interval(t["latency_ms"], "{:.3g}"), t["memory_bytes"].get<double>() / 1e6,
                        t["size_bytes"].get<double>() / 1e6, plain(t["largest_error"], "{:.2g}", 100), plain(t["mean_error"], "{:.2g}", 100), plain(t["signal_to_noise_db"], "{:.1f}"));
    if (agreement) html += "<td>" + interval(t["agreement"], "{:.2f}", 100) + "</td>";
    const char* format = unit_of(r) > 1 ? "{:.2f}" : "{:.4g}";
    if (accuracy) html += "<td>" + interval(t["metrics"].value(r["metric"]["name"].get<std::string>(), json(nullptr)), format, unit_of(r)) + "</td><td>" + interval(t["drop"], format, unit_of(r)) + "</td>";
    html += "<td class=\"text\">" + verdict + "</td></tr>\n";
  }
  return html + "</table></div>\n<p class=\"small\">Small figures are 95 % intervals. A candidate counts as faster only when its whole interval is above 1. "
                "Errors are differences from the original's outputs over their range.</p>\n";
}

struct Point {
  double x, y;
  std::string name;
  bool front, chosen;
};

// Measured candidates, by latency and what `loss` makes of a trial (null: not told).
template <class F>
std::vector<Point> points_of(const json& r, F loss) {
  std::vector<Point> points;
  std::string chosen = r["best"].is_null() ? "" : r["best"]["name"].get<std::string>();
  double original = r["baseline"]["latency_ms"]["value"].get<double>();
  for (const json& t : r["trials"]) {
    if (!t["measured"].get<bool>() || t["outcome"] == "broken" || t["speedup"].is_null()) continue;
    const json y = loss(t);
    if (y.is_null() || t["speedup"]["value"].is_null()) continue;
    // From the paired ratio, which what else ran on the machine does not move.
    points.push_back({original / t["speedup"]["value"].get<double>(), y.template get<double>(), t["name"].get<std::string>(), true, t["name"] == chosen});
  }
  for (Point& p : points)
    p.front = std::none_of(points.begin(), points.end(), [&](const Point& o) { return o.x <= p.x && o.y <= p.y && (o.x < p.x || o.y < p.y); });
  return points;
}

// Latency across, what is lost or needed upwards.
std::string plot(std::vector<Point> points, const std::string& label) {
  double right = 0, top = 0, bottom = 0;
  for (const Point& p : points) right = std::max(right, p.x), top = std::max(top, p.y), bottom = std::min(bottom, p.y);
  right = std::max(right * 1.15, 1e-6);
  double span = std::max((top - bottom) * 1.2, 1e-6);
  constexpr double kLeft = 70, kTop = 15, kWidth = 640, kHeight = 300;
  auto px = [&](double x) { return kLeft + x / right * kWidth; };
  auto py = [&](double y) { return kTop + kHeight - (y - bottom) / span * kHeight; };
  std::string svg = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" role=\"img\" aria-label=\"latency against {}\" font-family=\"sans-serif\" font-size=\"12\">\n",
                                kLeft + kWidth + 20, kTop + kHeight + 50, kLeft + kWidth + 20, escape_markup(label));
  svg += fmt::format("<path d=\"M{0} {1}V{2}H{3}\" fill=\"none\" stroke=\"#888\"/>\n", kLeft, kTop, kTop + kHeight, kLeft + kWidth);
  for (int i = 0; i <= 4; ++i) {
    double x = right * i / 4, y = bottom + span * i / 4;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{:.3g}</text><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#555\">{:.2g}</text>\n", px(x), kTop + kHeight + 18, x, kLeft - 6, py(y) + 4, y);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">latency, ms</text><text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     kLeft + kWidth / 2, kTop + kHeight + 40, kTop + kHeight / 2, escape_markup(label));
  std::vector<Point> front;
  for (const Point& p : points) if (p.front) front.push_back(p);
  std::sort(front.begin(), front.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  std::string path;
  for (const Point& p : front) path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px(p.x), py(p.y));
  if (front.size() > 1) svg += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"#4a7\" stroke-width=\"2\"/>\n", path);
  // Names stand beside few points; of many only beside the original and the chosen one. All show theirs under the pointer.
  const bool few = points.size() <= 10;
  double last_label = -100;
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.chosen != b.chosen ? b.chosen : a.y < b.y || (a.y == b.y && a.x < b.x); });
  for (const Point& p : points) {
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"#333\"><title>{}: {:.4g} ms, {:.3g}</title></circle>",
                       px(p.x), py(p.y), p.chosen ? 6 : 4, p.chosen ? "#2a7f3f" : p.front ? "#4a7" : "#bbb", escape_markup(p.name), p.x, p.y);
    if (few || p.chosen || p.name == "original") {
      // Labels of points that lie together go upwards one by one; those at the right edge stand before their points.
      double label_y = py(p.y) - 8;
      if (last_label > -100 && std::fabs(label_y - last_label) < 14) label_y = last_label - 14;
      last_label = label_y;
      const bool left = p.x > 0.6 * right;
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", px(p.x) + (left ? -8 : 8), label_y, left ? "end" : "start", escape_markup(p.name));
    }
    svg += "\n";
  }
  return svg + "</svg>\n";
}

std::string plots(const json& r) {
  std::string html = "<h2>Latency against loss and size</h2>\n";
  if (!r["baseline"]["drop"].is_null())
    html += plot(points_of(r, [&](const json& t) { return t["drop"].is_null() || t["drop"]["value"].is_null() ? json(nullptr) : json(unit_of(r) * t["drop"]["value"].get<double>()); }),
                 fmt::format("drop of {}{}", r["metric"]["name"].get<std::string>(), unit_of(r) > 1 ? ", points" : ""));
  html += plot(points_of(r, [](const json& t) { return t["mean_error"].is_null() ? json(nullptr) : json(100 * t["mean_error"].get<double>()); }), "mean error, % of range");
  html += plot(points_of(r, [](const json& t) { return json(t["size_bytes"].get<double>() / 1e6); }), "size of the file, MB");
  return html + "<p class=\"small\">Latency is the original's over the paired speed-up. Green: no other is both faster and, upwards, better. "
                "Large: the chosen one. The pointer shows names.</p>\n";
}

// The original beside the chosen one.
std::string before_and_after(const json& r) {
  if (r["best"].is_null()) return "";
  const json* chosen = nullptr;
  for (const json& t : r["trials"])
    if (t["name"] == r["best"]["name"]) chosen = &t;
  if (!chosen) return "";
  const json& before = r["baseline"];
  const std::string metric = r["metric"]["name"].get<std::string>();
  const double unit = unit_of(r);
  std::string html = fmt::format("<h2>Before and after</h2>\n<div class=\"wide\"><table><tr><th></th><th>original</th><th>{}</th><th>change</th></tr>\n", text_of(r["best"]["name"]));
  auto row = [&](const std::string& what, const std::string& a, const std::string& b, const std::string& change) {
    html += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", what, a, b, change);
  };
  row("latency, ms", interval(before["latency_ms"], "{:.4g}"), interval((*chosen)["latency_ms"], "{:.4g}"), interval(r["best"]["speedup"], "{:.3f}") + " times as fast");
  auto bytes = [&](const char* key, const std::string& what) {
    double a = before[key].get<double>(), b = (*chosen)[key].get<double>();
    row(what, fmt::format("{:.4g}", a / 1e6), fmt::format("{:.4g}", b / 1e6), fmt::format("{:.3f} of it", b / std::max(a, 1.0)));
  };
  bytes("size_bytes", "file, MB");
  bytes("memory_bytes", "memory, MB");
  const char* format = unit > 1 ? "{:.2f}" : "{:.5g}";
  if (before["metrics"].contains(metric) && (*chosen)["metrics"].contains(metric))
    row(escape_markup(metric) + (unit > 1 ? ", %" : ""), interval(before["metrics"][metric], format, unit), interval((*chosen)["metrics"][metric], format, unit),
        (*chosen)["drop"].is_null() ? "" : "drop " + interval((*chosen)["drop"], format, unit));
  if (!(*chosen)["agreement"].is_null()) row("same answers, %", "100", interval((*chosen)["agreement"], "{:.2f}", 100), "");
  row("largest error, % of range", "0", plain((*chosen)["largest_error"], "{:.3g}", 100), "");
  return html + fmt::format("</table></div>\n<p class=\"small\">{} is measured against {}. Small figures are 95 % intervals.</p>\n", escape_markup(metric), text_of(r["metric"]["against"]));
}

// For each layer whose precision could be chosen: bits of its weights, and what its other choices would do.
std::string layer_picture(const json& r) {
  if (r["layer_choices"].empty()) return "";
  std::string html = "<h2>Precision of layers</h2>\n";
  std::map<std::string, std::vector<const json*>> by_technique;
  for (const json& l : r["layer_choices"]) by_technique[l["technique"].get<std::string>()].push_back(&l);
  for (const auto& [technique, layers] : by_technique) {
    double most = 0;
    for (const json* l : layers)
      for (const json& e : (*l)["effects"]) most = std::max(most, e["error"].is_null() ? 0 : std::fabs(e["error"].get<double>()));
    constexpr double kLeft = 190, kBits = 200, kGap = 60, kError = 200, kRow = 16;
    const double height = kRow * static_cast<double>(layers.size()) + 30;
    html += fmt::format("<h3>{}</h3>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" role=\"img\" aria-label=\"bits and sensitivity by layer\" font-family=\"sans-serif\" font-size=\"11\">\n"
                        "<text x=\"{}\" y=\"12\">bits of a weight</text><text x=\"{}\" y=\"12\">effect of another choice on the mean error, % of range</text>\n",
                        escape_markup(technique), kLeft + kBits + kGap + kError + 130, height, kLeft + kBits + kGap + kError + 130, kLeft, kLeft + kBits + kGap);
    double y = 20;
    for (const json* l : layers) {
      const int bits = (*l)["bits"].get<int>();
      const std::string choice = (*l)["choice"].get<std::string>(), name = (*l)["name"].get<std::string>();
      html += fmt::format("<text x=\"{}\" y=\"{:.0f}\" text-anchor=\"end\"><title>{}</title>{}</text>", kLeft - 6, y + 11, escape_markup(name), escape_markup(name.size() > 26 ? "…" + name.substr(name.size() - 25) : name));
      if (bits > 0)
        html += fmt::format("<rect x=\"{}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>", kLeft, y + 1, kBits * bits / 32.0, kRow - 3, bits >= 32 ? "#bbb" : bits >= 16 ? "#7a9" : bits >= 8 ? "#4a7" : "#275");
      html += fmt::format("<text x=\"{:.1f}\" y=\"{:.0f}\">{}</text>", kLeft + kBits * std::max(bits, 0) / 32.0 + 4, y + 11, choice.empty() ? "–" : escape_markup(choice));
      double x = kLeft + kBits + kGap;
      for (const json& e : (*l)["effects"]) {
        if (e["error"].is_null() || most <= 0) continue;
        double error = e["error"].get<double>(), width = kError * std::fabs(error) / most / static_cast<double>((*l)["effects"].size());
        html += fmt::format("<rect x=\"{:.1f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"><title>{} as {}: error {:+.3g} %, {:+.3g} ms</title></rect>", x, y + 1, std::max(width, 0.5), kRow - 3,
                            error > 0 ? "#c66" : "#69c", escape_markup(name), text_of(e["choice"]), 100 * error, -e["ms"].get<double>());
        x += width + 2;
      }
      html += "\n";
      y += kRow;
    }
    html += "</svg>\n";
  }
  return html + "<p class=\"small\">Left: what the chosen network has (– : it does not use the technique). Right: each layer alone set to another choice, all others as the technique "
                "sets them at first; blue takes error away, red adds it.</p>\n";
}

std::string how_to_reproduce(const json& r) {
  return fmt::format("<h2>How to get the same</h2>\n<dl><dt>command</dt><dd><code>{}</code></dd>\n<dt>lathe</dt><dd>{}</dd>\n<dt>machine</dt><dd>{}</dd>\n<dt>seed</dt><dd>{}</dd>\n<dt>store</dt><dd>{}: {} measurements taken from it, {} made</dd></dl>\n"
                     "<p class=\"small\">With the same store nothing is measured again and the answer is the same. Without it times are measured anew: figures move within their intervals.</p>\n",
                     text_of(r["command"]), text_of(r["lathe"]), text_of(r["machine"]["identity"]), text_of(r["seed"]), r["store"]["path"].get<std::string>().empty() ? "none" : text_of(r["store"]["path"]),
                     r["store"]["found"].get<int64_t>(), r["store"]["measured"].get<int64_t>());
}

std::string layers(const json& r) {
  if (r["layers"].empty()) return "";
  double total = 0;
  for (const json& l : r["layers"]) total += l["ms"].get<double>();
  std::string html = "<h2>Layer by layer</h2>\n<div class=\"wide\"><table><tr><th>layer</th><th class=\"text\">operator</th><th class=\"text\">kernel</th><th class=\"text\">type</th><th>µs</th><th>share, %</th><th>original, µs</th><th>ratio</th></tr>\n";
  for (const json& l : r["layers"]) {
    double ms = l["ms"].get<double>();
    bool before = !l["original_ms"].is_null();
    html += fmt::format("<tr><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{:.1f}</td><td>{:.1f}</td><td>{}</td><td>{}</td></tr>\n",
                        text_of(l["name"]), text_of(l["operator"]), text_of(l["kernel"]), text_of(l["type"]), ms * 1e3, 100 * ms / std::max(total, 1e-12),
                        before ? fmt::format("{:.1f}", l["original_ms"].get<double>() * 1e3) : "–",
                        before && ms > 0 ? fmt::format("{:.2f}", l["original_ms"].get<double>() / ms) : "–");
  }
  return html + "</table></div>\n<p class=\"small\">Means of ten runs in turns; layers that the original does not have under this name show no ratio.</p>\n";
}

}  // namespace

std::string report_html(const json& r) {
  std::string title = r["best"].is_null() ? "Nothing meets the budget" : fmt::format("{}: {:.2f} times as fast", text_of(r["best"]["name"]), r["best"]["speedup"]["value"].get<double>());
  if (!r["best"].is_null() && r["best"]["techniques"].empty()) title = "The original stays";
  std::string html = fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
                                 "<title>lathe optimize: {}</title><style>{}</style></head><body>\n<h1>{}</h1>\n<p class=\"small\">lathe optimize, {}</p>\n",
                                 text_of(r["model"]), kStyle, title, text_of(r["model"]));
  html += "<p class=\"reason\">" + text_of(r["reason"]) + "</p>\n";
  for (const json& notice : r["notices"]) html += "<p>Note: " + text_of(notice) + ".</p>\n";
  html += before_and_after(r) + "<h2>What was given</h2>\n" + given(r) + plots(r) + layer_picture(r) + "<h2>Candidates</h2>\n" + candidates(r) + layers(r) + how_to_reproduce(r);
  return html + "</body></html>\n";
}

}  // namespace lathe
