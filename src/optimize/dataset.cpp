#include "optimize/dataset.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <numeric>
#include <random>
#include <set>

#include "core/file.h"
#include "formats/image.h"
#include "formats/npy.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Prepared samples that are kept: 500 pictures of 224×224 are 300 MB. What does not fit is prepared again.
constexpr int64_t kKeptBytes = int64_t{1} << 30;
constexpr int64_t kMaxLabelFile = 64 << 20;

bool is_picture(const fs::path& path) {
  std::string e = path.extension().string();
  std::transform(e.begin(), e.end(), e.begin(), [](unsigned char c) { return std::tolower(c); });
  return e == ".jpg" || e == ".jpeg" || e == ".png" || e == ".webp";
}

std::vector<fs::path> files_of(const fs::path& folder, bool (*wanted)(const fs::path&)) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && wanted(entry.path())) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// FILE<TAB>CLASS[<TAB>…], one a line; a first line whose class is no number is a heading.
std::vector<std::pair<std::string, int64_t>> read_table(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, kMaxLabelFile);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::pair<std::string, int64_t>> rows;
  for (size_t at = 0, line = 1; at < text.size(); ++line) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view row = text.substr(at, end - at);
    at = end + 1;
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    if (row.empty()) continue;
    size_t tab = row.find('\t');
    std::string_view rest = tab == row.npos ? "" : row.substr(tab + 1);
    std::optional<int64_t> label = whole_number(rest.substr(0, rest.find('\t')));
    if (!label && line == 1) continue;
    if (!label) fail(ErrorKind::kInput, "{}, line {}: expected FILE<tab>CLASS with a class index, found '{}'", path, line, row.substr(0, 80));
    rows.emplace_back(row.substr(0, tab), *label);
  }
  if (rows.empty()) fail(ErrorKind::kInput, "{} holds no label", path);
  return rows;
}

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
    find_pictures(path, options.labels);
    if (!items_.empty() && !arrays.empty())
      fail(ErrorKind::kInput, "--data {}: holds both pictures and arrays; keep them in folders of their own", path);
    for (const fs::path& array : arrays) add_arrays(array.string());
  } else {
    add_arrays(path);
  }
  if (items_.empty())
    fail(ErrorKind::kInput, "--data {}: found neither pictures (.jpg, .png, .webp, also in one subfolder a class) nor arrays (.npy, .npz)", path);
  found_ = static_cast<int64_t>(items_.size());
  if (found_ > options.limit) {
    std::mt19937_64 random(options.seed);
    std::shuffle(items_.begin(), items_.end(), random);
    items_.resize(static_cast<size_t>(options.limit));
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.name < b.name; });
  }
  labelled_ = std::all_of(items_.begin(), items_.end(), [](const Item& item) { return item.label >= 0; });
  inputs(0);  // tells the shapes, and whether anything fits at all
}

void Dataset::find_pictures(const std::string& folder, const std::string& labels) {
  std::string table = labels;
  if (table.empty() && fs::exists(fs::path(folder) / "labels.tsv")) table = (fs::path(folder) / "labels.tsv").string();
  std::vector<fs::path> pictures = files_of(folder, is_picture);
  pictures_ = true;
  if (!table.empty() && !pictures.empty()) {
    std::set<std::string> there;
    for (const fs::path& p : pictures) there.insert(p.filename().string());
    for (auto& [name, label] : read_table(table)) {
      if (!there.contains(name)) fail(ErrorKind::kInput, "{} names '{}', which is no picture in {}", table, name, folder);
      items_.push_back({(fs::path(folder) / name).string(), name, label, {}});
    }
  } else if (!pictures.empty()) {
    for (const fs::path& p : pictures) items_.push_back({p.string(), p.filename().string(), -1, {}});
  } else {
    std::vector<fs::path> classes;
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.is_directory()) classes.push_back(entry.path());
    std::sort(classes.begin(), classes.end());
    for (size_t c = 0; c < classes.size(); ++c) {
      std::string name = classes[c].filename().string();
      // Folders named by numbers say their class; others are numbered in the order of their names.
      int64_t label = whole_number(name).value_or(static_cast<int64_t>(c));
      for (const fs::path& p : files_of(classes[c], is_picture))
        items_.push_back({p.string(), name + "/" + p.filename().string(), label, {}});
    }
  }
  pictures_ = !items_.empty();
  if (pictures_ && wanted_.size() != 1)
    fail(ErrorKind::kInput, "the model takes {} inputs; pictures serve networks of one input, give .npz files", wanted_.size());
}

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
    Item item{path, samples > 1 ? fmt::format("{}[{:06}]", name, row) : name, -1, {}};
    for (const Tensor& t : inputs) item.inputs.push_back(samples > 1 ? row_of(t, row) : t);
    items_.push_back(std::move(item));
  }
  preparation_ = "arrays as they are";
}

std::vector<Tensor> Dataset::prepare(const Item& item) {
  Image image = read_image(item.path);
  Preprocess steps = preprocess_for(model_path_, wanted_[0], image, choices_);
  if (preparation_.empty()) preparation_ = steps.describe();
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

std::map<std::string, Shape> Dataset::input_shapes() {
  std::map<std::string, Shape> shapes;
  std::vector<Tensor> first = inputs(0);
  for (size_t i = 0; i < first.size(); ++i) shapes[wanted_[i].name] = first[i].shape();
  return shapes;
}

}  // namespace lathe
