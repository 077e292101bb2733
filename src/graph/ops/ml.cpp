// ai.onnx.ml: what classical learners export: trees, linear and support-vector models, and the steps before them. What
// they make of texts is left out (docs/OPERATORS.md); attributes that hold texts are declared, so that the error comes
// from where they are used.
#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;
using Floats = std::vector<float>;
using Texts = std::vector<std::string>;

constexpr const char* kDomain = "ai.onnx.ml";

// [N, C] or [C], which counts as one row: the rows.
std::optional<int64_t> rows_of(InferContext& c) {
  c.expect_rank(0, 1, 2);
  if (!c.shape()) return std::nullopt;
  return c.shape()->size() == 2 ? (*c.shape())[0] : 1;
}

std::optional<Shape> rows_by(InferContext& c, int64_t columns) {
  auto rows = rows_of(c);
  return rows ? std::optional(Shape{*rows, columns}) : std::nullopt;
}

// The first input's shape, other elements.
template <DType kType>
void same_shape(InferContext& c) {
  c.set_output(0, kType, c.shape());
}

void infer_array_feature_extractor(InferContext& c) {
  c.expect_rank(0, 1, kMaxRank);
  std::optional<Shape> shape;
  if (c.shape(0) && c.shape(1)) {
    shape = c.shape(0);
    if (shape->size() == 1) shape->insert(shape->begin(), 1);
    shape->back() = is_static(*c.shape(1)) ? element_count(*c.shape(1)) : kUnknownDim;
  }
  c.set_output(0, c.dtype(), shape);
}

void infer_feature_vectorizer(InferContext& c) {
  int64_t columns = 0;
  for (int64_t n : c.node().get_ints("inputdimensions")) {
    check_model(n >= 0 && !__builtin_add_overflow(columns, n, &columns), "an entry of inputdimensions is {}", n);
  }
  check_model(c.node().get_ints("inputdimensions").size() == c.input_count(), "inputdimensions has {} entries for {} inputs",
              c.node().get_ints("inputdimensions").size(), c.input_count());
  for (size_t i = 0; i < c.input_count(); ++i) check_model(c.has_input(i), "input {} is missing", i);
  c.set_output(0, DType::kF32, rows_by(c, columns));
}

void infer_label_encoder(InferContext& c) {
  const Node& n = c.node();
  if (!n.get_string_list("values_strings").empty() || !n.get_string_list("keys_strings").empty() || !n.get_string_list("classes_strings").empty())
    fail(ErrorKind::kUnsupported, "LabelEncoder from or to strings is not supported");
  DType type = n.has("values_tensor") ? n.get_tensor("values_tensor").dtype() : n.has("values_floats") ? DType::kF32 : DType::kI64;
  c.set_output(0, type, c.shape());
}

void infer_one_hot_encoder(InferContext& c) {
  if (!c.node().get_string_list("cats_strings").empty()) fail(ErrorKind::kUnsupported, "OneHotEncoder of strings is not supported");
  std::optional<Shape> shape = c.shape();
  if (shape) shape->push_back(static_cast<int64_t>(c.node().get_ints("cats_int64s").size()));
  c.set_output(0, DType::kF32, shape);
}

void refuse_text_labels(const Node& n, const char* attribute) {
  if (!n.get_string_list(attribute).empty()) fail(ErrorKind::kUnsupported, "labels that are strings are not supported");
}

// Label and score of each class. `labels` names the attribute of whole-number labels.
template <const char* const& kLabels>
void infer_classifier(InferContext& c) {
  refuse_text_labels(c.node(), "classlabels_strings");
  auto classes = static_cast<int64_t>(c.node().get_ints(kLabels).size());
  check_model(classes > 0, "'{}' is empty", kLabels);
  auto rows = rows_of(c);
  c.set_output(0, DType::kI64, rows ? std::optional(Shape{*rows}) : std::nullopt);
  c.set_output(1, DType::kF32, rows_by(c, classes));
}

constexpr const char* kLinearLabels = "classlabels_ints";
constexpr const char* kTreeLabels = "classlabels_int64s";

template <const char* const& kTargets>
void infer_regressor(InferContext& c) {
  int64_t targets = c.node().get_int(kTargets);
  check_model(targets >= 1 && targets <= (int64_t{1} << 24), "'{}' is {}", kTargets, targets);
  c.set_output(0, DType::kF32, rows_by(c, targets));
}

constexpr const char* kLinearTargets = "targets";
constexpr const char* kTreeTargets = "n_targets";

void infer_tree_ensemble(InferContext& c) {
  int64_t targets = c.node().get_int(kTreeTargets);
  check_model(targets >= 1 && targets <= (int64_t{1} << 24), "'n_targets' is {}", targets);
  c.set_output(0, c.dtype(), rows_by(c, targets));
}

// What the two older forms of trees have in common.
std::vector<AttributeSpec> tree_attributes(std::initializer_list<AttributeSpec> more) {
  std::vector<AttributeSpec> list = {
      {"aggregate_function", std::string("SUM")}, {"base_values", Floats()}, {"base_values_as_tensor", Tensor()},
      {"nodes_falsenodeids", Ints()}, {"nodes_featureids", Ints()}, {"nodes_hitrates", Floats()}, {"nodes_hitrates_as_tensor", Tensor()},
      {"nodes_missing_value_tracks_true", Ints()}, {"nodes_modes", Texts()}, {"nodes_nodeids", Ints()}, {"nodes_treeids", Ints()},
      {"nodes_truenodeids", Ints()}, {"nodes_values", Floats()}, {"nodes_values_as_tensor", Tensor()},
      {"post_transform", std::string("NONE")}};
  list.insert(list.end(), more);
  return list;
}

void declare_trees(OpRegistry& r) {
  r.add({.name = "TreeEnsembleRegressor", .domain = kDomain,
         .attributes = tree_attributes({{"n_targets", int64_t{1}}, {"target_ids", Ints()}, {"target_nodeids", Ints()},
                                        {"target_treeids", Ints()}, {"target_weights", Floats()}, {"target_weights_as_tensor", Tensor()}}),
         .infer = infer_regressor<kTreeTargets>});
  r.add({.name = "TreeEnsembleClassifier", .domain = kDomain, .minimum_outputs = 1, .maximum_outputs = 2,
         .attributes = tree_attributes({{"class_ids", Ints()}, {"class_nodeids", Ints()}, {"class_treeids", Ints()}, {"class_weights", Floats()},
                                        {"class_weights_as_tensor", Tensor()}, {kTreeLabels, Ints()}, {"classlabels_strings", Texts()}}),
         .infer = infer_classifier<kTreeLabels>});
  r.add({.name = "TreeEnsemble", .domain = kDomain,
         .attributes = {{"aggregate_function", int64_t{1}}, {"leaf_targetids", Ints(), true}, {"leaf_weights", Tensor(), true},
                        {"membership_values", Tensor()}, {kTreeTargets, int64_t{1}}, {"nodes_falseleafs", Ints(), true},
                        {"nodes_falsenodeids", Ints(), true}, {"nodes_featureids", Ints(), true}, {"nodes_hitrates", Tensor()},
                        {"nodes_missing_value_tracks_true", Ints()}, {"nodes_modes", Tensor(), true}, {"nodes_splits", Tensor(), true},
                        {"nodes_trueleafs", Ints(), true}, {"nodes_truenodeids", Ints(), true}, {"post_transform", int64_t{0}},
                        {"tree_roots", Ints(), true}},
         .infer = infer_tree_ensemble});
}

}  // namespace

void declare_ml(OpRegistry& r) {
  r.add({.name = "ArrayFeatureExtractor", .domain = kDomain, .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_array_feature_extractor});
  r.add({.name = "Binarizer", .domain = kDomain, .attributes = {{"threshold", 0.0f}}, .infer = infer::same_as_first});
  r.add({.name = "FeatureVectorizer", .domain = kDomain, .maximum_inputs = -1, .attributes = {{"inputdimensions", Ints(), true}},
         .infer = infer_feature_vectorizer});
  r.add({.name = "Imputer", .domain = kDomain,
         .attributes = {{"imputed_value_floats", Floats()}, {"imputed_value_int64s", Ints()}, {"replaced_value_float", 0.0f},
                        {"replaced_value_int64", int64_t{0}}},
         .infer = infer::same_as_first});
  r.add({.name = "LabelEncoder", .domain = kDomain,
         .attributes = {{"classes_strings", Texts()}, {"default_float", -0.0f}, {"default_int64", int64_t{-1}},
                        {"default_string", std::string("_Unused")}, {"default_tensor", Tensor()}, {"keys_floats", Floats()},
                        {"keys_int64s", Ints()}, {"keys_strings", Texts()}, {"keys_tensor", Tensor()}, {"values_floats", Floats()},
                        {"values_int64s", Ints()}, {"values_strings", Texts()}, {"values_tensor", Tensor()}},
         .infer = infer_label_encoder});
  r.add({.name = "LinearClassifier", .domain = kDomain, .minimum_outputs = 1, .maximum_outputs = 2,
         .attributes = {{kLinearLabels, Ints()}, {"classlabels_strings", Texts()}, {"coefficients", Floats(), true}, {"intercepts", Floats()},
                        {"multi_class", int64_t{0}}, {"post_transform", std::string("NONE")}},
         .infer = infer_classifier<kLinearLabels>});
  r.add({.name = "LinearRegressor", .domain = kDomain,
         .attributes = {{"coefficients", Floats()}, {"intercepts", Floats()}, {"post_transform", std::string("NONE")}, {kLinearTargets, int64_t{1}}},
         .infer = infer_regressor<kLinearTargets>});
  r.add({.name = "Normalizer", .domain = kDomain, .attributes = {{"norm", std::string("MAX")}}, .infer = same_shape<DType::kF32>});
  r.add({.name = "OneHotEncoder", .domain = kDomain,
         .attributes = {{"cats_int64s", Ints()}, {"cats_strings", Texts()}, {"zeros", int64_t{1}}}, .infer = infer_one_hot_encoder});
  r.add({.name = "SVMRegressor", .domain = kDomain,
         .attributes = {{"coefficients", Floats()}, {"kernel_params", Floats()}, {"kernel_type", std::string("LINEAR")},
                        {"n_supports", int64_t{0}}, {"one_class", int64_t{0}}, {"post_transform", std::string("NONE")}, {"rho", Floats()},
                        {"support_vectors", Floats()}},
         .infer = [](InferContext& c) { c.set_output(0, DType::kF32, rows_by(c, 1)); }});
  r.add({.name = "Scaler", .domain = kDomain, .attributes = {{"offset", Floats()}, {"scale", Floats()}}, .infer = same_shape<DType::kF32>});
  declare_trees(r);
}

}  // namespace lathe::ops
