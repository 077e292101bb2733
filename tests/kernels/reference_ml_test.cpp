// ai.onnx.ml and TfIdfVectorizer against values worked out by hand from their descriptions.
#include <gmock/gmock.h>

#include <cmath>

#include "run_op.h"

namespace lathe::testing {
namespace {

using Floats = std::vector<float>;
using Texts = std::vector<std::string>;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

// run_op for the domain of classical models.
std::vector<Tensor> run_ml(std::string_view op, std::vector<Tensor> inputs, Attributes attributes = {}, int outputs = 1) {
  Node node;
  node.op = &find_op(op, "ai.onnx.ml");
  node.name = "n";
  node.attributes = std::move(attributes);
  int32_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i) node.inputs.push_back(ValueId{next++});
  for (int i = 0; i < outputs; ++i) node.outputs.push_back(ValueId{next++});
  return reference::run_node(node, std::move(inputs));
}

Tensor floats(Shape shape, const Floats& values) { return Tensor::of_f32(std::move(shape), values); }
Floats values(const Tensor& t) { return t.to_f32(); }

TEST(ArrayFeatureExtractor, PicksColumns) {
  auto y = run_ml("ArrayFeatureExtractor", {iota(DType::kF32, {3, 4}), ints({0, 1})});
  EXPECT_EQ(y[0].shape(), (Shape{3, 2}));
  EXPECT_EQ(elements(y[0]), (Values{0, 1, 4, 5, 8, 9}));
  y = run_ml("ArrayFeatureExtractor", {iota(DType::kI64, {4}), ints({3, 3, 0})});
  EXPECT_EQ(y[0].shape(), (Shape{1, 3}));
  EXPECT_EQ(elements(y[0]), (Values{3, 3, 0}));
  EXPECT_THROW(run_ml("ArrayFeatureExtractor", {iota(DType::kF32, {3, 4}), ints({4})}), Error);
  EXPECT_THROW(run_ml("ArrayFeatureExtractor", {iota(DType::kF32, {3, 4}), ints({-1})}), Error);
}

TEST(Binarizer, IsAboveTheThreshold) {
  EXPECT_THAT(values(run_ml("Binarizer", {floats({3}, {0.4f, 0.5f, 0.6f})}, {{"threshold", 0.5f}})[0]), ElementsAre(0, 0, 1));
}

TEST(FeatureVectorizer, PutsInputsSideBySide) {
  auto y = run_ml("FeatureVectorizer", {floats({2, 2}, {1, 2, 3, 4}), floats({2, 1}, {5, 6})}, {{"inputdimensions", Ints{2, 1}}});
  EXPECT_EQ(y[0].shape(), (Shape{2, 3}));
  EXPECT_EQ(elements(y[0]), (Values{1, 2, 5, 3, 4, 6}));
  EXPECT_THROW(run_ml("FeatureVectorizer", {floats({2, 2}, {1, 2, 3, 4})}, {{"inputdimensions", Ints{2, 1}}}), Error);
  EXPECT_THROW(run_ml("FeatureVectorizer", {floats({2, 2}, {1, 2, 3, 4}), floats({1, 1}, {5})}, {{"inputdimensions", Ints{2, 1}}}), Error);
}

TEST(Imputer, ReplacesWhatIsMissing) {
  EXPECT_THAT(values(run_ml("Imputer", {floats({2, 2}, {1, NAN, NAN, 4})}, {{"imputed_value_floats", Floats{10, 20}}, {"replaced_value_float", NAN}})[0]),
              ElementsAre(1, 20, 10, 4));
  EXPECT_EQ(elements(run_ml("Imputer", {ints({7, 0, 0})}, {{"imputed_value_int64s", Ints{5}}})[0]), (Values{7, 5, 5}));
  EXPECT_THROW(run_ml("Imputer", {floats({1, 3}, {1, 2, 3})}, {{"imputed_value_floats", Floats{10, 20}}}), Error);
}

TEST(LabelEncoder, MapsNumbers) {
  EXPECT_THAT(values(run_ml("LabelEncoder", {ints({2, 1, 9})}, {{"keys_int64s", Ints{1, 2}}, {"values_floats", Floats{0.5f, 1.5f}}, {"default_float", -1.0f}})[0]),
              ElementsAre(1.5, 0.5, -1));
  EXPECT_EQ(elements(run_ml("LabelEncoder", {floats({3}, {NAN, 1, 2})}, {{"keys_floats", Floats{1, NAN}}, {"values_int64s", Ints{4, 5}}})[0]),
            (Values{5, 4, -1}));
  Attributes tensors = {{"keys_tensor", ints({1, 2})}, {"values_tensor", of(DType::kI16, {2}, {41, 42})}, {"default_tensor", of(DType::kI16, {1}, {99})}};
  auto y = run_ml("LabelEncoder", {ints({2, 3})}, tensors);
  EXPECT_EQ(y[0].dtype(), DType::kI16);
  EXPECT_EQ(elements(y[0]), (Values{42, 99}));
  EXPECT_THROW(run_ml("LabelEncoder", {ints({1})}, {{"keys_int64s", Ints{1, 2}}, {"values_int64s", Ints{1}}}), Error);
  EXPECT_THROW(run_ml("LabelEncoder", {ints({1})}, {{"keys_strings", Texts{"a"}}, {"values_int64s", Ints{1}}}), Error);
}

TEST(LinearRegressor, IsAProductAndAnIntercept) {
  Attributes a = {{"coefficients", Floats{1, 2, 3, 4}}, {"intercepts", Floats{10, 20}}, {"targets", int64_t{2}}};
  EXPECT_THAT(values(run_ml("LinearRegressor", {floats({2, 2}, {1, 1, 0, 2})}, a)[0]), ElementsAre(13, 27, 14, 28));
  EXPECT_THROW(run_ml("LinearRegressor", {floats({1, 3}, {1, 1, 1})}, a), Error);
}

TEST(LinearClassifier, TakesTheBestScore) {
  Attributes a = {{"coefficients", Floats{1, 0, 0, 1, -1, -1}}, {"intercepts", Floats{0, 0, 0}}, {"classlabels_ints", Ints{7, 8, 9}},
                  {"post_transform", std::string("SOFTMAX")}};
  auto y = run_ml("LinearClassifier", {floats({2, 2}, {2, 1, -3, -3})}, a, 2);
  EXPECT_EQ(elements(y[0]), (Values{7, 9}));
  double sum = std::exp(2) + std::exp(1) + std::exp(-3);
  EXPECT_NEAR(y[1].get(0), std::exp(2) / sum, 1e-6);
  EXPECT_NEAR(y[1].get(2), std::exp(-3) / sum, 1e-6);
  // One score for two classes is that of the second.
  a = {{"coefficients", Floats{1, 1}}, {"intercepts", Floats{-1}}, {"classlabels_ints", Ints{0, 1}}, {"post_transform", std::string("LOGISTIC")}};
  y = run_ml("LinearClassifier", {floats({2, 2}, {1, 1, 0, 0})}, a, 2);
  EXPECT_EQ(elements(y[0]), (Values{1, 0}));
  EXPECT_NEAR(y[1].get(0), 1 / (1 + std::exp(1)), 1e-6);
  EXPECT_NEAR(y[1].get(1), 1 / (1 + std::exp(-1)), 1e-6);
  a["post_transform"] = std::string("SOFTMAX");
  EXPECT_THROW(run_ml("LinearClassifier", {floats({2, 2}, {1, 1, 0, 0})}, a, 2), Error);
}

TEST(Normalizer, DividesByTheNormOfTheRow) {
  Tensor x = floats({2, 2}, {3, 4, 1, -2});
  EXPECT_THAT(values(run_ml("Normalizer", {x}, {{"norm", std::string("L2")}})[0]), ElementsAre(0.6f, 0.8f, FloatNear(0.4472136f, 1e-6f), FloatNear(-0.8944272f, 1e-6f)));
  EXPECT_THAT(values(run_ml("Normalizer", {x}, {{"norm", std::string("MAX")}})[0]), ElementsAre(0.75, 1, 1, -2));
  EXPECT_THAT(values(run_ml("Normalizer", {floats({2}, {1, 3})}, {{"norm", std::string("L1")}})[0]), ElementsAre(0.25, 0.75));
  EXPECT_THROW(run_ml("Normalizer", {x}, {{"norm", std::string("L3")}}), Error);
}

TEST(OneHotEncoder, KnowsOrRefuses) {
  auto y = run_ml("OneHotEncoder", {ints({2, 5})}, {{"cats_int64s", Ints{1, 2, 3}}});
  EXPECT_EQ(y[0].shape(), (Shape{2, 3}));
  EXPECT_EQ(elements(y[0]), (Values{0, 1, 0, 0, 0, 0}));
  EXPECT_THROW(run_ml("OneHotEncoder", {ints({5})}, {{"cats_int64s", Ints{1}}, {"zeros", int64_t{0}}}), Error);
}

TEST(Scaler, TakesOffAndMultiplies) {
  EXPECT_THAT(values(run_ml("Scaler", {floats({2, 2}, {1, 2, 3, 4})}, {{"offset", Floats{1, 2}}, {"scale", Floats{10}}})[0]), ElementsAre(0, 0, 20, 20));
  EXPECT_THROW(run_ml("Scaler", {floats({1, 3}, {1, 2, 3})}, {{"offset", Floats{1, 2}}}), Error);
}

TEST(SVMRegressor, SumsKernels) {
  Attributes a = {{"coefficients", Floats{2, -1}}, {"support_vectors", Floats{1, 0, 0, 1}}, {"rho", Floats{0.5f}}, {"n_supports", int64_t{2}},
                  {"kernel_params", Floats{0.5f, 1, 2}}};
  Tensor x = floats({1, 2}, {3, 1});
  EXPECT_NEAR(run_ml("SVMRegressor", {x}, a)[0].get(0), 2 * 3 - 1 + 0.5, 1e-5);
  a["kernel_type"] = std::string("RBF");
  EXPECT_NEAR(run_ml("SVMRegressor", {x}, a)[0].get(0), 2 * std::exp(-0.5 * 5) - std::exp(-0.5 * 9) + 0.5, 1e-5);
  a["kernel_type"] = std::string("POLY");
  EXPECT_NEAR(run_ml("SVMRegressor", {x}, a)[0].get(0), 2 * 2.5 * 2.5 - 1.5 * 1.5 + 0.5, 1e-5);
  a["support_vectors"] = Floats{1, 0, 0};
  EXPECT_THROW(run_ml("SVMRegressor", {x}, a), Error);
}

// x0 <= 1 ? (x1 < 0 ? 1 : 2) : 4, and a second tree that is x1 <= 10 ? 100 : 200; both for one target.
Attributes two_trees(const std::string& votes) {
  return {{"nodes_treeids", Ints{0, 0, 0, 0, 0, 1, 1, 1}},
          {"nodes_nodeids", Ints{0, 1, 2, 3, 4, 0, 1, 2}},
          {"nodes_featureids", Ints{0, 1, 0, 0, 0, 1, 0, 0}},
          {"nodes_values", Floats{1, 0, 0, 0, 0, 10, 0, 0}},
          {"nodes_modes", Texts{"BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"}},
          {"nodes_truenodeids", Ints{1, 3, 0, 0, 0, 1, 0, 0}},
          {"nodes_falsenodeids", Ints{2, 4, 0, 0, 0, 2, 0, 0}},
          {"nodes_missing_value_tracks_true", Ints{1, 0, 0, 0, 0, 0, 0, 0}},
          {votes + "_treeids", Ints{0, 0, 0, 1, 1}},
          {votes + "_nodeids", Ints{3, 4, 2, 1, 2}},
          {votes + "_ids", Ints{0, 0, 0, 0, 0}},
          {votes + "_weights", Floats{1, 2, 4, 100, 200}}};
}

TEST(TreeEnsembleRegressor, WalksEveryTree) {
  Tensor x = floats({4, 2}, {0, -1, 1, 0, 2, 11, NAN, 5});
  Attributes a = two_trees("target");
  EXPECT_THAT(values(run_ml("TreeEnsembleRegressor", {x}, a)[0]), ElementsAre(101, 102, 204, 102));
  a["aggregate_function"] = std::string("AVERAGE");
  a["base_values"] = Floats{0.5f};
  EXPECT_THAT(values(run_ml("TreeEnsembleRegressor", {x}, a)[0]), ElementsAre(51, 51.5, 102.5, 51.5));
  a["aggregate_function"] = std::string("MIN");
  EXPECT_THAT(values(run_ml("TreeEnsembleRegressor", {x}, a)[0]), ElementsAre(1.5, 2.5, 4.5, 2.5));
  a["aggregate_function"] = std::string("MAX");
  EXPECT_THAT(values(run_ml("TreeEnsembleRegressor", {x}, a)[0]), ElementsAre(100.5, 100.5, 200.5, 100.5));
}

TEST(TreeEnsembleRegressor, BrokenTreesAreRefused) {
  Tensor x = floats({1, 2}, {0, -1});
  auto fails = [&](const char* attribute, Attribute value) {
    Attributes a = two_trees("target");
    a[attribute] = std::move(value);
    EXPECT_THROW(run_ml("TreeEnsembleRegressor", {x}, a), Error) << attribute;
  };
  fails("nodes_truenodeids", Ints{0, 3, 0, 0, 0, 1, 0, 0});   // a circle
  fails("nodes_truenodeids", Ints{9, 3, 0, 0, 0, 1, 0, 0});   // a node that is not there
  fails("nodes_nodeids", Ints{0, 1, 2, 3, 3, 0, 1, 2});       // one that is there twice
  fails("nodes_featureids", Ints{2, 1, 0, 0, 0, 1, 0, 0});    // a feature that is not there
  fails("nodes_featureids", Ints{-1, 1, 0, 0, 0, 1, 0, 0});
  fails("nodes_values", Floats{1});
  fails("nodes_modes", Texts{"BRANCH", "BRANCH_LT", "LEAF", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"});
  fails("target_ids", Ints{0, 0, 0, 0, 1});
  fails("target_nodeids", Ints{0, 4, 2, 1, 2});               // a vote of an inner node
  fails("base_values", Floats{1, 2});
  fails("aggregate_function", std::string("MEDIAN"));
  fails("post_transform", std::string("SQUARE"));
  fails("n_targets", int64_t{0});
}

TEST(TreeEnsembleClassifier, VotesForClasses) {
  Attributes a = two_trees("class");
  a["class_ids"] = Ints{0, 1, 2, 2, 1};
  a["class_weights"] = Floats{1, 2, 4, 1.5f, 8};
  a["classlabels_int64s"] = Ints{10, 20, 30};
  auto y = run_ml("TreeEnsembleClassifier", {floats({3, 2}, {0, -1, 1, 0, 2, 11})}, a, 2);
  EXPECT_EQ(elements(y[0]), (Values{30, 20, 20}));
  EXPECT_THAT(values(y[1]), ElementsAre(1, 0, 1.5, 0, 2, 1.5, 0, 8, 4));
  Attributes one = a;  // what the other class scores is not said
  one["class_ids"] = Ints(5, 0);
  one["classlabels_int64s"] = Ints{10, 20};
  EXPECT_THROW(run_ml("TreeEnsembleClassifier", {floats({1, 2}, {0, 0})}, one, 2), Error);
  a["classlabels_strings"] = Texts{"a", "b", "c"};
  EXPECT_THROW(run_ml("TreeEnsembleClassifier", {floats({1, 2}, {0, 0})}, a, 2), Error);
}

// The example of the standard: a node each of LEQ, and of membership.
TEST(TreeEnsemble, SplitsAndMembership) {
  Attributes a = {{"n_targets", int64_t{2}}, {"aggregate_function", int64_t{1}}, {"post_transform", int64_t{0}}, {"tree_roots", Ints{0}},
                  {"nodes_modes", of(DType::kU8, {3}, {0, 6, 0})}, {"nodes_featureids", Ints{0, 0, 0}},
                  {"nodes_splits", floats({3}, {3.14f, 0, 4.2f})}, {"nodes_truenodeids", Ints{1, 0, 1}}, {"nodes_trueleafs", Ints{0, 1, 1}},
                  {"nodes_falsenodeids", Ints{2, 2, 3}}, {"nodes_falseleafs", Ints{0, 1, 1}}, {"leaf_targetids", Ints{0, 1, 0, 1}},
                  {"leaf_weights", floats({4}, {5.23f, 12.12f, -12.23f, 7.21f})}, {"membership_values", floats({3}, {1.2f, 2.5f, NAN})}};
  auto y = run_ml("TreeEnsemble", {floats({4, 1}, {1.2f, 3, 4, 5})}, a);
  EXPECT_EQ(y[0].shape(), (Shape{4, 2}));
  EXPECT_THAT(values(y[0]), ElementsAre(5.23f, 0, -12.23f, 0, 0, 12.12f, 0, 7.21f));
  a["tree_roots"] = Ints{3};
  EXPECT_THROW(run_ml("TreeEnsemble", {floats({1, 1}, {1})}, a), Error);
}

TEST(TfIdfVectorizer, CountsPairsWithGaps) {
  // The pool: 2, 3, 5, 4 as words, and the pairs 5 6, 7 8, 6 7 (the standard's example).
  Attributes a = {{"ngram_counts", Ints{0, 4}}, {"ngram_indexes", Ints{0, 1, 2, 3, 4, 5, 6}}, {"pool_int64s", Ints{2, 3, 5, 4, 5, 6, 7, 8, 6, 7}},
                  {"min_gram_length", int64_t{1}}, {"max_gram_length", int64_t{2}}, {"max_skip_count", int64_t{0}}, {"mode", std::string("TF")}};
  Tensor x = of(DType::kI32, {12}, {1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8});
  EXPECT_EQ(elements(run_op("TfIdfVectorizer", {x}, a)[0]), (Values{0, 3, 1, 0, 1, 1, 1}));
  a["max_skip_count"] = int64_t{5};
  a["min_gram_length"] = int64_t{2};
  EXPECT_EQ(elements(run_op("TfIdfVectorizer", {x}, a)[0]), (Values{0, 0, 0, 0, 1, 3, 1}));
  a["mode"] = std::string("TFIDF");
  a["weights"] = Floats{1, 1, 1, 1, 2, 0.5f, 3};
  EXPECT_EQ(elements(run_op("TfIdfVectorizer", {x}, a)[0]), (Values{0, 0, 0, 0, 2, 1.5, 3}));
  EXPECT_EQ(run_op("TfIdfVectorizer", {of(DType::kI64, {2, 3}, {5, 6, 7, 7, 8, 8})}, a)[0].shape(), (Shape{2, 7}));
  a["ngram_counts"] = Ints{0, 5};
  EXPECT_EQ(error_of("TfIdfVectorizer", {x}, a), ErrorKind::kModel);
  a["ngram_counts"] = Ints{0, 4};
  a["ngram_indexes"] = Ints{0, 1};
  EXPECT_EQ(error_of("TfIdfVectorizer", {x}, a), ErrorKind::kModel);
}

}  // namespace
}  // namespace lathe::testing
