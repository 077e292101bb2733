// ai.onnx.ml: linear and support-vector models, encoders and scalers. Trees are in tree.cpp.
#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/reference/families.h"
#include "kernels/reference/post_transform.h"

namespace lathe::reference {

namespace {

// The inverse of the error function, by Newton's method from Giles' approximation ("Approximating the erfinv
// function", GPU Computing Gems 2, 2010).
double inverse_erf(double x) {
  if (x <= -1 || x >= 1) return x == 1 ? INFINITY : x == -1 ? -INFINITY : NAN;
  double w = -std::log1p(-x * x);
  double y = w < 5 ? x * (1.50140941 + 0.246640727 * (w - 2.5)) : x * (2.83297682 + 1.00167406 * (std::sqrt(w) - 3));
  constexpr double kTwoOverRootPi = 1.1283791670955126;
  for (int i = 0; i < 4; ++i) y -= (std::erf(y) - x) / (kTwoOverRootPi * std::exp(-y * y));
  return y;
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// With `zeros` kept, scores of 0 stay 0 and count for nothing.
void softmax(std::span<double> scores, bool keep_zeros) {
  if (scores.empty()) return;
  double largest = *std::max_element(scores.begin(), scores.end()), sum = 0;
  for (double& s : scores) {
    if (keep_zeros && s == 0) continue;
    s = std::exp(s - largest);
    sum += s;
  }
  for (double& s : scores) s = sum > 0 ? s / sum : s;
}

}  // namespace

PostTransform post_transform_of(const std::string& name) {
  static const std::map<std::string, PostTransform> names = {{"NONE", PostTransform::kNone},
                                                             {"SOFTMAX", PostTransform::kSoftmax},
                                                             {"LOGISTIC", PostTransform::kLogistic},
                                                             {"SOFTMAX_ZERO", PostTransform::kSoftmaxZero},
                                                             {"PROBIT", PostTransform::kProbit}};
  auto it = names.find(name);
  check_model(it != names.end(), "unknown post_transform '{}'", name);
  return it->second;
}

void apply_post_transform(PostTransform transform, std::span<double> scores) {
  switch (transform) {
    case PostTransform::kNone: return;
    case PostTransform::kSoftmax: return softmax(scores, false);
    case PostTransform::kSoftmaxZero: return softmax(scores, true);
    case PostTransform::kLogistic:
      for (double& s : scores) s = logistic(s);
      return;
    case PostTransform::kProbit:
      for (double& s : scores) s = std::sqrt(2.0) * inverse_erf(2 * s - 1);
      return;
  }
}

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int64_t>;

// The input as rows: [N, C], or [C] as one.
struct Rows {
  explicit Rows(const Tensor& x) : tensor(x), columns(x.shape().back()), count(x.rank() == 2 ? x.shape()[0] : 1) {}
  double at(int64_t row, int64_t column) const { return tensor.get(row * columns + column); }
  const Tensor& tensor;
  int64_t columns, count;
};

void array_feature_extractor(Context& c) {
  const Tensor &x = c.input(0), &indices = c.input(1);
  Tensor& y = c.output();
  int64_t columns = x.shape().back(), rows = columns ? x.size() / columns : 0, picked = indices.size();
  check_model(y.size() == rows * picked, "cannot pick {} of {}", picked, to_string(x.shape()));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < picked; ++i) {
      int64_t from = indices.get_int(i);
      if (from < 0 || from >= columns) fail(ErrorKind::kInput, "index {} is outside 0 to {}", from, columns - 1);
      is_integer(x.dtype()) ? y.set_int(row * picked + i, x.get_int(row * columns + from)) : y.set(row * picked + i, x.get(row * columns + from));
    }
}

void binarizer(Context& c) {
  double threshold = c.node().get_float("threshold");
  for (int64_t i = 0; i < c.output().size(); ++i) c.output().set(i, c.input().get(i) > threshold ? 1 : 0);
}

void feature_vectorizer(Context& c) {
  const Ints& widths = c.node().get_ints("inputdimensions");
  Tensor& y = c.output();
  int64_t rows = y.shape()[0], at = 0;
  for (size_t k = 0; k < c.input_count(); ++k) {
    check_model(c.has_input(k) && (c.input(k).rank() == 1 || c.input(k).rank() == 2), "input {} must have one or two dimensions", k);
    Rows x(c.input(k));
    check_model(x.count == rows, "input {} has {} rows, the first {}", k, x.count, rows);
    for (int64_t row = 0; row < rows; ++row)  // a narrower input is filled up with zeros, a wider one cut off
      for (int64_t i = 0; i < widths[k]; ++i) y.set(row * y.shape()[1] + at + i, i < x.columns ? x.at(row, i) : 0);
    at += widths[k];
  }
}

void imputer(Context& c) {
  const Node& n = c.node();
  const Tensor& x = c.input();
  bool whole = is_integer(x.dtype());
  const Floats& floats = n.get_floats("imputed_value_floats");
  const Ints& ints = n.get_ints("imputed_value_int64s");
  int64_t columns = x.rank() ? x.shape().back() : 1;
  auto count = static_cast<int64_t>(whole ? ints.size() : floats.size());
  check_model(count == 1 || count == columns, "{} values to impute for {} columns", count, columns);
  double replaced = n.get_float("replaced_value_float");
  for (int64_t i = 0; i < x.size(); ++i) {
    int64_t k = count == 1 ? 0 : i % columns;
    if (whole) {
      c.output().set_int(i, x.get_int(i) == n.get_int("replaced_value_int64") ? ints[k] : x.get_int(i));
    } else {
      double value = x.get(i);
      bool missing = value == replaced || (std::isnan(value) && std::isnan(replaced));
      c.output().set(i, missing ? floats[k] : value);
    }
  }
}

// A label, which is a number of either kind; all NaN are one.
struct Label {
  double real = 0;
  int64_t whole = 0;
  bool operator<(const Label& other) const {
    if (std::isnan(real) || std::isnan(other.real)) return std::isnan(real) && !std::isnan(other.real);
    return real != other.real ? real < other.real : whole < other.whole;
  }
};

Tensor labels(const Node& n, const std::string& kind) {
  if (n.has(kind + "_tensor")) return n.get_tensor(kind + "_tensor");
  if (n.has(kind + "_floats")) {
    const Floats& values = n.get_floats(kind + "_floats");
    return Tensor::of_f32({static_cast<int64_t>(values.size())}, values);
  }
  return Tensor::of_i64(n.get_ints(kind + "_int64s"));
}

void label_encoder(Context& c) {
  const Node& n = c.node();
  const Tensor& x = c.input();
  Tensor keys = labels(n, "keys"), values = labels(n, "values"), &y = c.output();
  check_model(keys.size() == values.size(), "{} keys for {} values", keys.size(), values.size());
  auto label = [](const Tensor& t, int64_t i) { return is_integer(t.dtype()) ? Label{0, t.get_int(i)} : Label{t.get(i), 0}; };
  check_model(is_integer(x.dtype()) == is_integer(keys.dtype()), "keys are {}, the input is {}", name_of(keys.dtype()), name_of(x.dtype()));
  std::map<Label, int64_t> places;
  for (int64_t i = 0; i < keys.size(); ++i) places[label(keys, i)] = i;
  Label otherwise = is_integer(values.dtype()) ? Label{0, n.get_int("default_int64")} : Label{n.get_float("default_float"), 0};
  if (n.has("default_tensor")) {
    check_model(n.get_tensor("default_tensor").size() == 1, "default_tensor must hold one value");
    otherwise = label(n.get_tensor("default_tensor"), 0);
  }
  for (int64_t i = 0; i < x.size(); ++i) {
    auto it = places.find(label(x, i));
    Label value = it == places.end() ? otherwise : label(values, it->second);
    is_integer(y.dtype()) ? y.set_int(i, value.whole) : y.set(i, value.real);
  }
}

// Σ coefficients · row + intercept for each target.
std::vector<double> linear(const Node& n, const Rows& x, int64_t row, int64_t targets) {
  const Floats &coefficients = n.get_floats("coefficients"), &intercepts = n.get_floats("intercepts");
  check_model(static_cast<int64_t>(coefficients.size()) == targets * x.columns, "{} coefficients for {} targets of {} features",
              coefficients.size(), targets, x.columns);
  check_model(intercepts.empty() || static_cast<int64_t>(intercepts.size()) == targets, "{} intercepts for {} targets", intercepts.size(), targets);
  std::vector<double> scores(static_cast<size_t>(targets));
  for (int64_t k = 0; k < targets; ++k) {
    double sum = intercepts.empty() ? 0 : intercepts[k];
    for (int64_t i = 0; i < x.columns; ++i) sum += coefficients[k * x.columns + i] * x.at(row, i);
    scores[k] = sum;
  }
  return scores;
}

void linear_regressor(Context& c) {
  Tensor& y = c.output();
  Rows x(c.input());
  PostTransform transform = post_transform_of(c.node().get_string("post_transform"));
  int64_t targets = y.shape()[1];
  for (int64_t row = 0; row < x.count; ++row) {
    std::vector<double> scores = linear(c.node(), x, row, targets);
    apply_post_transform(transform, scores);
    for (int64_t k = 0; k < targets; ++k) y.set(row * targets + k, scores[k]);
  }
}

void linear_classifier(Context& c) {
  const Node& n = c.node();
  const Ints& classes = n.get_ints("classlabels_ints");
  Tensor& label = c.output(0);
  Rows x(c.input());
  PostTransform transform = post_transform_of(n.get_string("post_transform"));
  auto count = static_cast<int64_t>(classes.size());
  // One score can stand for two classes: that of the second.
  bool single = count == 2 && static_cast<int64_t>(n.get_floats("coefficients").size()) == x.columns;
  if (single && (transform == PostTransform::kSoftmax || transform == PostTransform::kSoftmaxZero))
    fail(ErrorKind::kUnsupported, "node '{}': LinearClassifier with one score for two classes and {} is not supported", n.name,
         n.get_string("post_transform"));
  for (int64_t row = 0; row < x.count; ++row) {
    std::vector<double> scores = linear(n, x, row, single ? 1 : count);
    auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    if (single) {
      best = scores[0] > 0;
      bool symmetric = transform == PostTransform::kLogistic;
      scores = {symmetric ? -scores[0] : 1 - scores[0], scores[0]};
    }
    apply_post_transform(transform, scores);
    label.set_int(row, classes[best]);
    if (!c.has_output(1)) continue;
    for (int64_t k = 0; k < count; ++k) c.output(1).set(row * count + k, scores[k]);
  }
}

void normalizer(Context& c) {
  const std::string& norm = c.node().get_string("norm");
  check_model(norm == "MAX" || norm == "L1" || norm == "L2", "unknown norm '{}'", norm);
  check_model(c.input().rank() == 1 || c.input().rank() == 2, "Normalizer takes [C] or [N, C], found {}", to_string(c.input().shape()));
  Rows x(c.input());
  for (int64_t row = 0; row < x.count; ++row) {
    double size = norm == "MAX" ? -INFINITY : 0;
    for (int64_t i = 0; i < x.columns; ++i) {
      double v = x.at(row, i);
      size = norm == "MAX" ? std::max(size, v) : norm == "L1" ? size + std::fabs(v) : size + v * v;
    }
    if (norm == "L2") size = std::sqrt(size);
    for (int64_t i = 0; i < x.columns; ++i) c.output().set(row * x.columns + i, size != 0 ? x.at(row, i) / size : x.at(row, i));
  }
}

void one_hot_encoder(Context& c) {
  const Ints& categories = c.node().get_ints("cats_int64s");
  const Tensor& x = c.input();
  auto count = static_cast<int64_t>(categories.size());
  for (int64_t i = 0; i < x.size(); ++i) {
    int64_t value = x.get_int(i);  // of a float: what is before the point
    bool found = false;
    for (int64_t k = 0; k < count; ++k) {
      c.output().set(i * count + k, categories[k] == value ? 1 : 0);
      found = found || categories[k] == value;
    }
    if (!found && c.node().get_int("zeros") == 0) fail(ErrorKind::kInput, "{} is none of the categories", value);
  }
}

void scaler(Context& c) {
  const Floats &offset = c.node().get_floats("offset"), &scale = c.node().get_floats("scale");
  const Tensor& x = c.input();
  int64_t columns = x.rank() ? x.shape().back() : 1;
  for (const Floats* list : {&offset, &scale})
    check_model(list->size() <= 1 || static_cast<int64_t>(list->size()) == columns, "{} offsets or scales for {} columns", list->size(), columns);
  auto entry = [](const Floats& list, int64_t i, double otherwise) { return list.empty() ? otherwise : double{list[list.size() == 1 ? 0 : i]}; };
  for (int64_t i = 0; i < x.size(); ++i) c.output().set(i, (x.get(i) - entry(offset, i % columns, 0)) * entry(scale, i % columns, 1));
}

double kernel_of(const Node& n, const Rows& x, int64_t row, const float* support) {
  const std::string& type = n.get_string("kernel_type");
  const Floats& p = n.get_floats("kernel_params");
  check_model(p.empty() || p.size() == 3, "kernel_params has {} entries, expected 3", p.size());
  double gamma = p.empty() ? 0 : p[0], constant = p.empty() ? 0 : p[1], degree = p.empty() ? 0 : p[2], sum = 0;
  for (int64_t i = 0; i < x.columns; ++i) {
    double a = x.at(row, i), b = support[i];
    sum += type == "RBF" ? (a - b) * (a - b) : a * b;
  }
  if (type == "LINEAR") return sum;
  if (type == "RBF") return std::exp(-gamma * sum);
  if (type == "POLY") return std::pow(gamma * sum + constant, degree);
  check_model(type == "SIGMOID", "unknown kernel_type '{}'", type);
  return std::tanh(gamma * sum + constant);
}

void svm_regressor(Context& c) {
  const Node& n = c.node();
  const Floats &coefficients = n.get_floats("coefficients"), &supports = n.get_floats("support_vectors"), &rho = n.get_floats("rho");
  Tensor& y = c.output();
  Rows x(c.input());
  PostTransform transform = post_transform_of(n.get_string("post_transform"));
  int64_t count = n.get_int("n_supports");
  bool linear_form = count == 0;  // the coefficients are then those of the features
  int64_t expected = linear_form ? x.columns : count;
  check_model(!rho.empty() && count >= 0 && static_cast<int64_t>(coefficients.size()) == expected &&
                  (linear_form || (x.columns > 0 && static_cast<int64_t>(supports.size()) / x.columns == count &&
                                   static_cast<int64_t>(supports.size()) % x.columns == 0)),
              "{} coefficients and {} numbers in {} support vectors for {} features", coefficients.size(), supports.size(), count, x.columns);
  for (int64_t row = 0; row < x.count; ++row) {
    double score = rho[0];
    if (linear_form) score += kernel_of(n, x, row, coefficients.data());
    for (int64_t k = 0; k < count; ++k) score += coefficients[k] * kernel_of(n, x, row, supports.data() + k * x.columns);
    if (n.get_int("one_class") == 1) score = score > 0 ? 1 : -1;
    apply_post_transform(transform, {&score, 1});
    y.set(row, score);
  }
}

}  // namespace

void register_ml(Registry& r) {
  constexpr std::string_view kDomain = "ai.onnx.ml";
  r.add("ArrayFeatureExtractor", array_feature_extractor, kDomain);
  r.add("Binarizer", binarizer, kDomain);
  r.add("FeatureVectorizer", feature_vectorizer, kDomain);
  r.add("Imputer", imputer, kDomain);
  r.add("LabelEncoder", label_encoder, kDomain);
  r.add("LinearClassifier", linear_classifier, kDomain);
  r.add("LinearRegressor", linear_regressor, kDomain);
  r.add("Normalizer", normalizer, kDomain);
  r.add("OneHotEncoder", one_hot_encoder, kDomain);
  r.add("SVMRegressor", svm_regressor, kDomain);
  r.add("Scaler", scaler, kDomain);
}

}  // namespace lathe::reference
