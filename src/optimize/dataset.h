// The user's data: a folder of pictures (class by labels.tsv or by subfolder), or arrays (.npy, .npz), one
// sample a file or many along the first axis. Samples are prepared when they are first wanted and kept while
// they fit in memory.
//
//   Dataset data("pictures", "model.onnx", graph, {.limit = 500, .seed = 1});
//   session.run(data.inputs(i));
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "graph/graph.h"
#include "tasks/input.h"

namespace lathe {

struct DatasetOptions {
  PreprocessChoices preprocess;
  std::string labels;    // a table FILE<TAB>CLASS[<TAB>NAME]; "": labels.tsv in the folder, if it is there
  int64_t limit = 500;   // at most so many samples, drawn by `seed` when there are more
  uint64_t seed = 1;
};

class Dataset {
 public:
  // `path` is a folder or one .npy or .npz file. Throws kInput: nothing there, labels without files or files
  // that are not there, arrays that do not fit the model's inputs.
  Dataset(const std::string& path, const std::string& model_path, const Graph& graph, const DatasetOptions& options);

  size_t size() const { return items_.size(); }
  int64_t found() const { return found_; }  // before the limit
  bool pictures() const { return pictures_; }
  bool labelled() const { return labelled_; }
  int64_t label(size_t i) const { return items_[i].label; }
  const std::string& name(size_t i) const { return items_[i].name; }
  // In the order of the graph's inputs. Throws kInput for a sample whose shape is not that of the first.
  std::vector<Tensor> inputs(size_t i);
  std::map<std::string, Shape> input_shapes();
  // One line of text, for people: how pictures are prepared, or what the arrays are.
  const std::string& preparation() const { return preparation_; }

 private:
  struct Item {
    std::string path, name;
    int64_t label = -1;
    std::vector<Tensor> inputs;  // empty until prepared, and again when too much is kept
  };
  void find_pictures(const std::string& folder, const std::string& labels);
  void add_arrays(const std::string& path);
  std::vector<Tensor> prepare(const Item& item);
  void check_fit(const std::string& name, const std::vector<Tensor>& inputs) const;

  std::string model_path_, preparation_;
  PreprocessChoices choices_;
  std::vector<Value> wanted_;  // the graph's inputs
  std::vector<Item> items_;
  int64_t found_ = 0, kept_bytes_ = 0;
  bool pictures_ = false, labelled_ = false;
};

}  // namespace lathe
