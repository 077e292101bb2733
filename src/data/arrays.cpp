// Sets that lie in memory whole: IDX, CIFAR's binary files, .npz.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "core/file.h"
#include "data/sources.h"
#include "formats/idx.h"
#include "formats/npy.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

class ArraySet : public TrainingSet {
 public:
  ArraySet(Tensor data, std::vector<int64_t> labels, std::vector<std::string> classes, std::string name)
      : data_(std::make_shared<Tensor>(std::move(data))), labels_(std::move(labels)), name_(std::move(name)) {
    classes_ = std::move(classes);
    row_.assign(data_->shape().begin() + 1, data_->shape().end());
    data_->raw();  // copied here if it lies at an odd address, not by the first of many threads
  }
  size_t size() const override { return labels_.size(); }
  Sample sample(size_t i) const override {
    Sample s;
    const size_t bytes = data_->bytes() / labels_.size();
    s.input = Tensor(data_->dtype(), row_, static_cast<uint8_t*>(data_->raw()) + i * bytes, data_);
    s.label = labels_[i];
    return s;
  }
  int64_t label(size_t i) const override { return labels_[i]; }
  std::string name(size_t i) const override { return fmt::format("{}[{}]", name_, i); }
  bool in_memory() const override { return true; }

 private:
  std::shared_ptr<Tensor> data_;
  std::vector<int64_t> labels_;
  Shape row_;
  std::string name_;
};

std::vector<std::string> class_names_in(const std::string& path, size_t count) {
  std::vector<std::string> names;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  if (names.size() != count) fail(ErrorKind::kInput, "{}: names {} classes, expected {}", path, names.size(), count);
  return names;
}

// --- IDX -------------------------------------------------------------------------------------------

// "" when there is none.
std::string idx_file(const std::string& folder, const std::string& name) {
  for (const char* end : {".gz", ""})
    if (fs::path p = fs::path(folder) / (name + end); fs::exists(p)) return p.string();
  return "";
}

struct IdxPart {
  Tensor pictures;
  std::vector<int64_t> labels;
  std::string file;
};

IdxPart idx_part(const std::string& folder, const std::string& part) {
  const std::string pictures = idx_file(folder, part + "-images-idx3-ubyte"), labels = idx_file(folder, part + "-labels-idx1-ubyte");
  if (pictures.empty()) return {};
  if (labels.empty()) fail(ErrorKind::kInput, "{}: has no labels beside it (expected {}-labels-idx1-ubyte or .gz)", pictures, part);
  Tensor x = read_idx(pictures), y = read_idx(labels);
  if (x.dtype() != DType::kU8 || x.rank() != 3 || x.size() == 0)
    fail(ErrorKind::kInput, "{}: holds {} {}, expected u8 pictures [N, H, W]", pictures, name_of(x.dtype()), to_string(x.shape()));
  if (y.dtype() != DType::kU8 || y.rank() != 1 || y.dim(0) != x.dim(0))
    fail(ErrorKind::kInput, "{}: holds {} {}, expected a u8 label for each of {} pictures", labels, name_of(y.dtype()),
         to_string(y.shape()), x.dim(0));
  return {x.reshaped({x.dim(0), 1, x.dim(1), x.dim(2)}), y.to_i64(), pictures};
}

// Xiao, Rasul, Vollgraf 2017, table 2.
const std::vector<std::string> kFashion = {"T-shirt/top", "trouser", "pullover", "dress", "coat",
                                           "sandal",      "shirt",   "sneaker",  "bag",   "ankle boot"};
const std::vector<std::string> kCifar10 = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};

}  // namespace

std::shared_ptr<const TrainingSet> array_set(Tensor data, std::vector<int64_t> labels, std::vector<std::string> classes, std::string name) {
  return std::make_shared<ArraySet>(std::move(data), std::move(labels), std::move(classes), std::move(name));
}

FoundParts open_idx(const std::string& folder) {
  IdxPart train = idx_part(folder, "train"), test = idx_part(folder, "t10k");
  if (!train.pictures.defined()) return {};
  int64_t most = *std::max_element(train.labels.begin(), train.labels.end());
  bool fashion = fs::weakly_canonical(folder).filename() == "fashion-mnist" && most == 9;
  std::vector<std::string> classes = fashion ? kFashion : numbered(most + 1);
  for (int64_t label : test.labels)
    if (label > most) fail(ErrorKind::kInput, "{}: has the label {}, but those to train on end at {}", test.file, label, most);
  FoundParts found;
  found.what = fmt::format("IDX pictures {}", to_string({1, train.pictures.dim(2), train.pictures.dim(3)}));
  found.train = array_set(train.pictures, train.labels, classes, train.file);
  if (test.pictures.defined()) found.test = array_set(test.pictures, test.labels, classes, test.file);
  return found;
}

FoundParts open_cifar(const std::string& folder) {
  auto path = [&](const std::string& name) { return (fs::path(folder) / name).string(); };
  const bool ten = fs::exists(path("data_batch_1.bin")), hundred = fs::exists(path("train.bin"));
  if (!ten && !hundred) return {};
  const int64_t count = ten ? 10 : 100;
  std::vector<std::string> files;
  if (hundred && !ten) files = {path("train.bin")};
  for (int i = 1; ten && i <= 5; ++i)
    if (std::string file = path(fmt::format("data_batch_{}.bin", i)); fs::exists(file)) files.push_back(file);
  std::vector<CifarRows> parts;
  int64_t rows = 0;
  for (const std::string& file : files) {
    parts.push_back(read_cifar(file, count));
    rows += parts.back().pictures.dim(0);
  }
  Tensor pictures(DType::kU8, {rows, 3, 32, 32});
  std::vector<int64_t> labels;
  auto* to = pictures.data<uint8_t>();
  for (const CifarRows& p : parts) {
    std::memcpy(to, p.pictures.raw(), p.pictures.bytes());
    to += p.pictures.bytes();
    labels.insert(labels.end(), p.labels.begin(), p.labels.end());
  }
  const std::string names = path(ten ? "batches.meta.txt" : "fine_label_names.txt"), test = path(ten ? "test_batch.bin" : "test.bin");
  std::vector<std::string> classes = fs::exists(names) ? class_names_in(names, static_cast<size_t>(count)) : ten ? kCifar10 : numbered(100);
  FoundParts found;
  found.what = fmt::format("CIFAR-{} pictures [3, 32, 32]", count);
  found.train = array_set(pictures, labels, classes, folder);
  if (fs::exists(test)) {
    CifarRows t = read_cifar(test, count);
    found.test = array_set(t.pictures, t.labels, classes, test);
  }
  return found;
}

namespace {

// [N, C, H, W], [N, C, T, H, W], u8 or f32.
Tensor as_samples(Tensor x, const std::string& layout, const std::string& name) {
  if (x.rank() < 3 || x.rank() > 5 || x.size() == 0)
    fail(ErrorKind::kInput, "{}: has shape {}, expected pictures [N, H, W], [N, C, H, W] or [N, H, W, C], or clips [N, C, T, H, W]", name,
         to_string(x.shape()));
  if (x.dtype() != DType::kU8) x = cast(x, DType::kF32);
  if (x.rank() == 3) return x.reshaped({x.dim(0), 1, x.dim(1), x.dim(2)});
  auto few = [](int64_t channels) { return channels == 1 || channels == 3; };
  const bool last = layout == "NHWC" || (layout.empty() && few(x.dim(-1)) && !few(x.dim(1)));
  if (!last) return x;
  return x.rank() == 4 ? transpose(x, {0, 3, 1, 2}) : transpose(x, {0, 4, 1, 2, 3});
}

}  // namespace

FoundParts open_npz(const std::string& path, DataSpec& spec) {
  const std::string layout = spec.word("layout", "");
  if (!layout.empty() && layout != "NCHW" && layout != "NHWC") fail(ErrorKind::kUsage, "data {}: layout must be NCHW or NHWC", spec.text());
  std::map<std::string, Tensor> arrays = read_npz(path);
  auto part = [&](const std::string& end) -> std::pair<Tensor, std::vector<int64_t>> {
    auto x = arrays.find("x" + end), y = arrays.find("y" + end);
    if (x == arrays.end()) return {};
    if (y == arrays.end()) fail(ErrorKind::kInput, "{}: has 'x{}' and no labels 'y{}'", path, end, end);
    Tensor data = as_samples(x->second, layout, fmt::format("{}(x{})", path, end));
    const Tensor& labels = y->second;
    // Keras' files keep labels as [N, 1].
    if (!is_integer(labels.dtype()) || labels.size() != data.dim(0))
      fail(ErrorKind::kInput, "{}: 'y{}' holds {} {}, expected an integer label for each of {} samples", path, end, name_of(labels.dtype()),
           to_string(labels.shape()), data.dim(0));
    std::vector<int64_t> values = labels.to_i64();
    for (size_t i = 0; i < values.size(); ++i)
      if (values[i] < 0 || values[i] > 1'000'000) fail(ErrorKind::kInput, "{}: label {} of 'y{}' is {}", path, i, end, values[i]);
    return {data, values};
  };
  const bool parts = arrays.contains("x_train");
  auto [x, y] = part(parts ? "_train" : "");
  if (!x.defined()) fail(ErrorKind::kInput, "{}: holds no array 'x' or 'x_train' of samples (with labels 'y' or 'y_train')", path);
  auto [validation_x, validation_y] = parts ? part("_val") : part("_none");
  auto [test_x, test_y] = part("_test");
  std::vector<std::string> classes = numbered(*std::max_element(y.begin(), y.end()) + 1);
  for (const auto* labels : {&validation_y, &test_y})
    for (int64_t label : *labels)
      if (label >= static_cast<int64_t>(classes.size()))
        fail(ErrorKind::kInput, "{}: has the label {} outside of the training part, whose labels end at {}", path, label,
             classes.size() - 1);
  Shape shape(x.shape().begin() + 1, x.shape().end());
  FoundParts found;
  found.what = fmt::format("arrays {} {}", name_of(x.dtype()), to_string(shape));
  found.train = array_set(x, y, classes, path);
  if (validation_x.defined()) found.validation = array_set(validation_x, validation_y, classes, path + "(x_val)");
  if (test_x.defined()) found.test = array_set(test_x, test_y, classes, path + "(x_test)");
  return found;
}

}  // namespace lathe
