// Classification: from a network's scores to named classes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

struct ClassScore {
  int64_t index;
  float probability;
  std::string label;  // "" without a label file
};
nlohmann::json to_json(const ClassScore& result);

// Class names: one a line, or tab-separated with the index in a column of numbers ("17<tab>jay",
// "picture<tab>17<tab>jay"). Empty lines at the end are left out.
std::vector<std::string> read_labels(const std::string& path);
// Where a model's class names stand: "m.onnx" → "m.labels.txt".
std::string labels_beside(const std::string& model_path);

// Softmax of the values unless they already are probabilities (all in 0 … 1, sum 1 within 1 %).
std::vector<float> probabilities(const std::vector<float>& scores);

// The `count` best classes, best first, for each picture of the batch. `scores` is [N, classes], possibly
// with sizes of 1 after it. A label list of one entry fewer than there are classes is taken to lack
// the "background" class 0, as in TensorFlow's ImageNet models.
std::vector<std::vector<ClassScore>> classify(const Tensor& scores, int64_t count,
                                              const std::vector<std::string>& labels = {});

}  // namespace lathe
