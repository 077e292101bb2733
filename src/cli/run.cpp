#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/file.h"
#include "formats/image.h"
#include "formats/npy.h"
#include "options.h"
#include "tasks/classify.h"
#include "tasks/detect.h"
#include "tasks/draw.h"
#include "tasks/preprocess.h"
#include "tasks/segment.h"
#include "tasks/text.h"

namespace lathe::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::vector<std::string> files, named;
  std::string output, labels, annotate;
  PictureOptions picture;
  float min_score = 0.4f;
  int top = 5;
  uint64_t seed = 0;
  bool json = false;
  CLI::Option* random_option = nullptr;
};


void write_outputs(const std::string& folder, const Graph& g, const std::vector<Tensor>& outputs) {
  fs::create_directories(folder);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string name = g[g.outputs[i]].name;
    for (char& c : name)
      if (c == '/' || c == '\\' || c == '\0') c = '_';
    if (name == "." || name == "..") name = "_" + name;
    write_npy((fs::path(folder) / (name + ".npy")).string(), outputs[i]);
  }
}

nlohmann::json summary(const Graph& g, const std::vector<Tensor>& outputs) {
  nlohmann::json list = nlohmann::json::array();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& t = outputs[i];
    double low = INFINITY, high = -INFINITY, sum = 0;
    for (int64_t k = 0; k < t.size(); ++k) {
      double x = t.get(k);
      low = std::min(low, x);
      high = std::max(high, x);
      sum += x;
    }
    nlohmann::json j = {{"name", g[g.outputs[i]].name}, {"type", name_of(t.dtype())}, {"shape", t.shape()}};
    if (t.size()) { j["min"] = low; j["max"] = high; j["mean"] = sum / static_cast<double>(t.size()); }
    list.push_back(j);
  }
  return list;
}

// What the outputs mean, when their form is known.
enum class Head { kNone, kClasses, kBoxes, kMap, kText };

Head head_of(const std::vector<Tensor>& outputs) {
  if (outputs.empty()) return Head::kNone;
  const Shape& s = outputs[0].shape();
  int64_t rest = s.empty() ? 0 : element_count(s) / std::max<int64_t>(s[0], 1);
  bool vector = s.size() >= 2 && rest == s[1] && rest > 1;
  if (outputs.size() == 1 && vector && is_float(outputs[0].dtype())) return Head::kClasses;
  if (outputs.size() == 1 && is_text_map(outputs[0])) return Head::kText;
  try {
    detector_form(outputs);
    return Head::kBoxes;
  } catch (const Error&) {
  }
  bool map = (s.size() == 3 && outputs[0].dtype() == DType::kI64) || (s.size() == 4 && s[1] > 1 && s[2] > 1 && s[3] > 1);
  return outputs.size() == 1 && map ? Head::kMap : Head::kNone;
}

void run(const Options& o) {
  omp_set_num_threads(o.model.threads);
  Model model = import_onnx(o.model.model);
  Graph& g = model.graph;
  std::map<std::string, Tensor> given;
  std::vector<std::string> positional;
  auto put = [&](const std::string& name, Tensor t) {
    bool known = std::any_of(g.inputs.begin(), g.inputs.end(), [&](ValueId v) { return g[v].name == name; });
    if (!known) fail(ErrorKind::kUsage, "the model has no input '{}'", name);
    given[name] = std::move(t);
  };
  std::optional<Image> picture;
  Preprocess steps;
  nlohmann::json report;
  auto load = [&](const Value& input, const std::string& path) {
    if (path.ends_with(".npy")) return read_npy(path);
    Image image = read_image(path);
    steps = preprocess_for(o.model.model, input, image, o.picture.choices);
    if (!o.json) fmt::print("{} → {}: {}\n", path, input.name, steps.describe());
    report["preprocess"] = steps.to_json();
    Tensor t = steps.apply(image);
    if (!picture) picture = std::move(image);
    return input.dtype == DType::kF32 || input.dtype == DType::kUndefined ? t : cast(t, input.dtype);
  };
  for (const std::string& text : o.named) {
    size_t equals = text.find('=');
    if (equals == text.npos) fail(ErrorKind::kUsage, "--input {}: expected NAME=FILE", text);
    std::string name = text.substr(0, equals);
    auto it = std::find_if(g.inputs.begin(), g.inputs.end(), [&](ValueId v) { return g[v].name == name; });
    if (it == g.inputs.end()) fail(ErrorKind::kUsage, "--input {}: the model has no input '{}'", text, name);
    put(name, load(g[*it], text.substr(equals + 1)));
  }
  for (const std::string& path : o.files) {
    if (path.ends_with(".npz")) {
      for (auto& [name, tensor] : read_npz(path)) put(name, tensor);
      continue;
    }
    auto open = std::find_if(g.inputs.begin(), g.inputs.end(), [&](ValueId v) { return !given.contains(g[v].name); });
    if (open == g.inputs.end()) fail(ErrorKind::kUsage, "{}: the model takes only {} inputs", path, g.inputs.size());
    put(g[*open].name, load(g[*open], path));
  }
  auto shapes = o.model.input_shapes(g);
  uint64_t seed = o.seed;
  std::vector<Tensor> inputs;
  for (ValueId v : g.inputs) {
    const Value& input = g[v];
    if (!given.contains(input.name)) {
      if (!o.random_option->count())
        fail(ErrorKind::kUsage, "input '{}' ({}) is not given: name a file, or use --random SEED", input.name, name_of(input.dtype));
      given[input.name] = random_tensor(input.dtype, shapes.at(input.name), seed++);
    }
    Tensor& t = given[input.name];
    if (t.dtype() != input.dtype)
      fail(ErrorKind::kInput, "input '{}' is {}, the model expects {}", input.name, name_of(t.dtype()), name_of(input.dtype));
    shapes[input.name] = t.shape();
    inputs.push_back(t);
  }
  PlanOptions options = o.model.plan_options(model);
  options.input_shapes = shapes;
  Session session(make_plan(std::move(g), options));
  const std::vector<Tensor>& outputs = session.run(inputs);
  const Graph& planned = session.plan().graph;
  if (!o.output.empty()) write_outputs(o.output, planned, outputs);
  std::vector<std::string> labels;
  if (!o.labels.empty()) labels = read_labels(o.labels);
  report["model"] = o.model.model;
  report["outputs"] = summary(planned, outputs);
  Head head = picture || !labels.empty() ? head_of(outputs) : Head::kNone;
  std::optional<Image> drawn;
  if (head == Head::kClasses) {
    auto rows = classify(outputs[0], o.top, labels);
    for (const auto& row : rows) {
      nlohmann::json list = nlohmann::json::array();
      for (const ClassScore& c : row) {
        list.push_back(to_json(c));
        if (!o.json) fmt::print("  {:6.2f} %  {:>4}  {}\n", 100 * c.probability, c.index, c.label);
      }
      report["classes"].push_back(list);
    }
    if (picture && !rows.empty() && !rows[0].empty()) {
      drawn = *picture;
      const ClassScore& best = rows[0][0];
      std::string text = fmt::format("{} {:.0f} %", best.label.empty() ? fmt::format("class {}", best.index) : best.label, 100 * best.probability);
      int scale = std::max(1, drawn->width / 200);
      fill_rectangle(*drawn, 0, 0, text_width(text, scale) + 4 * scale, 11 * scale, {0, 0, 0});
      draw_text(*drawn, 2 * scale, 2 * scale, text, scale, {255, 255, 255});
    }
  } else if ((head == Head::kBoxes || head == Head::kText) && picture) {
    DetectOptions d;
    d.min_score = o.min_score;
    d.labels = labels;
    const Shape& s = inputs[0].shape();
    bool last = steps.layout == Preprocess::Layout::kNHWC;
    d.input_width = s[last ? 2 : 3];
    d.input_height = s[last ? 1 : 2];
    auto found = head == Head::kText ? text_regions(outputs[0]) : detect(outputs, detector_form(outputs), d);
    auto boxes = to_picture(std::move(found), steps, picture->width, picture->height);
    report["detections"] = nlohmann::json::array();
    for (const Detection& b : boxes) {
      report["detections"].push_back(to_json(b));
      if (!o.json) fmt::print("  {:5.1f} %  {:<16} {:7.1f} {:7.1f} {:7.1f} {:7.1f}\n", 100 * b.score, b.label.empty() ? std::to_string(b.class_index) : b.label, b.x0, b.y0, b.x1, b.y1);
    }
    if (!o.json) fmt::print("  {} found\n", boxes.size());
    drawn = *picture;
    draw_detections(*drawn, boxes);
  } else if (head == Head::kMap && picture) {
    Segmentation map = segment(outputs[0]);
    report["segmentation"] = to_json(map, labels);
    if (!o.json) fmt::print("  {}\n", to_json(map, labels).dump());
    drawn = *picture;
    draw_segmentation(*drawn, resize(map, drawn->width, drawn->height));
  }
  if (!o.annotate.empty()) {
    if (!drawn) fail(ErrorKind::kUsage, "--annotate: nothing to draw: needs a picture and outputs of a known form");
    o.annotate.ends_with(".png") ? write_png(o.annotate, *drawn) : write_jpeg(o.annotate, *drawn);
  }
  if (o.json) {
    fmt::print("{}\n", report.dump());
    return;
  }
  for (const auto& j : report["outputs"])
    fmt::print("{} {} {}{}\n", j["name"].get<std::string>(), j["type"].get<std::string>(), to_string(j["shape"].get<Shape>()),
               j.contains("min") ? fmt::format("  min {:.5g}  max {:.5g}  mean {:.5g}", j["min"].is_null() ? NAN : j["min"].get<double>(),
                                               j["max"].is_null() ? NAN : j["max"].get<double>(), j["mean"].is_null() ? NAN : j["mean"].get<double>()) : "");
}

}  // namespace

void add_run(CLI::App& app) {
  auto* command = app.add_subcommand("run", "Run a model on pictures, arrays or random inputs");
  command->footer("Examples:\n  lathe run squeezenet.onnx cat.jpg --labels imagenet_classes.txt\n"
                  "  lathe run detector.onnx street.jpg --annotate found.png\n"
                  "  lathe run model.onnx --input x=x.npy --output results\n  lathe run model.onnx --random 1 --json\n\n"
                  "Pictures are prepared as MODEL.preprocess.json says, when there is one, else as for ImageNet.");
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("INPUT", o->files, "Pictures (JPEG, PNG, WebP), .npy or .npz, in the order of the model's inputs");
  command->add_option("--input", o->named, "NAME=FILE, for several inputs");
  o->random_option = command->add_option("--random", o->seed, "Inputs that are not given are random, with this seed");
  command->add_option("-o,--output", o->output, "Write every output to DIR/NAME.npy");
  command->add_option("--labels", o->labels, "Names of the classes, one a line");
  command->add_option("--top", o->top, "Classes to print")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_option("--min-score", o->min_score, "Detections below this are dropped")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_option("--annotate", o->annotate, "Write a copy of the picture with the answer drawn on it (.png or .jpg)");
  o->picture.add_to(*command);
  o->model.add_precision(*command);
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] { run(*o); });
}

}  // namespace lathe::cli
