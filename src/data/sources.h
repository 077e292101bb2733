// What open_dataset() chooses among: each form of data opens from the parsed text of its spec.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "data/dataset.h"

namespace lathe {

// "PATH,key=value,…": options are taken by those who know them; what nobody took is an error.
class DataSpec {
 public:
  explicit DataSpec(const std::string& text);

  const std::string& text() const { return text_; }
  const std::string& path() const { return path_; }
  // Throws kUsage for a value that is no number or outside of [low, high].
  int64_t integer(const std::string& key, int64_t usual, int64_t low, int64_t high);
  double number(const std::string& key, double usual, double low, double high);
  std::string word(const std::string& key, const std::string& usual);
  // Whether somebody has taken it, given or not.
  bool asked(const std::string& key) const { return asked_.contains(key); }
  // kUsage for options that were given and not asked for; lists those that were.
  void finish() const;

 private:
  std::string text_, path_;
  std::map<std::string, std::string> given_;
  std::map<std::string, bool> asked_;
};

// "0", "1", ...: of classes that have no names.
std::vector<std::string> numbered(int64_t count);

// A set in the parts in which it comes; null where it has none.
struct FoundParts {
  std::shared_ptr<const TrainingSet> train, validation, test;
  std::string what;  // "60000 pictures 1x28x28 in IDX files"
};

// Null `train` when the folder or file is not of the form. `folder` exists.
FoundParts open_idx(const std::string& folder);
FoundParts open_cifar(const std::string& folder);
FoundParts open_npz(const std::string& path, DataSpec& spec);
FoundParts open_coco(const std::string& path, DataSpec& spec);  // a folder or one .json file
FoundParts open_voc(const std::string& folder, DataSpec& spec);
FoundParts open_pictures(const std::string& folder, DataSpec& spec);

// "generated:moving-shapes" and "generated:shapes"; the parts are drawn apart and need no splitting.
DataParts open_generated(DataSpec& spec);
// A clip u8 [channels, frames, size, size]. What the class decides is the movement: the first frame follows from the seed alone.
Tensor draw_moving_shape(int64_t class_index, uint64_t seed, int64_t channels, int64_t frames, int64_t size, double noise);

// N samples along the first axis of `data` (u8 or f32), one label each; `name` stands for it in messages.
std::shared_ptr<const TrainingSet> array_set(Tensor data, std::vector<int64_t> labels, std::vector<std::string> classes, std::string name);

}  // namespace lathe
