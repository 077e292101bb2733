#include "data/dataset.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "data/random.h"
#include "data/sources.h"
#include "formats/picture_folder.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Of sets that come without a validation or test part: a tenth, at most so many.
constexpr double kUsualShare = 0.1;
constexpr size_t kUsualMost = 5000;
// Streams of random numbers, so that the drawing of one part says nothing about another.
enum Stream : uint64_t { kDrawTest = 1, kDrawValidation, kDrawLimit };

class Subset : public TrainingSet {
 public:
  Subset(std::shared_ptr<const TrainingSet> set, std::vector<size_t> indices) : set_(std::move(set)), indices_(std::move(indices)) {
    classes_ = set_->classes();
    truth_ = set_->truth();
    for (size_t i : indices_) require(i < set_->size(), "subset: sample {} of {}", i, set_->size());
  }
  size_t size() const override { return indices_.size(); }
  Sample sample(size_t i) const override { return set_->sample(indices_[i]); }
  int64_t label(size_t i) const override { return set_->label(indices_[i]); }
  std::string name(size_t i) const override { return set_->name(indices_[i]); }
  bool in_memory() const override { return set_->in_memory(); }

 private:
  std::shared_ptr<const TrainingSet> set_;
  std::vector<size_t> indices_;
};

// Gray samples as a network of colours takes them: the one channel three times.
class InColors : public TrainingSet {
 public:
  explicit InColors(std::shared_ptr<const TrainingSet> set) : set_(std::move(set)) {
    classes_ = set_->classes();
    truth_ = set_->truth();
  }
  size_t size() const override { return set_->size(); }
  Sample sample(size_t i) const override {
    Sample s = set_->sample(i);
    if (s.input.dim(0) != 1) fail(ErrorKind::kInput, "{}: has {} channels; colors=RGB is for samples of one", name(i), s.input.dim(0));
    Shape shape = s.input.shape();
    shape[0] = 3;
    Tensor all(s.input.dtype(), shape);
    for (size_t c = 0; c < 3; ++c) std::memcpy(static_cast<uint8_t*>(all.raw()) + c * s.input.bytes(), s.input.raw(), s.input.bytes());
    s.input = std::move(all);
    return s;
  }
  int64_t label(size_t i) const override { return set_->label(i); }
  std::string name(size_t i) const override { return set_->name(i); }
  bool in_memory() const override { return set_->in_memory(); }

 private:
  std::shared_ptr<const TrainingSet> set_;
};

// `count` samples in the proportions of the classes: each class gives the first of its samples in a random order, the remainders go
// to the classes that are furthest below their share. In ascending order.
std::vector<size_t> draw(const TrainingSet& set, size_t count, uint64_t seed, Stream stream) {
  std::map<int64_t, std::vector<size_t>> by_class;
  for (size_t i = 0; i < set.size(); ++i) by_class[set.label(i)].push_back(i);
  struct Share {
    std::vector<size_t>* samples;
    size_t whole;
    double rest;
  };
  std::vector<Share> shares;
  size_t drawn = 0;
  count = std::min(count, set.size());
  for (auto& [label, samples] : by_class) {
    Random random(seed, stream, static_cast<uint64_t>(label));
    std::vector<size_t> order = random.permutation(samples.size());
    for (size_t& i : order) i = samples[i];
    samples = std::move(order);
    double exact = static_cast<double>(count) * static_cast<double>(samples.size()) / static_cast<double>(set.size());
    size_t whole = std::min(static_cast<size_t>(exact), samples.size());
    shares.push_back({&samples, whole, exact - static_cast<double>(whole)});
    drawn += whole;
  }
  std::stable_sort(shares.begin(), shares.end(), [](const Share& a, const Share& b) { return a.rest > b.rest; });
  for (size_t at = 0; drawn < count; at = (at + 1) % shares.size()) {
    if (shares[at].whole == shares[at].samples->size()) continue;
    ++shares[at].whole;
    ++drawn;
  }
  std::vector<size_t> result;
  for (const Share& s : shares) result.insert(result.end(), s.samples->begin(), s.samples->begin() + static_cast<std::ptrdiff_t>(s.whole));
  std::sort(result.begin(), result.end());
  return result;
}

std::vector<size_t> all_but(size_t size, const std::vector<size_t>& taken) {
  std::vector<size_t> rest;
  for (size_t i = 0, at = 0; i < size; ++i) {
    if (at < taken.size() && taken[at] == i) ++at;
    else rest.push_back(i);
  }
  return rest;
}

// How many of `size` an option asks for: a share below 1, or a count; −1: the usual tenth.
size_t count_of(double asked, size_t size) {
  if (asked < 0) return std::min(static_cast<size_t>(std::llround(kUsualShare * static_cast<double>(size))), kUsualMost);
  if (asked < 1) return static_cast<size_t>(std::llround(asked * static_cast<double>(size)));
  return static_cast<size_t>(asked);
}

// Takes a part of `from` away into `part`.
void split_off(std::shared_ptr<const TrainingSet>& from, std::shared_ptr<const TrainingSet>& part, double asked, uint64_t seed,
               Stream stream, const std::string& text) {
  size_t count = count_of(asked, from->size());
  if (count >= from->size() && count > 0)
    fail(ErrorKind::kInput, "{}: {} samples cannot give {} for {} and keep one to train on", text, from->size(), count,
         stream == kDrawTest ? "test" : "validation");
  std::vector<size_t> taken = draw(*from, count, seed, stream);
  part = subset(from, taken);
  from = subset(from, all_but(from->size(), taken));
}

void limit(std::shared_ptr<const TrainingSet>& part, int64_t most, uint64_t seed) {
  if (most > 0 && part->size() > static_cast<size_t>(most)) part = subset(part, draw(*part, static_cast<size_t>(most), seed, kDrawLimit));
}

// A name that is no path is looked for where data is kept.
std::string find_data(const std::string& name) {
  if (fs::exists(name)) return name;
  std::vector<std::string> places;
  if (const char* folder = std::getenv("LATHE_DATA"); folder && *folder) places.emplace_back(folder);
  places.emplace_back("/usr/share/datasets");  // Debian's dataset-fashion-mnist
  if (!name.empty() && name[0] != '/')
    for (const std::string& place : places)
      if (fs::path found = fs::path(place) / name; fs::exists(found)) return found.string();
  std::string hint = name == "fashion-mnist" ? " (Debian's package dataset-fashion-mnist brings it)" : "";
  fail(ErrorKind::kInput, "data {}: no such file or folder, here{} or in /usr/share/datasets{}", name,
       places.size() > 1 ? ", in $LATHE_DATA" : "", hint);
}

void check_agreement(const TrainingSet& train, const TrainingSet& other, const char* part, const std::string& text) {
  if (other.size() > 0 && other.classes() != train.classes())
    fail(ErrorKind::kInput, "{}: the {} part has {} classes, the training part {}, or they have other names", text, part,
         other.classes().size(), train.classes().size());
}

FoundParts find_parts(const std::string& path, DataSpec& spec) {
  if (!fs::is_directory(path)) {
    if (path.ends_with(".npz")) return open_npz(path, spec);
    if (path.ends_with(".json")) return open_coco(path, spec);
    fail(ErrorKind::kInput, "data {}: expected a folder, .npz or .json (COCO)", path);
  }
  if (FoundParts found = open_idx(path); found.train) return found;
  if (FoundParts found = open_cifar(path); found.train) return found;
  if (FoundParts found = open_voc(path, spec); found.train) return found;
  if (FoundParts found = open_coco(path, spec); found.train) return found;
  return open_pictures(path, spec);
}

// Whether samples are asked for in colours; pictures in files are decoded as asked for already (open_pictures).
bool colors_asked(DataSpec& spec) {
  if (spec.asked("colors")) return false;
  const std::string colors = spec.word("colors", "");
  if (colors != "" && colors != "RGB") fail(ErrorKind::kUsage, "data {}: colors must be RGB where samples are no pictures in files, found '{}'", spec.text(), colors);
  return !colors.empty();
}

}  // namespace

DataSpec::DataSpec(const std::string& text) : text_(text) {
  size_t end = text.find(',');
  path_ = text.substr(0, end);
  while (end != std::string::npos) {
    size_t begin = end + 1;
    end = text.find(',', begin);
    std::string part = text.substr(begin, end == std::string::npos ? end : end - begin);
    size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0)
      fail(ErrorKind::kUsage, "data {}: expected key=value behind the comma, found '{}'", text, part);
    if (!given_.emplace(part.substr(0, equals), part.substr(equals + 1)).second)
      fail(ErrorKind::kUsage, "data {}: '{}' is given twice", text, part.substr(0, equals));
  }
  if (path_.empty()) fail(ErrorKind::kUsage, "data '{}': names no data", text);
}

std::string DataSpec::word(const std::string& key, const std::string& usual) {
  asked_[key] = true;
  auto it = given_.find(key);
  return it == given_.end() ? usual : it->second;
}

double DataSpec::number(const std::string& key, double usual, double low, double high) {
  std::string text = word(key, "");
  if (!given_.contains(key)) return usual;
  double value = NAN;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high))
    fail(ErrorKind::kUsage, "data {}: {} must be a number from {} to {}, found '{}'", text_, key, low, high, text);
  return value;
}

int64_t DataSpec::integer(const std::string& key, int64_t usual, int64_t low, int64_t high) {
  double value = number(key, static_cast<double>(usual), static_cast<double>(low), static_cast<double>(high));
  if (value != std::floor(value)) fail(ErrorKind::kUsage, "data {}: {} must be a whole number, found {}", text_, key, value);
  return static_cast<int64_t>(value);
}

void DataSpec::finish() const {
  for (const auto& [key, value] : given_) {
    if (asked_.contains(key)) continue;
    std::string known;
    for (const auto& [name, unused] : asked_) known += (known.empty() ? "" : ", ") + name;
    fail(ErrorKind::kUsage, "data {}: no option '{}' here; there are {}", text_, key, known);
  }
}

std::vector<std::string> numbered(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

DataParts open_dataset(const std::string& text) {
  DataSpec spec(text);
  if (spec.path().starts_with("generated:")) return open_generated(spec);
  const std::string path = find_data(spec.path());
  const auto seed = static_cast<uint64_t>(spec.integer("seed", 1, 0, int64_t{1} << 52));
  constexpr double kMost = 1e9;
  const double validation = spec.number("validation", -1, 0, kMost), test = spec.number("test", -1, 0, kMost);
  const int64_t most = spec.integer("limit", 0, 1, int64_t{1} << 40),
                most_others = spec.integer("limit-evaluation", 0, 1, int64_t{1} << 40),
                most_validation = spec.integer("limit-validation", most_others, 1, int64_t{1} << 40);
  FoundParts found = find_parts(path, spec);
  const bool colors = colors_asked(spec);
  spec.finish();
  require(found.train != nullptr, "{}: opened as nothing", text);
  if (found.train->size() == 0) fail(ErrorKind::kInput, "{}: holds no sample", path);
  if (colors && found.train->sample(0).input.dim(0) != 3)
    for (auto* part : {&found.train, &found.validation, &found.test})
      if (*part) *part = std::make_shared<InColors>(*part);
  std::string split;
  // A set that brings a validation part and no test part (ImageNet, COCO, VOC) keeps its test answers elsewhere.
  if (!found.test && !found.validation) {
    split_off(found.train, found.test, test, seed, kDrawTest, text);
    split += fmt::format("{} for test drawn by seed {}, ", found.test->size(), seed);
  } else if (test >= 0) {
    fail(ErrorKind::kUsage, "data {}: test= is for sets that come in one part", text);
  }
  if (!found.validation) {
    split_off(found.train, found.validation, validation, seed, kDrawValidation, text);
    split += fmt::format("{} for validation drawn by seed {}, ", found.validation->size(), seed);
  } else if (validation >= 0) {
    fail(ErrorKind::kUsage, "data {}: validation= is for sets that do not bring a validation part", text);
  }
  if (!found.test) found.test = subset(found.train, {});
  check_agreement(*found.train, *found.validation, "validation", text);
  check_agreement(*found.train, *found.test, "test", text);
  limit(found.train, most, seed);
  limit(found.validation, most_validation, seed);
  limit(found.test, most_others, seed);
  return {found.train, found.validation, found.test,
          fmt::format("{}, {}{} train / {} validation / {} test, {} classes", found.what, split, found.train->size(),
                      found.validation->size(), found.test->size(), found.train->classes().size())};
}

std::shared_ptr<const TrainingSet> subset(std::shared_ptr<const TrainingSet> set, std::vector<size_t> indices) {
  return std::make_shared<Subset>(std::move(set), std::move(indices));
}

void check_class_count(const TrainingSet& set, int64_t outputs) {
  if (static_cast<int64_t>(set.classes().size()) != outputs)
    fail(ErrorKind::kInput, "the network tells {} classes apart, the data has {}: build it with --classes {}, or give it a new head",
         outputs, set.classes().size(), set.classes().size());
}

ChannelStatistics channel_statistics(const TrainingSet& set, size_t limit) {
  const size_t count = std::min(limit, set.size());
  if (count == 0) fail(ErrorKind::kInput, "there is no sample to take a mean of");
  std::vector<double> sum, squares;
  double elements = 0;
  for (size_t k = 0; k < count; ++k) {
    // Spread evenly over the set, whose order is often that of its classes.
    Tensor t = set.sample(k * set.size() / count).input;
    const auto channels = static_cast<size_t>(t.dim(0));
    const int64_t plane = t.size() / std::max<int64_t>(t.dim(0), 1);
    if (k == 0) sum.assign(channels, 0), squares.assign(channels, 0);
    if (channels != sum.size())
      fail(ErrorKind::kInput, "{}: has {} channels, samples before it {}", set.name(k * set.size() / count), channels, sum.size());
    for (size_t c = 0; c < channels; ++c) {
      double s = 0, q = 0;
      auto add = [&](auto* values, double scale) {
        for (int64_t i = 0; i < plane; ++i) {
          double x = static_cast<double>(values[i]) * scale;
          s += x;
          q += x * x;
        }
      };
      if (t.dtype() == DType::kU8) add(t.data<uint8_t>() + static_cast<int64_t>(c) * plane, 1.0 / 255);
      else add(t.data<float>() + static_cast<int64_t>(c) * plane, 1.0);
      sum[c] += s;
      squares[c] += q;
    }
    elements += static_cast<double>(plane);
  }
  ChannelStatistics result;
  for (size_t c = 0; c < sum.size(); ++c) {
    double mean = sum[c] / elements, variance = std::max(squares[c] / elements - mean * mean, 0.0);
    result.mean.push_back(static_cast<float>(mean));
    // A channel that never changes is only shifted.
    result.std.push_back(variance > 0 ? static_cast<float>(std::sqrt(variance)) : 1.0f);
  }
  return result;
}

}  // namespace lathe
