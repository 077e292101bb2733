#include "train/training_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace lathe {

nlohmann::json to_json(const EpochRecord& r, const std::string& measure) {
  return {{"epoch", r.epoch}, {"loss", r.loss}, {measure, r.score}, {"validation_loss", r.validation_loss}, {"validation_" + measure, r.validation_score},
          {"learning_rate", r.learning_rate}, {"gradient_norm", r.gradient_norm}, {"seconds", r.seconds}, {"waited", r.waited}};
}

EpochRecord epoch_record(const nlohmann::json& j, const std::string& measure) {
  EpochRecord r;
  r.epoch = j.at("epoch");
  r.loss = j.at("loss");
  r.score = j.at(measure);
  r.validation_loss = j.at("validation_loss");
  r.validation_score = j.at("validation_" + measure);
  r.learning_rate = j.at("learning_rate");
  r.gradient_norm = j.at("gradient_norm");
  r.seconds = j.at("seconds");
  r.waited = j.at("waited");
  return r;
}

std::string log_lines(const nlohmann::json& head, const std::vector<EpochRecord>& epochs, const std::string& measure) {
  std::string text = head.dump() + "\n";
  for (const EpochRecord& r : epochs) text += to_json(r, measure).dump() + "\n";
  return text;
}

namespace {

struct Curve {
  std::string name, color;
  std::vector<double> values;  // by epoch; NaN where there is none
};

// A chart of curves over the epochs, with its axis from the least to the most value.
std::string chart(const std::string& title, const std::vector<Curve>& curves, bool percent) {
  constexpr double kWidth = 620, kHeight = 240, kLeft = 56, kBottom = 28, kTop = 30, kRight = 12;
  double low = 1e300, high = -1e300;
  size_t count = 1;
  for (const Curve& c : curves) {
    count = std::max(count, c.values.size());
    for (double v : c.values)
      if (std::isfinite(v)) low = std::min(low, v), high = std::max(high, v);
  }
  if (low > high) return "";
  if (high - low < 1e-12) high = low + 1e-12;
  const auto x = [&](size_t i) { return kLeft + (kWidth - kLeft - kRight) * (count == 1 ? 0.5 : static_cast<double>(i) / static_cast<double>(count - 1)); };
  const auto y = [&](double v) { return kHeight - kBottom - (kHeight - kBottom - kTop) * (v - low) / (high - low); };
  std::string svg = fmt::format("<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\"><text x=\"{3}\" y=\"18\" class=\"title\">{2}</text>", kWidth, kHeight, escape_markup(title), kLeft);
  for (int i = 0; i <= 4; ++i) {
    const double v = low + (high - low) * i / 4;
    svg += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"end\">{}</text>", kLeft, kWidth - kRight, y(v), y(v),
                       kLeft - 6, y(v) + 4, percent ? fmt::format("{:.1f} %", 100 * v) : fmt::format("{:.3g}", v));
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" class=\"tick\">epoch 1</text><text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"end\">{}</text>", kLeft, kHeight - 8, kWidth - kRight, kHeight - 8, count);
  double legend = kWidth - kRight;
  for (const Curve& c : curves) {
    std::string points;
    for (size_t i = 0; i < c.values.size(); ++i)
      if (std::isfinite(c.values[i])) points += fmt::format("{:.1f},{:.1f} ", x(i), y(c.values[i]));
    if (points.empty()) continue;
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"/><text x=\"{:.0f}\" y=\"18\" class=\"tick\" text-anchor=\"end\" fill=\"{}\">{}</text>", points, c.color, legend, c.color,
                       escape_markup(c.name));
    legend -= 8.0 * static_cast<double>(c.name.size()) + 16;
  }
  return svg + "</svg>\n";
}

}  // namespace

std::string log_page(const nlohmann::json& head, const std::vector<EpochRecord>& epochs, const std::string& measure) {
  const auto column = [&](auto value) {
    std::vector<double> list;
    for (const EpochRecord& r : epochs) list.push_back(value(r));
    return list;
  };
  const auto known = [](double accuracy, double value) { return accuracy < 0 ? std::nan("") : value; };
  std::string page = fmt::format("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>body{{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:46em;color:#222}}"
                                 "svg{{display:block;margin:1em 0}}.grid{{stroke:#ddd}}.tick{{font-size:11px;fill:#555}}.title{{font-weight:600}}table{{border-collapse:collapse}}td,th{{padding:.15em .8em;border-bottom:1px solid #eee;text-align:right}}"
                                 "td:first-child,th:first-child{{text-align:left}}</style><h1>{0}</h1>\n",
                                 escape_markup(head.value("name", "training")));
  page += chart("loss", {{"training", "#b3541e", column([](const EpochRecord& r) { return r.loss; })},
                         {"validation", "#1f5fa8", column([&](const EpochRecord& r) { return known(r.validation_score, r.validation_loss); })}}, false);
  page += chart(measure, {{"training", "#b3541e", column([](const EpochRecord& r) { return r.score < 0 ? std::nan("") : r.score; })},
                             {"validation", "#1f5fa8", column([&](const EpochRecord& r) { return known(r.validation_score, r.validation_score); })}}, true);
  page += chart("learning rate", {{"", "#444", column([](const EpochRecord& r) { return r.learning_rate; })}}, false);
  page += "<table><tr><th>epoch</th><th>loss</th><th>" + measure + "</th><th>validation loss</th><th>" + measure + "</th><th>seconds</th></tr>\n";
  for (const EpochRecord& r : epochs)
    page += fmt::format("<tr><td>{}</td><td>{:.4f}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td></tr>\n", r.epoch + 1, r.loss, r.score < 0 ? "" : fmt::format("{:.2f} %", 100 * r.score),
                        r.validation_score < 0 ? "" : fmt::format("{:.4f}", r.validation_loss), r.validation_score < 0 ? "" : fmt::format("{:.2f} %", 100 * r.validation_score), r.seconds);
  page += "</table><h2>Settings</h2><table>\n";
  for (const auto& [key, value] : head.items()) page += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escape_markup(key), escape_markup(value.is_string() ? value.get<std::string>() : value.dump()));
  return page + "</table></html>\n";
}

}  // namespace lathe
