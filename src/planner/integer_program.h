// Integer programs on Cbc, whose library is loaded when the first one is solved: linked, it and its BLAS would be mapped by every
// `lathe run`. Cbc is EPL-2.0. It solves in a process of its own: Cbc looks at its limit of time between steps that may take many times
// as long (Cbc 2.10: 6 s where 1 s was asked for), prints, and has no way to be stopped; a process can be ended when the time is up.
//
//   IntegerProgram p;
//   int x = p.add_binary(-3), y = p.add_binary(-2);       // minimize −3x − 2y
//   p.add_row(-kNoLimit, 1, {{x, 1}, {y, 1}});             // x + y ≤ 1
//   ProgramSolution s = solve(p, {.seconds = 10});
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lathe {

constexpr double kNoLimit = 1e30;

struct IntegerProgram {
  std::vector<double> low, high, cost;   // by variable
  std::vector<char> integer;
  std::vector<std::vector<std::pair<int, double>>> columns;  // by variable: (row, factor)
  std::vector<double> row_low, row_high;

  int add_variable(double lowest, double highest, double price, bool is_integer);
  int add_binary(double price) { return add_variable(0, 1, price, true); }
  // lowest ≤ Σ factor · variable ≤ highest. Variables may come several times.
  void add_row(double lowest, double highest, const std::vector<std::pair<int, double>>& terms);
  size_t variables() const { return cost.size(); }
  size_t rows() const { return row_low.size(); }
};

struct ProgramOptions {
  double seconds = 60;                    // of the clock
  double relative_gap = 1e-9;             // that is close enough
  double absolute_gap = 0;                // likewise: less than the least difference between two costs
  std::vector<double> start = {};         // a solution to begin with, by variable
  bool relaxed = false;                   // integers may be fractions: a bound
  std::function<void(double best, double bound)> progress = nullptr;  // best: kNoLimit while there is none
};

struct ProgramSolution {
  bool found = false, optimal = false, impossible = false;
  std::vector<double> x;
  double cost = kNoLimit;
  double bound = -kNoLimit;               // no solution costs less
};

// Throws kUnsupported when the library cannot be loaded.
ProgramSolution solve(const IntegerProgram& program, const ProgramOptions& options = {});

}  // namespace lathe
