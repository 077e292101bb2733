// Ensembles of decision trees (ai.onnx.ml): TreeEnsemble, and the older TreeEnsembleRegressor and -Classifier, which say
// the same in other attributes. All three become a Forest, which is checked once and then walked row by row.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "kernels/reference/families.h"
#include "kernels/reference/post_transform.h"

namespace lathe::reference {
namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int64_t>;

enum class Mode { kLessEqual, kLess, kGreaterEqual, kGreater, kEqual, kNotEqual, kMember };  // numbered as in TreeEnsemble
enum class Aggregate { kAverage, kSum, kMinimum, kMaximum };

struct Place {  // of a node or of a leaf
  bool leaf = false;
  int64_t index = 0;
};

struct TreeNode {
  Mode mode = Mode::kLessEqual;
  int64_t feature = 0;
  double split = 0;
  bool missing_is_true = false;
  int64_t members = 0;  // which set, for kMember
  Place yes, no;
};

struct Vote {
  int64_t target;
  double weight;
};

struct Score {
  double value = 0;
  bool given = false;
};

class Forest {
 public:
  std::vector<TreeNode> nodes;
  std::vector<std::vector<Vote>> leaves;
  std::vector<std::set<double>> sets;
  std::vector<Place> roots;
  Aggregate aggregate = Aggregate::kSum;
  int64_t targets = 1;

  void check(int64_t features) const {
    auto check_place = [&](const Place& p) {
      check_model(p.index >= 0 && p.index < static_cast<int64_t>(p.leaf ? leaves.size() : nodes.size()), "a tree refers to {} {} of {}",
                  p.leaf ? "leaf" : "node", p.index, p.leaf ? leaves.size() : nodes.size());
    };
    for (const Place& root : roots) check_place(root);
    for (const TreeNode& n : nodes) {
      check_place(n.yes);
      check_place(n.no);
      check_model(n.feature >= 0 && n.feature < features, "a tree asks for feature {} of {}", n.feature, features);
      check_model(n.mode != Mode::kMember || n.members < static_cast<int64_t>(sets.size()), "membership_values holds only {} sets", sets.size());
    }
    for (const auto& leaf : leaves)
      for (const Vote& v : leaf) check_model(v.target >= 0 && v.target < targets, "a leaf votes for target {} of {}", v.target, targets);
  }

  // The scores of a row of features.
  std::vector<Score> operator()(const Tensor& x, int64_t begin) const {
    std::vector<Score> scores(static_cast<size_t>(targets));
    for (const Place& root : roots)
      for (const Vote& vote : leaves[static_cast<size_t>(leaf_of(root, x, begin))]) add(scores[static_cast<size_t>(vote.target)], vote.weight);
    if (aggregate == Aggregate::kAverage)
      for (Score& s : scores) s.value /= static_cast<double>(roots.size());
    return scores;
  }

 private:
  int64_t leaf_of(Place at, const Tensor& x, int64_t begin) const {
    for (size_t steps = 0; !at.leaf; ++steps) {
      check_model(steps <= nodes.size(), "a tree goes round in a circle");
      const TreeNode& n = nodes[static_cast<size_t>(at.index)];
      double value = x.get(begin + n.feature);
      at = answer(n, value) || (n.missing_is_true && std::isnan(value)) ? n.yes : n.no;
    }
    return at.index;
  }

  bool answer(const TreeNode& n, double value) const {
    switch (n.mode) {
      case Mode::kLessEqual: return value <= n.split;
      case Mode::kLess: return value < n.split;
      case Mode::kGreaterEqual: return value >= n.split;
      case Mode::kGreater: return value > n.split;
      case Mode::kEqual: return value == n.split;
      case Mode::kNotEqual: return value != n.split;
      case Mode::kMember: return sets[static_cast<size_t>(n.members)].contains(value);
    }
    return false;
  }

  void add(Score& score, double weight) const {
    if (!score.given) score.value = weight;
    else if (aggregate == Aggregate::kMinimum) score.value = std::min(score.value, weight);
    else if (aggregate == Aggregate::kMaximum) score.value = std::max(score.value, weight);
    else score.value += weight;
    score.given = true;
  }
};

Aggregate aggregate_of(const std::string& name) {
  static const std::map<std::string, Aggregate> names = {
      {"AVERAGE", Aggregate::kAverage}, {"SUM", Aggregate::kSum}, {"MIN", Aggregate::kMinimum}, {"MAX", Aggregate::kMaximum}};
  auto it = names.find(name);
  check_model(it != names.end(), "unknown aggregate_function '{}'", name);
  return it->second;
}

Mode mode_of(const std::string& name) {
  static const std::map<std::string, Mode> names = {{"BRANCH_LEQ", Mode::kLessEqual},     {"BRANCH_LT", Mode::kLess},
                                                    {"BRANCH_GTE", Mode::kGreaterEqual},  {"BRANCH_GT", Mode::kGreater},
                                                    {"BRANCH_EQ", Mode::kEqual},          {"BRANCH_NEQ", Mode::kNotEqual}};
  auto it = names.find(name);
  check_model(it != names.end(), "unknown mode '{}' of a tree's node", name);
  return it->second;
}

// The list NAME or the tensor NAME_as_tensor, whichever is given.
std::vector<double> numbers(const Node& n, const std::string& name) {
  std::vector<double> values;
  if (n.has(name + "_as_tensor")) {
    const Tensor& t = n.get_tensor(name + "_as_tensor");
    for (int64_t i = 0; i < t.size(); ++i) values.push_back(t.get(i));
  } else {
    for (float v : n.get_floats(name)) values.push_back(v);
  }
  return values;
}

void check_length(const char* name, size_t size, size_t expected) {
  check_model(size == expected, "{} has {} entries, expected {}", name, size, expected);
}

// `votes`: "target" or "class", how the attributes of the leaves begin.
Forest read_old_form(const Node& n, const std::string& votes, int64_t targets) {
  Forest forest;
  forest.targets = targets;
  const Ints &trees = n.get_ints("nodes_treeids"), &ids = n.get_ints("nodes_nodeids"), &features = n.get_ints("nodes_featureids"),
             &yes = n.get_ints("nodes_truenodeids"), &no = n.get_ints("nodes_falsenodeids"), &missing = n.get_ints("nodes_missing_value_tracks_true");
  const std::vector<std::string>& modes = n.get_string_list("nodes_modes");
  std::vector<double> splits = numbers(n, "nodes_values");
  size_t count = ids.size();
  check_length("nodes_treeids", trees.size(), count);
  check_length("nodes_featureids", features.size(), count);
  check_length("nodes_truenodeids", yes.size(), count);
  check_length("nodes_falsenodeids", no.size(), count);
  check_length("nodes_modes", modes.size(), count);
  check_length("nodes_values", splits.size(), count);
  if (!missing.empty()) check_length("nodes_missing_value_tracks_true", missing.size(), count);

  std::map<std::pair<int64_t, int64_t>, Place> places;  // by tree and node
  int64_t inner = 0, leaves = 0;
  for (size_t i = 0; i < count; ++i) {
    bool leaf = modes[i] == "LEAF";
    bool added = places.emplace(std::pair(trees[i], ids[i]), Place{leaf, leaf ? leaves++ : inner++}).second;
    check_model(added, "node {} of tree {} is there twice", ids[i], trees[i]);
  }
  auto place = [&](int64_t tree, int64_t id) {
    auto it = places.find({tree, id});
    check_model(it != places.end(), "node {} of tree {} is not there", id, tree);
    return it->second;
  };
  std::set<int64_t> seen;
  for (size_t i = 0; i < count; ++i) {
    if (seen.insert(trees[i]).second) forest.roots.push_back(place(trees[i], ids[i]));  // a tree begins with its root
    if (modes[i] == "LEAF") continue;
    forest.nodes.push_back({mode_of(modes[i]), features[i], splits[i], !missing.empty() && missing[i] != 0, 0, place(trees[i], yes[i]), place(trees[i], no[i])});
  }
  forest.leaves.resize(static_cast<size_t>(leaves));
  const Ints &voters = n.get_ints(votes + "_nodeids"), &voter_trees = n.get_ints(votes + "_treeids"), &for_whom = n.get_ints(votes + "_ids");
  std::vector<double> weights = numbers(n, votes + "_weights");
  check_length("the leaves' list of trees", voter_trees.size(), voters.size());
  check_length("the leaves' list of targets", for_whom.size(), voters.size());
  check_length("the leaves' list of weights", weights.size(), voters.size());
  for (size_t i = 0; i < voters.size(); ++i) {
    Place p = place(voter_trees[i], voters[i]);
    check_model(p.leaf, "node {} of tree {} votes and is no leaf", voters[i], voter_trees[i]);
    forest.leaves[static_cast<size_t>(p.index)].push_back({for_whom[i], weights[i]});
  }
  return forest;
}

Forest read_new_form(const Node& n) {
  Forest forest;
  forest.targets = n.get_int("n_targets");
  int64_t aggregate = n.get_int("aggregate_function");
  check_model(aggregate >= 0 && aggregate <= 3, "unknown aggregate_function {}", aggregate);
  forest.aggregate = static_cast<Aggregate>(aggregate);
  const Tensor &splits = n.get_tensor("nodes_splits"), &modes = n.get_tensor("nodes_modes"), &weights = n.get_tensor("leaf_weights");
  const Ints &features = n.get_ints("nodes_featureids"), &yes = n.get_ints("nodes_truenodeids"), &no = n.get_ints("nodes_falsenodeids"),
             &yes_leaf = n.get_ints("nodes_trueleafs"), &no_leaf = n.get_ints("nodes_falseleafs"),
             &missing = n.get_ints("nodes_missing_value_tracks_true"), &voted = n.get_ints("leaf_targetids");
  size_t count = features.size();
  check_length("nodes_splits", static_cast<size_t>(splits.size()), count);
  check_length("nodes_modes", static_cast<size_t>(modes.size()), count);
  check_length("nodes_truenodeids", yes.size(), count);
  check_length("nodes_falsenodeids", no.size(), count);
  check_length("nodes_trueleafs", yes_leaf.size(), count);
  check_length("nodes_falseleafs", no_leaf.size(), count);
  check_length("leaf_weights", static_cast<size_t>(weights.size()), voted.size());
  if (!missing.empty()) check_length("nodes_missing_value_tracks_true", missing.size(), count);
  int64_t members = 0;
  for (size_t i = 0; i < count; ++i) {
    int64_t mode = modes.get_int(static_cast<int64_t>(i));
    check_model(mode >= 0 && mode <= 6, "unknown mode {} of a tree's node", mode);
    forest.nodes.push_back({static_cast<Mode>(mode), features[i], splits.get(static_cast<int64_t>(i)), !missing.empty() && missing[i] != 0,
                            mode == 6 ? members++ : 0, {yes_leaf[i] != 0, yes[i]}, {no_leaf[i] != 0, no[i]}});
  }
  for (size_t i = 0; i < voted.size(); ++i) forest.leaves.push_back({{voted[i], weights.get(static_cast<int64_t>(i))}});
  if (n.has("membership_values")) {  // one set after the other, NaN in between
    const Tensor& values = n.get_tensor("membership_values");
    forest.sets.emplace_back();
    for (int64_t i = 0; i < values.size(); ++i)
      std::isnan(values.get(i)) ? (void)forest.sets.emplace_back() : (void)forest.sets.back().insert(values.get(i));
  }
  // A tree that is one leaf is written as a node both of whose sides are that leaf.
  for (int64_t root : n.get_ints("tree_roots")) forest.roots.push_back({false, root});
  return forest;
}

int64_t rows_of(const Tensor& x) { return x.rank() == 2 ? x.shape()[0] : 1; }

// Scores of each row, base values added and transformed, into y [N, targets].
void score_rows(Context& c, const Forest& forest, const std::vector<double>& base, PostTransform transform) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t features = x.shape().back();
  forest.check(features);
  check_model(base.empty() || static_cast<int64_t>(base.size()) == forest.targets, "{} base values for {} targets", base.size(), forest.targets);
  for (int64_t row = 0; row < rows_of(x); ++row) {
    std::vector<double> values;
    for (const Score& s : forest(x, row * features)) values.push_back(s.value + (base.empty() ? 0 : base[values.size()]));
    apply_post_transform(transform, values);
    for (int64_t k = 0; k < forest.targets; ++k) y.set(row * forest.targets + k, values[static_cast<size_t>(k)]);
  }
}

void tree_ensemble(Context& c) {
  (void)c.output();  // checks rank and attributes
  int64_t transform = c.node().get_int("post_transform");
  check_model(transform >= 0 && transform <= 4, "unknown post_transform {}", transform);
  score_rows(c, read_new_form(c.node()), {}, static_cast<PostTransform>(transform));
}

void tree_regressor(Context& c) {
  (void)c.output();
  const Node& n = c.node();
  Forest forest = read_old_form(n, "target", n.get_int("n_targets"));
  forest.aggregate = aggregate_of(n.get_string("aggregate_function"));
  score_rows(c, forest, numbers(n, "base_values"), post_transform_of(n.get_string("post_transform")));
}

void tree_classifier(Context& c) {
  const Node& n = c.node();
  const Tensor& x = c.input();
  Tensor& label = c.output(0);
  const Ints& labels = n.get_ints("classlabels_int64s");
  auto classes = static_cast<int64_t>(labels.size());
  Forest forest = read_old_form(n, "class", classes);
  int64_t features = x.shape().back();
  forest.check(features);
  const Ints& voted = n.get_ints("class_ids");
  std::vector<double> base = numbers(n, "base_values");
  // The standard does not say what the other class scores then, and ONNX Runtime has a rule for each transform.
  if (classes == 2 && std::set<int64_t>(voted.begin(), voted.end()).size() == 1)
    fail(ErrorKind::kUnsupported, "node '{}': TreeEnsembleClassifier with two classes of which the leaves vote for only one is not supported",
         n.name);
  check_model(base.empty() || static_cast<int64_t>(base.size()) == classes, "{} base values for {} classes", base.size(), classes);
  PostTransform transform = post_transform_of(n.get_string("post_transform"));
  for (int64_t row = 0; row < rows_of(x); ++row) {
    std::vector<double> values;
    for (const Score& s : forest(x, row * features)) values.push_back(s.value);
    for (size_t k = 0; k < base.size(); ++k) values[k] += base[k];
    auto best = std::max_element(values.begin(), values.end()) - values.begin();
    apply_post_transform(transform, values);
    label.set_int(row, labels[static_cast<size_t>(best)]);
    if (!c.has_output(1)) continue;
    for (int64_t k = 0; k < classes; ++k) c.output(1).set(row * classes + k, values[static_cast<size_t>(k)]);
  }
}

}  // namespace

void register_tree(Registry& r) {
  constexpr std::string_view kDomain = "ai.onnx.ml";
  r.add("TreeEnsemble", tree_ensemble, kDomain);
  r.add("TreeEnsembleClassifier", tree_classifier, kDomain);
  r.add("TreeEnsembleRegressor", tree_regressor, kDomain);
}

}  // namespace lathe::reference
