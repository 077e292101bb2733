// The user's data: a folder of pictures or arrays (.npy, .npz), one sample a file or many along the first axis, with
// what is known of each: a class, boxes, or a map of classes. Samples are prepared when they are first wanted and kept
// while they fit in memory. Some are held back for calibration: techniques are fitted to those and compared on the others.
//
//   Dataset data("pictures", "model.onnx", graph, {.limit = 500, .calibration = 100, .seed = 1});
//   session.run(data.inputs(i));                         // 0 … size() − 1: for evaluation
//   session.run(data.inputs(data.size() + i));           // 0 … calibration_size() − 1: for calibration
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/annotations.h"
#include "formats/image.h"
#include "graph/graph.h"
#include "tasks/input.h"

namespace lathe {

struct DatasetOptions {
  PreprocessChoices preprocess;
  // Of pictures: a table FILE<TAB>CLASS[<TAB>NAME], a table FILE<TAB>CLASS<TAB>X0<TAB>Y0<TAB>X1<TAB>Y1 of boxes in pixels, a COCO
  // JSON file of boxes, or a folder of PNG maps of classes, one a picture, of its name. Of arrays: a .npy file of classes in the order
  // of the samples, or a table by the samples' names. "": labels.tsv, labels.json or labels/ in the folder, if they are there.
  std::string labels;
  int64_t limit = 500;      // at most so many samples for evaluation, drawn by `seed` when there are more
  int64_t calibration = 0;  // so many others, but at most a quarter of all
  uint64_t seed = 1;
};

// What is known of a sample. Pictures without objects have no box.
enum class Truth { kNone, kClass, kBoxes, kMap };

class Dataset {
 public:
  // `path` is a folder or one .npy or .npz file. Throws kInput: nothing there, labels without files or files
  // that are not there, arrays that do not fit the model's inputs.
  Dataset(const std::string& path, const std::string& model_path, const Graph& graph, const DatasetOptions& options);

  size_t size() const { return size_; }
  size_t calibration_size() const { return items_.size() - size_; }
  int64_t found() const { return found_; }  // before any was left out
  bool pictures() const { return pictures_; }
  Truth truth() const { return truth_; }
  bool labelled() const { return truth_ == Truth::kClass; }
  int64_t label(size_t i) const { return items_[i].label; }
  const std::vector<TrueBox>& boxes(size_t i) const { return items_[i].boxes; }
  LabelMap map(size_t i) const;
  const std::string& name(size_t i) const { return items_[i].name; }
  // How the picture was prepared, and its size; the sample must have been prepared (inputs(i)).
  struct Picture {
    Preprocess steps;
    int width = 0, height = 0;
  };
  const Picture& picture(size_t i) const { return items_[i].picture; }
  // In the order of the graph's inputs. Throws kInput for a sample whose shape is not that of the first.
  std::vector<Tensor> inputs(size_t i);
  std::map<std::string, Shape> input_shapes();
  // One line of text, for people: how pictures are prepared, or what the arrays are.
  const std::string& preparation() const { return preparation_; }
  // A digest of names, labels, sizes and contents of all samples that are used, and of which serve for what.
  std::string digest();

 private:
  struct Item {
    std::string path, name;
    int64_t label = -1;
    std::vector<TrueBox> boxes = {};
    std::string map = {};               // file
    std::vector<Tensor> inputs = {};    // empty until prepared, and again when too much is kept
    Picture picture = {};
  };
  void find_pictures(const std::string& folder, std::string labels);
  void label_by_table(const std::string& folder, const std::string& table);
  void label_by_coco(const std::string& folder, const std::string& file);
  void label_by_maps(const std::string& maps);
  void label_arrays(const std::string& labels);
  void add_arrays(const std::string& path);
  void draw(const DatasetOptions& options);
  std::vector<Tensor> prepare(Item& item);
  void check_fit(const std::string& name, const std::vector<Tensor>& inputs) const;

  std::string model_path_, preparation_;
  PreprocessChoices choices_;
  std::vector<Value> wanted_;  // the graph's inputs
  std::vector<Item> items_;    // those for evaluation, then those for calibration
  size_t size_ = 0;
  int64_t found_ = 0, kept_bytes_ = 0;
  bool pictures_ = false;
  Truth truth_ = Truth::kNone;
};

}  // namespace lathe
