// The equation of Einsum, parsed: which label each axis of each operand and of the output carries.
#pragma once

#include <cctype>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe::ops {

struct EinsumPlan {
  std::vector<std::vector<int>> inputs;  // a label for each axis
  std::vector<int> output;
  std::vector<int> labels;               // all of them: those of the output first
};

// Letters are their own labels; axes under an ellipsis are numbered from the right, beyond all letters, so
// that they broadcast as numpy's do. Throws kModel when the equation and the ranks do not agree.
inline EinsumPlan parse_einsum(const std::string& equation, const std::vector<size_t>& ranks) {
  constexpr int kEllipsis = 256;
  std::string text;
  for (char ch : equation)
    if (!std::isspace(static_cast<unsigned char>(ch))) text += ch;
  size_t arrow = text.find("->");
  std::string left = text.substr(0, arrow);
  std::vector<std::string> terms(1);
  for (char ch : left) {
    if (ch == ',') {
      terms.emplace_back();
    } else {
      terms.back() += ch;
    }
  }
  check_model(terms.size() == ranks.size(), "equation '{}' has {} operands, found {}", equation, terms.size(),
              ranks.size());
  size_t widest = 0;  // axes under the widest ellipsis
  auto labels_of = [&](const std::string& term, long rank) {
    size_t dots = term.find("..."), letters = term.size() - (dots == std::string::npos ? 0 : 3);
    long covered = rank < 0 ? static_cast<long>(widest) : rank - static_cast<long>(letters);
    check_model(covered == 0 || (dots != std::string::npos && covered > 0),
                "term '{}' of equation '{}' does not fit a rank of {}", term, equation, rank);
    widest = std::max(widest, static_cast<size_t>(covered));
    std::vector<int> labels;
    for (size_t i = 0; i < term.size(); ++i) {
      if (i == dots) {
        for (long k = covered; k-- > 0;) labels.push_back(kEllipsis + static_cast<int>(k));
        i += 2;
        continue;
      }
      check_model(std::isalpha(static_cast<unsigned char>(term[i])), "equation '{}' holds '{}'", equation, term[i]);
      labels.push_back(static_cast<unsigned char>(term[i]));
    }
    return labels;
  };
  EinsumPlan plan;
  std::map<int, int> uses;
  for (size_t i = 0; i < terms.size(); ++i) {
    plan.inputs.push_back(labels_of(terms[i], static_cast<long>(ranks[i])));
    for (int label : plan.inputs.back()) ++uses[label];
  }
  if (arrow != std::string::npos) {
    std::string right = text.substr(arrow + 2);
    bool dots = right.find("...") != std::string::npos;
    plan.output = labels_of(right, dots ? -1 : static_cast<long>(right.size()));
  } else {  // the ellipsis, then the letters that occur once, in order
    for (size_t k = widest; k-- > 0;) plan.output.push_back(kEllipsis + static_cast<int>(k));
    for (auto [label, count] : uses)
      if (label < kEllipsis && count == 1) plan.output.push_back(label);
  }
  for (int label : plan.output) {
    check_model(uses.contains(label) && uses[label] > 0, "the output of equation '{}' has a label of no operand, or twice",
                equation);
    uses.erase(label);
    plan.labels.push_back(label);
  }
  for (auto [label, count] : uses) plan.labels.push_back(label);
  return plan;
}

// The size of each label; unknown sizes stay unknown.
inline std::map<int, int64_t> einsum_sizes(const EinsumPlan& plan, const std::vector<Shape>& shapes) {
  std::map<int, int64_t> sizes;
  for (size_t i = 0; i < shapes.size(); ++i)
    for (size_t d = 0; d < shapes[i].size(); ++d) {
      auto [it, added] = sizes.emplace(plan.inputs[i][d], shapes[i][d]);
      if (!added) it->second = broadcast({it->second}, {shapes[i][d]})[0];
    }
  return sizes;
}

}  // namespace lathe::ops
