#include <filesystem>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/file.h"
#include "formats/image.h"
#include "formats/npy.h"
#include "formats/raw.h"
#include "options.h"
#include "runtime/inspect.h"
#include "runtime/load.h"
#include "tasks/classify.h"
#include "tasks/detect.h"
#include "tasks/draw.h"
#include "tasks/head.h"
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

void write_outputs(const std::string& folder, const std::vector<Value>& declared, const std::vector<Tensor>& outputs) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) fail(ErrorKind::kInput, "{}: the folder cannot be made: {}", folder, failed.message());
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string name = declared[i].name;
    for (char& c : name)
      if (c == '/' || c == '\\' || c == '\0') c = '_';
    if (name == "." || name == "..") name.insert(0, 1, '_');
    write_npy((fs::path(folder) / (name + ".npy")).string(), outputs[i]);
  }
}

nlohmann::json summary(const std::vector<Value>& declared, const std::vector<Tensor>& outputs) {
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
    nlohmann::json j = {{"name", declared[i].name}, {"type", name_of(t.dtype())}, {"shape", t.shape()}};
    if (t.size()) { j["min"] = low; j["max"] = high; j["mean"] = sum / static_cast<double>(t.size()); }
    list.push_back(j);
  }
  return list;
}

// The inputs of a run, by name, and what is known of the picture among them.
class Inputs {
 public:
  Inputs(const Options& o, const CompiledModel& model) : o_(o), model_(model), shapes_(o.model.given_shapes()) {
    for (const auto& [name, shape] : shapes_) model.input_index(name);  // an unknown name is an error
  }

  void read() {
    for (const std::string& text : o_.named) {
      size_t equals = text.find('=');
      if (equals == text.npos) fail(ErrorKind::kUsage, "--input {}: expected NAME=FILE", text);
      std::string name = text.substr(0, equals);
      put(name, load(input(name), text.substr(equals + 1)));
    }
    for (const std::string& path : o_.files) {
      if (path.ends_with(".npz")) {
        for (auto& [name, tensor] : read_npz(path)) put(name, tensor);
        continue;
      }
      const auto& all = model_.inputs();
      auto open = std::find_if(all.begin(), all.end(), [&](const Value& v) { return !given_.contains(v.name); });
      if (open == all.end()) fail(ErrorKind::kUsage, "{}: the model takes only {} inputs", path, all.size());
      put(open->name, load(*open, path));
    }
    uint64_t seed = o_.seed;
    for (const Value& v : model_.inputs()) {
      if (given_.contains(v.name)) continue;
      if (!o_.random_option->count())
        fail(ErrorKind::kUsage, "input '{}' ({} {}) is not given: name a file, or use --random SEED", v.name, name_of(v.dtype), shape_text(v));
      put(v.name, random_tensor(v.dtype, default_shape(v), seed++));
    }
  }

  const std::map<std::string, Tensor>& tensors() const { return given_; }
  const std::optional<Image>& picture() const { return picture_; }
  // Of the picture, and how large the network saw it.
  const Preprocess& preprocess() const { return preprocess_; }
  std::pair<int64_t, int64_t> picture_size() const { return picture_size_; }

 private:
  const Value& input(const std::string& name) const { return model_.inputs()[model_.input_index(name)]; }

  // As --shape says, else as the model does.
  Shape shape_of(const Value& v) const {
    auto given = shapes_.find(v.name);
    if (given != shapes_.end()) return given->second;
    if (!v.shape) fail(ErrorKind::kUsage, "the model does not say the shape of input '{}': use --shape {}=…", v.name, v.name);
    return *v.shape;
  }

  Shape default_shape(const Value& v) const {
    Shape shape = shape_of(v);
    for (size_t i = 0; i < shape.size(); ++i)
      if (shape[i] < 0) shape[i] = i == 0 ? o_.model.batch : 1;
    return shape;
  }

  void put(const std::string& name, Tensor tensor) {
    const Value& v = input(name);
    if (v.dtype != DType::kUndefined && tensor.dtype() != v.dtype)
      fail(ErrorKind::kInput, "input '{}' is {}, the model expects {}", name, name_of(tensor.dtype()), name_of(v.dtype));
    if (!given_.emplace(name, std::move(tensor)).second) fail(ErrorKind::kUsage, "input '{}' is given twice", name);
  }

  Tensor load(const Value& v, const std::string& path) {
    if (path.ends_with(".npy")) return read_npy(path);
    if (path.ends_with(".npz")) {
      auto arrays = read_npz(path);
      auto found = arrays.find(v.name);
      if (found == arrays.end()) fail(ErrorKind::kInput, "{}: holds no array '{}'", path, v.name);
      return found->second;
    }
    if (path.ends_with(".raw") || path.ends_with(".bin")) return read_raw(path, v.dtype, shape_of(v));
    Image image = read_image(path);
    Preprocess steps = preprocess_for(o_.model.model, v, image, o_.picture.choices);
    if (!o_.json) fmt::print("{} → {}: {}\n", path, v.name, steps.describe());
    Tensor t = steps.apply(image);
    if (!picture_) {
      bool last = steps.layout == Preprocess::Layout::kNHWC;
      picture_size_ = {t.dim(last ? 2 : 3), t.dim(last ? 1 : 2)};
      picture_ = std::move(image);
      preprocess_ = steps;
    }
    return v.dtype == DType::kF32 || v.dtype == DType::kUndefined ? t : cast(t, v.dtype);
  }

  const Options& o_;
  const CompiledModel& model_;
  std::map<std::string, Shape> shapes_;
  std::map<std::string, Tensor> given_;
  std::optional<Image> picture_;
  Preprocess preprocess_;
  std::pair<int64_t, int64_t> picture_size_;
};

// Each of these adds to the report, prints unless --json, and gives back the picture with the answer on it.
std::optional<Image> tell_classes(const Options& o, const Tensor& scores, const Inputs& inputs,
                                  const std::vector<std::string>& labels, nlohmann::json& report) {
  auto rows = classify(scores, o.top, labels);
  for (const auto& row : rows) {
    nlohmann::json list = nlohmann::json::array();
    for (const ClassScore& c : row) {
      list.push_back(to_json(c));
      if (!o.json) fmt::print("  {:6.2f} %  {:>4}  {}\n", 100 * c.probability, c.index, c.label);
    }
    report["classes"].push_back(list);
  }
  if (!inputs.picture() || rows.empty() || rows[0].empty()) return std::nullopt;
  Image drawn = *inputs.picture();
  const ClassScore& best = rows[0][0];
  std::string text = fmt::format("{} {:.0f} %", best.label.empty() ? fmt::format("class {}", best.index) : best.label, 100 * best.probability);
  int scale = std::max(1, drawn.width / 200);
  fill_rectangle(drawn, 0, 0, text_width(text, scale) + 4 * scale, 11 * scale, {0, 0, 0});
  draw_text(drawn, 2 * scale, 2 * scale, text, scale, {255, 255, 255});
  return drawn;
}

std::optional<Image> tell_boxes(const Options& o, Head head, const std::vector<Tensor>& outputs, const Inputs& inputs,
                                const std::vector<std::string>& labels, nlohmann::json& report) {
  DetectOptions d;
  d.min_score = o.min_score;
  d.labels = labels;
  std::tie(d.input_width, d.input_height) = inputs.picture_size();
  const Image& picture = *inputs.picture();
  auto found = head == Head::kText ? text_regions(outputs[0]) : detect(outputs, detector_form(outputs), d);
  auto boxes = to_picture(std::move(found), inputs.preprocess(), picture.width, picture.height);
  report["detections"] = nlohmann::json::array();
  for (const Detection& b : boxes) {
    report["detections"].push_back(to_json(b));
    if (!o.json)
      fmt::print("  {:5.1f} %  {:<16} {:7.1f} {:7.1f} {:7.1f} {:7.1f}\n", 100 * b.score,
                 b.label.empty() ? std::to_string(b.class_index) : b.label, b.x0, b.y0, b.x1, b.y1);
  }
  if (!o.json) fmt::print("  {} found\n", boxes.size());
  Image drawn = picture;
  draw_detections(drawn, boxes);
  return drawn;
}

std::optional<Image> tell_map(const Options& o, const Tensor& output, const Inputs& inputs,
                              const std::vector<std::string>& labels, nlohmann::json& report) {
  Segmentation map = segment(output);
  report["segmentation"] = to_json(map, labels);
  if (!o.json) fmt::print("  {}\n", to_json(map, labels).dump());
  Image drawn = *inputs.picture();
  draw_segmentation(drawn, resize(map, drawn.width, drawn.height));
  return drawn;
}

std::optional<Image> tell(const Options& o, const std::vector<Tensor>& outputs, const Inputs& inputs,
                          const std::vector<std::string>& labels, nlohmann::json& report) {
  Head head = inputs.picture() || !labels.empty() ? head_of(outputs) : Head::kNone;
  if (head == Head::kClasses) return tell_classes(o, outputs[0], inputs, labels, report);
  if (!inputs.picture()) return std::nullopt;
  if (head == Head::kBoxes || head == Head::kText) return tell_boxes(o, head, outputs, inputs, labels, report);
  if (head == Head::kMap) return tell_map(o, outputs[0], inputs, labels, report);
  return std::nullopt;
}

void run(const Options& o) {
  CompiledModel model = o.model.open({}, false);
  Inputs inputs(o, model);
  inputs.read();
  // What a wrong label file or picture name says should not wait for the network.
  std::vector<std::string> labels;
  const std::string beside = labels_beside(o.model.model);
  if (!o.labels.empty() || std::filesystem::exists(beside)) labels = read_labels(o.labels.empty() ? beside : o.labels);
  const std::vector<Tensor>& outputs = model.run(inputs.tensors());
  if (!o.output.empty()) write_outputs(o.output, model.outputs(), outputs);
  nlohmann::json report = {{"model", o.model.model}, {"precision", model.plan_options().bf16 ? "bf16" : "fp32"}, {"threads", o.model.threads}};
  if (inputs.picture()) report["preprocess"] = inputs.preprocess().to_json();
  report["outputs"] = summary(model.outputs(), outputs);
  std::optional<Image> drawn = tell(o, outputs, inputs, labels, report);
  if (!o.annotate.empty()) {
    if (!drawn) fail(ErrorKind::kUsage, "--annotate: nothing to draw: needs a picture and outputs of a known form");
    o.annotate.ends_with(".png") ? write_png(o.annotate, *drawn) : write_jpeg(o.annotate, *drawn);
  }
  if (o.json) {
    fmt::print("{}\n", report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  for (const auto& j : report["outputs"])
    fmt::print("{} {} {}{}\n", j["name"].get<std::string>(), j["type"].get<std::string>(), to_string(j["shape"].get<Shape>()),
               j.contains("min") ? fmt::format("  min {:.5g}  max {:.5g}  mean {:.5g}", j["min"].get<double>(), j["max"].get<double>(), j["mean"].get<double>()) : "");
}

}  // namespace

void add_run(CLI::App& app) {
  auto* command = app.add_subcommand("run", "Run a model on pictures, arrays or random inputs");
  command->footer("Examples:\n  lathe run squeezenet.onnx cat.jpg --labels imagenet_classes.txt\n"
                  "  lathe run detector.onnx street.jpg --annotate found.png\n"
                  "  lathe run model.onnx --input ids=ids.npy --input mask=mask.raw --output results\n"
                  "  lathe run model.onnx inputs.npz --json\n  lathe run model.onnx --random 1 --shape x=1x3x320x320\n\n"
                  "Pictures are prepared as MODEL.preprocess.json says, when there is one, else as for ImageNet; flags\n"
                  "go over both, and the steps are printed. Classes are named as in MODEL.labels.txt, or --labels.\n"
                  "A .raw or .bin file holds the elements alone, in the type and shape of the model's input. Arrays of a .npz file are taken by their names.");
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("INPUT", o->files, "Pictures (JPEG, PNG, WebP), .npy, .npz, .raw or .bin, in the order of the model's inputs")->type_name("FILE");
  command->add_option("--input", o->named, "The file of one input, by its name (repeat for several)")->type_name("NAME=FILE")->allow_extra_args(false);
  o->random_option = command->add_option("--random", o->seed, "Inputs that are not given are random, with this seed");
  command->add_option("-o,--output", o->output, "Write every output to DIR/NAME.npy")->type_name("DIR");
  command->add_option("--labels", o->labels, "Names of the classes, one a line (MODEL.labels.txt, where there is one)")->type_name("FILE");
  command->add_option("--top", o->top, "Classes to print")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_option("--min-score", o->min_score, "Detections below this are dropped")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_option("--annotate", o->annotate, "Write a copy of the picture with the answer drawn on it (.png or .jpg)")->type_name("FILE");
  o->picture.add_to(*command);
  o->model.add_precision(*command);
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] { run(*o); });
}

}  // namespace lathe::cli
