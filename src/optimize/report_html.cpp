#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

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

std::string text_of(const json& j) { return escape_html(j.is_string() ? j.get<std::string>() : j.dump()); }

std::string interval(const json& j, const char* format, double factor = 1) {
  if (j.is_null() || j["value"].is_null()) return "–";
  auto one = [&](const json& x) { return x.is_null() ? std::string("–") : fmt::format(fmt::runtime(format), x.get<double>() * factor); };
  return fmt::format("{} <span class=\"small\">{} to {}</span>", one(j["value"]), one(j["low"]), one(j["high"]));
}

std::string plain(const json& j, const char* format, double factor = 1) {
  return j.is_null() ? "–" : fmt::format(fmt::runtime(format), j.get<double>() * factor);
}

std::string given(const json& r) {
  const json &data = r["data"], &machine = r["machine"];
  auto row = [](std::string_view what, const std::string& value) { return fmt::format("<dt>{}</dt><dd>{}</dd>\n", what, value); };
  int64_t found = data["found"].get<int64_t>(), used = data["samples"].get<int64_t>();
  std::string samples = fmt::format("{} samples{}, {}", used, found > used ? fmt::format(", drawn from {} by the seed", found) : "",
                                    data["labelled"].get<bool>() ? "labelled" : "without labels: the original's answers are the measure");
  std::string check = r["reference_check"]["largest_error"].is_null() ? text_of(r["reference_check"]["note"])
      : fmt::format("differs from the reference kernels by {:.2g} of the output's range", r["reference_check"]["largest_error"].get<double>());
  return "<dl>" + row("model", text_of(r["model"])) + row("data", text_of(data["path"]) + ": " + samples) +
         row("preparation", text_of(data["preparation"])) + row("budget", text_of(r["budget"]["text"]) + fmt::format(" <span class=\"small\">({})</span>", text_of(r["budget"]["origin"]))) +
         row("machine", fmt::format("{}, {} thread{} <span class=\"small\">{}</span>", text_of(machine["name"]), machine["threads"].get<int>(), machine["threads"].get<int>() > 1 ? "s" : "", text_of(machine["identity"]))) +
         row("load", fmt::format("{:.2f} before, {:.2f} after: above the threads in use, others were running", machine["load_before"].get<double>(), machine["load_after"].get<double>())) +
         row("original's plan", check) + row("seed", text_of(r["seed"])) + row("command", "<code>" + text_of(r["command"]) + "</code>") +
         row("lathe", text_of(r["lathe"]) + fmt::format(", {:.0f} seconds", r["seconds"].get<double>())) + "</dl>\n";
}

std::string candidates(const json& r) {
  bool agreement = !r["baseline"]["agreement"].is_null(), accuracy = !r["baseline"]["accuracy"].is_null();
  std::string html = "<div class=\"wide\"><table><tr><th>candidate</th><th>speed-up</th><th>measured again</th><th>latency, ms</th><th>memory, MB</th><th>file, MB</th><th>error, largest %</th><th>mean %</th><th>S/N, dB</th>";
  if (agreement) html += "<th>agreement, %</th>";
  if (accuracy) html += "<th>accuracy, %</th><th>drop, points</th>";
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
    if (accuracy) html += "<td>" + interval(t["accuracy"], "{:.2f}", 100) + "</td><td>" + interval(t["drop"], "{:.2f}", 100) + "</td>";
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

std::vector<Point> points_of(const json& r, bool drop) {
  std::vector<Point> points;
  std::string chosen = r["best"].is_null() ? "" : r["best"]["name"].get<std::string>();
  double original = r["baseline"]["latency_ms"]["value"].get<double>();
  for (const json& t : r["trials"]) {
    if (!t["measured"].get<bool>() || t["outcome"] == "broken" || t["speedup"].is_null()) continue;
    const json& loss = drop ? t["drop"]["value"] : t["largest_error"];
    if (loss.is_null() || t["speedup"]["value"].is_null()) continue;
    // From the paired ratio, which what else ran on the machine does not move.
    points.push_back({original / t["speedup"]["value"].get<double>(), 100 * loss.get<double>(), t["name"].get<std::string>(), true, t["name"] == chosen});
  }
  for (Point& p : points)
    p.front = std::none_of(points.begin(), points.end(), [&](const Point& o) { return o.x <= p.x && o.y <= p.y && (o.x < p.x || o.y < p.y); });
  return points;
}

// Latency across, loss upwards: the drop of accuracy, or the largest error.
std::string plot(const json& r, bool drop) {
  std::vector<Point> points = points_of(r, drop);
  double right = 0, top = 0, bottom = 0;
  for (const Point& p : points) right = std::max(right, p.x), top = std::max(top, p.y), bottom = std::min(bottom, p.y);
  right = std::max(right * 1.15, 1e-6);
  double span = std::max((top - bottom) * 1.2, 1e-6);
  constexpr double kLeft = 70, kTop = 15, kWidth = 640, kHeight = 300;
  auto px = [&](double x) { return kLeft + x / right * kWidth; };
  auto py = [&](double y) { return kTop + kHeight - (y - bottom) / span * kHeight; };
  std::string svg = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" role=\"img\" aria-label=\"latency against loss\" font-family=\"sans-serif\" font-size=\"12\">\n",
                                kLeft + kWidth + 20, kTop + kHeight + 50, kLeft + kWidth + 20);
  svg += fmt::format("<path d=\"M{0} {1}V{2}H{3}\" fill=\"none\" stroke=\"#888\"/>\n", kLeft, kTop, kTop + kHeight, kLeft + kWidth);
  for (int i = 0; i <= 4; ++i) {
    double x = right * i / 4, y = bottom + span * i / 4;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{:.3g}</text><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#555\">{:.2g}</text>\n", px(x), kTop + kHeight + 18, x, kLeft - 6, py(y) + 4, y);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">latency, ms</text><text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     kLeft + kWidth / 2, kTop + kHeight + 40, kTop + kHeight / 2, drop ? "drop of accuracy, points" : "largest error, % of range");
  std::vector<Point> front;
  for (const Point& p : points) if (p.front) front.push_back(p);
  std::sort(front.begin(), front.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  std::string path;
  for (const Point& p : front) path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px(p.x), py(p.y));
  if (front.size() > 1) svg += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"#4a7\" stroke-width=\"2\"/>\n", path);
  double last_label = -100;
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.y < b.y || (a.y == b.y && a.x < b.x); });
  for (const Point& p : points) {
    // Labels of points that lie together go upwards one by one.
    double label = py(p.y) - 8;
    if (last_label > -100 && std::fabs(label - last_label) < 14) label = last_label - 14;
    last_label = label;
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"#333\"><title>{}: {:.4g} ms, {:.3g}</title></circle><text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
                       px(p.x), py(p.y), p.chosen ? 6 : 4, p.chosen ? "#2a7f3f" : p.front ? "#4a7" : "#bbb", escape_html(p.name), p.x, p.y, px(p.x) + 8, label, escape_html(p.name));
  }
  return svg + "</svg>\n";
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

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? '?' : c;
    }
  }
  return out;
}

std::string report_html(const json& r) {
  std::string title = r["best"].is_null() ? "Nothing meets the budget" : fmt::format("{}: {:.2f} times as fast", text_of(r["best"]["name"]), r["best"]["speedup"]["value"].get<double>());
  if (!r["best"].is_null() && r["best"]["techniques"].empty()) title = "The original stays";
  std::string html = fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
                                 "<title>lathe optimize: {}</title><style>{}</style></head><body>\n<h1>{}</h1>\n<p class=\"small\">lathe optimize, {}</p>\n",
                                 text_of(r["model"]), kStyle, title, text_of(r["model"]));
  html += "<p class=\"reason\">" + text_of(r["reason"]) + "</p>\n";
  for (const json& notice : r["notices"]) html += "<p>Note: " + text_of(notice) + ".</p>\n";
  html += "<h2>What was given</h2>\n" + given(r) + "<h2>Candidates</h2>\n" + candidates(r) + "<h2>Latency against loss</h2>\n" + plot(r, false) + (r["baseline"]["drop"].is_null() ? "" : plot(r, true)) +
          "<p class=\"small\">Latency is the original's over the paired speed-up. Green: no other is both faster and nearer to the original. "
          "Large: the chosen one.</p>\n" + layers(r);
  return html + "</body></html>\n";
}

}  // namespace lathe
