// Multi-objective search over discrete choices, for problems where one evaluation is dear (a candidate network is made, run over
// the data and timed): it knows nothing of networks, and runs as well on a recorded table.
//
//   SearchProblem problem{.dimensions = {{"bf16", 2}, {"threads", 3}}, .evaluate = measure};
//   std::vector<Evaluated> all = search(problem, {.trials = 40, .seed = 1});
//   double good = hypervolume(objectives_of(all), reference);
//
// At first single steps from the point of all zeros, or what is known of them already; from then on a linear model of every
// objective (a coefficient for each choice of each dimension and for pairs that are said to act together, ridge regression, in the objective or its logarithm, whichever
// leaves out points better). An evolutionary search (NSGA-II, Deb et al. 2002: sorting by domination, crowding) runs on a sample of
// the model (Thompson 1933), and of what it finds the point that would add most hypervolume is evaluated (as in Zhang et al. 2010
// "Expensive multiobjective optimization by MOEA/D with Gaussian process model"; here the model is linear since layers add up).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lathe {

struct Dimension {
  std::string name;
  int choices = 2;  // choice 0: as it was
};
using Point = std::vector<int>;          // a choice for each dimension
using Objectives = std::vector<double>;  // each is to become small

struct Evaluated {
  Point point;
  Objectives objectives;  // empty: it could not be measured
  bool feasible = true;   // keeps to what the user demands
};

struct SearchProblem {
  std::vector<Dimension> dimensions;
  size_t objectives = 2;
  // Nothing: the search ends (no time, interrupted).
  std::function<std::optional<Evaluated>(const Point&)> evaluate;
  // Brings a point that makes no sense (two choices that conflict, a choice without what it refines) to one that does, without
  // drawing anything at random. Every point that is evaluated has gone through it.
  std::function<Point(Point)> repair = nullptr;
  // Cheap and noisy stand-ins for evaluate(), cheapest first: points that look worst are dropped after each.
  std::vector<std::function<std::optional<Objectives>(const Point&)>> proxies = {};
  std::vector<Evaluated> known = {};  // they cost no trials
  // Estimates of what the choice `choice` of `dimension` alone adds to the objectives; they steer the model until it has seen enough.
  struct Effect {
    size_t dimension;
    int choice;
    Objectives change;
  };
  std::vector<Effect> effects = {};
  // Dimensions whose choices may do together what neither does alone: layers that follow each other, with a change of type between.
  std::vector<std::pair<size_t, size_t>> pairs = {};
  // Worst values that count: hypervolume is measured up to here. Empty: the worst of what was seen.
  Objectives reference = {};
};

struct SearchOptions {
  int trials = 40;  // calls of evaluate(), at most
  uint64_t seed = 1;
};

// In the order of evaluation, `known` not included. Ends before `trials` when there is no point left.
std::vector<Evaluated> search(const SearchProblem& problem, const SearchOptions& options);
// Points drawn evenly at random (and repaired), none twice: what a search must beat.
std::vector<Evaluated> random_search(const SearchProblem& problem, const SearchOptions& options);

// a is nowhere worse and somewhere better.
bool dominates(const Objectives& a, const Objectives& b);
// Rank 0: dominated by nothing; rank 1: by rank 0 only; …
std::vector<int> domination_ranks(const std::vector<Objectives>& points);
// Volume between the points and the reference, each axis in its own unit. Exact, by slices; for few objectives and points.
double hypervolume(std::vector<Objectives> points, const Objectives& reference);
std::vector<Objectives> objectives_of(const std::vector<Evaluated>& evaluated);

}  // namespace lathe
