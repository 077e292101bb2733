#include "optimize/dataset.h"

#define XXH_STATIC_LINKING_ONLY  // for the state on the stack
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>
#include <random>

#include "core/file.h"
#include "formats/label_table.h"
#include "formats/npy.h"
#include "formats/picture_folder.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Prepared samples that are kept: 500 pictures of 224×224 are 300 MB. What does not fit is prepared again.
constexpr int64_t kKeptBytes = int64_t{1} << 30;
constexpr int64_t kMaxPictureFile = int64_t{1} << 29;

// Rows [row, row + 1) of an array with many samples along its first axis.
Tensor row_of(const Tensor& t, int64_t row) {
  Shape shape = t.shape();
  shape[0] = 1;
  Tensor out(t.dtype(), shape);
  std::memcpy(out.raw(), t.data<char>() + static_cast<size_t>(row) * out.bytes(), out.bytes());
  return out;
}

}  // namespace

Dataset::Dataset(const std::string& path, const std::string& model_path, const Graph& graph, const DatasetOptions& options)
    : model_path_(model_path), choices_(options.preprocess) {
  for (ValueId v : graph.inputs) {
    wanted_.push_back(graph[v]);
    wanted_.back().constant = {};
  }
  if (wanted_.empty()) fail(ErrorKind::kInput, "the model takes no input: there is nothing to measure with data");
  if (!fs::exists(path)) fail(ErrorKind::kInput, "--data {}: no such file or folder", path);
  if (fs::is_directory(path)) {
    std::vector<fs::path> arrays = files_of(path, [](const fs::path& p) { return p.extension() == ".npy" || p.extension() == ".npz"; });
    find_pictures(path, arrays.empty() ? options.labels : "");
    if (!items_.empty() && !arrays.empty())
      fail(ErrorKind::kInput, "--data {}: holds both pictures and arrays; keep them in folders of their own", path);
    for (const fs::path& array : arrays) add_arrays(array.string());
  } else {
    add_arrays(path);
  }
  if (items_.empty())
    fail(ErrorKind::kInput, "--data {}: found neither pictures (.jpg, .png, .webp, also in one subfolder a class) nor arrays (.npy, .npz)", path);
  if (!pictures_ && !options.labels.empty()) label_arrays(options.labels);
  found_ = static_cast<int64_t>(items_.size());
  draw(options);
  inputs(0);  // tells the shapes, and whether anything fits at all
}

// By the seed alone: the same files are drawn the same way wherever they lie.
void Dataset::draw(const DatasetOptions& options) {
  const size_t all = items_.size(), calibration = std::min(static_cast<size_t>(std::max<int64_t>(options.calibration, 0)), all / 4);
  size_ = std::min(static_cast<size_t>(options.limit), all - calibration);
  if (size_ == all) return;
  std::mt19937_64 random(options.seed);
  std::shuffle(items_.begin(), items_.end(), random);
  items_.resize(size_ + calibration);
  auto by_name = [](const Item& a, const Item& b) { return a.name < b.name; };
  auto middle = items_.begin() + static_cast<std::ptrdiff_t>(size_);
  std::sort(items_.begin(), middle, by_name);
  std::sort(middle, items_.end(), by_name);
}

void Dataset::find_pictures(const std::string& folder, std::string labels) {
  std::vector<fs::path> pictures = files_of(folder, is_picture);
  for (const char* usual : {"labels.tsv", "labels.json", "labels"})
    if (labels.empty() && fs::exists(fs::path(folder) / usual) && !pictures.empty()) labels = (fs::path(folder) / usual).string();
  if (!labels.empty() && !fs::exists(labels)) fail(ErrorKind::kInput, "--labels {}: no such file or folder", labels);
  for (const fs::path& p : pictures) items_.push_back({p.string(), p.filename().string()});
  if (pictures.empty()) {
    for (const ClassFolder& c : class_folders(folder))
      for (const fs::path& p : files_of(c.path, is_picture)) items_.push_back({p.string(), c.name + "/" + p.filename().string(), c.label});
    if (!items_.empty()) truth_ = Truth::kClass;
  }
  pictures_ = !items_.empty();
  if (pictures_ && wanted_.size() != 1)
    fail(ErrorKind::kInput, "the model takes {} inputs; pictures serve networks of one input, give .npz files", wanted_.size());
  if (!pictures_ || labels.empty()) return;
  if (fs::is_directory(labels)) label_by_maps(labels);
  else if (labels.ends_with(".json")) label_by_coco(folder, labels);
  else label_by_table(folder, labels);
}

// A table of classes says too which pictures are meant; in one of boxes, pictures that it does not name hold no object.
void Dataset::label_by_table(const std::string& folder, const std::string& table) {
  std::map<std::string, size_t> there;
  for (size_t i = 0; i < items_.size(); ++i) there[items_[i].name] = i;
  std::vector<LabelRow> rows = read_label_table(table);
  std::vector<Item> named;
  for (const LabelRow& row : rows) {
    auto it = there.find(row.file);
    if (it == there.end()) fail(ErrorKind::kInput, "{} names '{}', which is no picture in {}", table, row.file, folder);
    Item& item = items_[it->second];
    if (row.box) {
      const std::array<float, 4>& b = *row.box;
      item.boxes.push_back({b[0], b[1], b[2], b[3], row.label});
    } else {
      named.push_back(item);
      named.back().label = row.label;
    }
  }
  truth_ = rows[0].box ? Truth::kBoxes : Truth::kClass;
  if (!rows[0].box) items_ = std::move(named);
}

// The pictures of the folder that the file lists.
void Dataset::label_by_coco(const std::string& folder, const std::string& file) {
  CocoFile coco = read_coco(file);
  std::map<std::string, size_t> there;
  for (size_t i = 0; i < items_.size(); ++i) there[items_[i].name] = i;
  std::vector<Item> listed;
  for (CocoFile::Picture& picture : coco.pictures) {
    auto it = there.find(picture.file);
    if (it == there.end()) continue;
    listed.push_back(items_[it->second]);
    listed.back().boxes = std::move(picture.boxes);
  }
  if (listed.empty()) fail(ErrorKind::kInput, "{} lists no picture that is in {}", file, folder);
  items_ = std::move(listed);
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.name < b.name; });
  truth_ = Truth::kBoxes;
}

void Dataset::label_by_maps(const std::string& maps) {
  for (Item& item : items_) {
    item.map = (fs::path(maps) / (fs::path(item.name).stem().string() + ".png")).string();
    if (!fs::exists(item.map)) fail(ErrorKind::kInput, "{}: holds no map of classes for {}: expected {}", maps, item.name, item.map);
  }
  truth_ = Truth::kMap;
}

void Dataset::label_arrays(const std::string& labels) {
  if (labels.ends_with(".npy")) {
    Tensor t = read_npy(labels);
    if (!is_integer(t.dtype()) || t.size() != static_cast<int64_t>(items_.size()))
      fail(ErrorKind::kInput, "{}: holds {} {}, expected a class for each of {} samples", labels, to_string(t.shape()), name_of(t.dtype()), items_.size());
    for (size_t i = 0; i < items_.size(); ++i) items_[i].label = t.get_int(static_cast<int64_t>(i));
  } else {
    std::map<std::string, int64_t> classes;
    for (const LabelRow& row : read_label_table(labels)) classes[row.file] = row.label;
    for (Item& item : items_) {
      auto it = classes.find(item.name);
      if (it == classes.end()) fail(ErrorKind::kInput, "{}: names no class for the sample {}", labels, item.name);
      item.label = it->second;
    }
  }
  for (const Item& item : items_)
    if (item.label < 0) fail(ErrorKind::kInput, "{}: the class of {} is {}", labels, item.name, item.label);
  truth_ = Truth::kClass;
}

LabelMap Dataset::map(size_t i) const { return read_label_map(items_[i].map); }

void Dataset::add_arrays(const std::string& path) {
  std::map<std::string, Tensor> arrays;
  if (path.ends_with(".npz")) {
    arrays = read_npz(path);
  } else if (path.ends_with(".npy")) {
    if (wanted_.size() != 1) fail(ErrorKind::kInput, "{}: the model takes {} inputs, give an .npz file with one array for each", path, wanted_.size());
    arrays[wanted_[0].name] = read_npy(path);
  } else {
    fail(ErrorKind::kInput, "--data {}: expected a folder, .npy or .npz", path);
  }
  if (wanted_.size() == 1 && arrays.size() == 1) {  // the name does not matter then
    Tensor only = arrays.begin()->second;
    arrays = {{wanted_[0].name, only}};
  }
  std::vector<Tensor> inputs;
  int64_t samples = -1;
  for (const Value& v : wanted_) {
    auto it = arrays.find(v.name);
    if (it == arrays.end()) fail(ErrorKind::kInput, "{}: holds no array '{}', which the model takes as input", path, v.name);
    Tensor t = it->second.dtype() == v.dtype ? it->second : cast(it->second, v.dtype);
    bool many = t.rank() >= 1 && v.shape && v.shape->size() == t.shape().size() && ((*v.shape)[0] == 1 || (*v.shape)[0] < 0);
    int64_t rows = many ? t.dim(0) : 1;
    if (samples >= 0 && rows != samples) fail(ErrorKind::kInput, "{}: '{}' holds {} samples, another input {}", path, v.name, rows, samples);
    samples = rows;
    inputs.push_back(std::move(t));
  }
  std::string name = fs::path(path).filename().string();
  for (int64_t row = 0; row < samples; ++row) {
    Item item{path, samples > 1 ? fmt::format("{}[{:06}]", name, row) : name};
    for (const Tensor& t : inputs) item.inputs.push_back(samples > 1 ? row_of(t, row) : t);
    items_.push_back(std::move(item));
  }
  preparation_ = "arrays as they are";
}

std::vector<Tensor> Dataset::prepare(Item& item) {
  Image image = read_image(item.path);
  Preprocess steps = preprocess_for(model_path_, wanted_[0], image, choices_);
  if (preparation_.empty()) preparation_ = steps.describe();
  item.picture = {steps, image.width, image.height};
  Tensor t = steps.apply(image);
  return {wanted_[0].dtype == DType::kF32 || wanted_[0].dtype == DType::kUndefined ? t : cast(t, wanted_[0].dtype)};
}

void Dataset::check_fit(const std::string& name, const std::vector<Tensor>& inputs) const {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& v = wanted_[i];
    const Shape& s = inputs[i].shape();
    bool fits = !v.shape || v.shape->size() == s.size();
    for (size_t d = 0; fits && v.shape && d < s.size(); ++d) fits = (*v.shape)[d] < 0 || (*v.shape)[d] == s[d];
    if (!fits) fail(ErrorKind::kInput, "{} has shape {}, input '{}' of the model expects {}", name, to_string(s), v.name, to_string(*v.shape));
  }
}

std::vector<Tensor> Dataset::inputs(size_t i) {
  Item& item = items_[i];
  if (!item.inputs.empty()) {
    if (!pictures_) check_fit(item.name, item.inputs);
    return item.inputs;
  }
  std::vector<Tensor> made = prepare(item);
  check_fit(item.name, made);
  if (i != 0 && !items_[0].inputs.empty() && items_[0].inputs[0].shape() != made[0].shape())
    fail(ErrorKind::kInput, "{} gives an input of shape {}, {} one of {}: say the size with --size", item.name,
         to_string(made[0].shape()), items_[0].name, to_string(items_[0].inputs[0].shape()));
  auto bytes = static_cast<int64_t>(made[0].bytes());
  if (i == 0 || kept_bytes_ + bytes <= kKeptBytes) {
    kept_bytes_ += bytes;
    item.inputs = made;
  }
  return made;
}

std::string Dataset::digest() {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  auto take = [&](const void* data, size_t size) { XXH3_128bits_update(&state, data, size); };
  auto number = [&](int64_t x) { take(&x, sizeof x); };
  auto text = [&](const std::string& t) {
    number(static_cast<int64_t>(t.size()));
    take(t.data(), t.size());
  };
  auto file = [&](const std::string& path) {
    std::vector<uint8_t> bytes = read_file(path, kMaxPictureFile);
    number(static_cast<int64_t>(bytes.size()));
    take(bytes.data(), bytes.size());
  };
  number(static_cast<int64_t>(size_));
  for (const Item& item : items_) {
    text(item.name);
    number(item.label);
    for (const TrueBox& b : item.boxes) {
      for (float x : {b.x0, b.y0, b.x1, b.y1}) take(&x, sizeof x);
      number(b.class_index);
      number(b.crowd);
    }
    if (!item.map.empty()) file(item.map);
    if (pictures_) {
      file(item.path);
      continue;
    }
    for (const Tensor& t : item.inputs) {
      text(to_string(t.shape()));
      take(t.raw(), t.bytes());
    }
  }
  XXH128_hash_t digest = XXH3_128bits_digest(&state);
  return fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
}

std::map<std::string, Shape> Dataset::input_shapes() {
  std::map<std::string, Shape> shapes;
  std::vector<Tensor> first = inputs(0);
  for (size_t i = 0; i < first.size(); ++i) shapes[wanted_[i].name] = first[i].shape();
  return shapes;
}

}  // namespace lathe
