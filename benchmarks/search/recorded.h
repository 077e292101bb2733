// Recorded benchmarks for the search: every point of a space of candidates, each measured once, so that searches can be compared on
// the same ground in a moment. A table is made by `bench_search record`.
//
//   RecordedTable table = read_table("benchmarks/search/mobilenet_v1_025.tsv");
//   double ratio = compare(table, 40, 5).ratio;
#pragma once

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "optimize/search.h"

namespace lathe {

// Objectives: time over the original's (paired), mean error over the output's range, size over the original's.
struct RecordedTable {
  std::vector<std::string> about;  // lines of the head
  std::vector<Dimension> dimensions;
  std::map<Point, Objectives> points;
};

// "# …" lines about it, "dimensions NAME:CHOICES …", then "POINT<tab>TIME<tab>ERROR<tab>SIZE", a digit for each choice.
inline RecordedTable read_table(const std::string& path) {
  std::ifstream in(path);
  if (!in) fail(ErrorKind::kInput, "{}: cannot be opened", path);
  RecordedTable t;
  std::string line;
  while (std::getline(in, line)) {
    if (line.starts_with("# ")) {
      t.about.push_back(line.substr(2));
      continue;
    }
    std::istringstream words(line);
    std::string first;
    words >> first;
    if (first == "dimensions") {
      for (std::string d; words >> d;) t.dimensions.push_back({d.substr(0, d.rfind(':')), std::stoi(d.substr(d.rfind(':') + 1))});
      continue;
    }
    Point p;
    for (char c : first) p.push_back(c - '0');
    Objectives o(3);
    if (p.size() != t.dimensions.size() || !(words >> o[0] >> o[1] >> o[2])) fail(ErrorKind::kInput, "{}: a broken line: {}", path, line);
    t.points[p] = o;
  }
  return t;
}

inline SearchProblem problem_of(const RecordedTable& table) {
  SearchProblem p;
  p.dimensions = table.dimensions;
  p.objectives = 3;
  // Blocks that follow each other: "bf16.3" and "bf16.4".
  auto stem = [&](size_t d) { return p.dimensions[d].name.substr(0, p.dimensions[d].name.find('.') + 1); };
  for (size_t d = 0; d + 1 < p.dimensions.size(); ++d)
    if (!stem(d).empty() && stem(d) == stem(d + 1)) p.pairs.emplace_back(d, d + 1);
  p.evaluate = [&table](const Point& x) -> std::optional<Evaluated> {
    auto it = table.points.find(x);
    return Evaluated{x, it == table.points.end() ? Objectives{} : it->second, true};
  };
  return p;
}

struct Comparison {
  double guided = 0, random = 0, all = 0;  // hypervolumes: means over the seeds, and of the whole table
  double ratio = 0;                        // guided / random
  double worst = 0;                        // of the seeds
};

// The volume is measured from the worst of the table's values on each axis.
inline Comparison compare(const RecordedTable& table, int trials, int seeds, size_t axes = 3) {
  Objectives reference(axes, 0);
  std::vector<Objectives> everything;
  auto cut = [axes](std::vector<Objectives> all) {
    for (Objectives& o : all) o.resize(axes);
    return all;
  };
  for (const auto& [point, objectives] : table.points) {
    everything.push_back(objectives);
    for (size_t m = 0; m < axes; ++m) reference[m] = std::max(reference[m], objectives[m]);
  }
  Comparison c;
  c.all = hypervolume(cut(everything), reference);
  const SearchProblem problem = problem_of(table);
  std::vector<double> guided;
  for (int seed = 1; seed <= seeds; ++seed) {
    SearchOptions options{trials, static_cast<uint64_t>(seed)};
    guided.push_back(hypervolume(cut(objectives_of(search(problem, options))), reference));
    c.guided += guided.back() / seeds;
    c.random += hypervolume(cut(objectives_of(random_search(problem, options))), reference) / seeds;
  }
  c.ratio = c.guided / c.random;
  c.worst = *std::min_element(guided.begin(), guided.end()) / c.random;
  return c;
}

}  // namespace lathe
