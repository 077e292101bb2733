#include <Cbc_C_Interface.h>
#include <dlfcn.h>

#include <algorithm>
#include <memory>

#include "quantize/sensitivity.h"

namespace lathe {
namespace {

#define LATHE_CBC_FUNCTIONS(X) \
  X(newModel) X(deleteModel) X(setLogLevel) X(setParameter) X(loadProblem) X(setInteger) X(solve) X(getColSolution) X(isProvenInfeasible) X(bestSolution)

// Loaded when it is needed: linked, it and its BLAS would be mapped by every `lathe run`.
struct Cbc {
#define LATHE_CBC_MEMBER(name) decltype(&Cbc_##name) name = nullptr;  // NOLINT(bugprone-macro-parentheses)
  LATHE_CBC_FUNCTIONS(LATHE_CBC_MEMBER)
#undef LATHE_CBC_MEMBER

  Cbc() {
    void* library = nullptr;
    for (const char* file : {"libCbcSolver.so.3", "libCbcSolver.so"})
      if (!library) library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(ErrorKind::kUnsupported, "the integer program needs the solver Cbc (Debian's coinor-libcbc3.1), which cannot be loaded: {}", ::dlerror());
    auto find = [&](const char* function) {
      void* symbol = ::dlsym(library, function);
      if (!symbol) fail(ErrorKind::kUnsupported, "this version of Cbc has no {}", function);
      return symbol;
    };
#define LATHE_CBC_FIND(name) name = reinterpret_cast<decltype(name)>(find("Cbc_" #name));
    LATHE_CBC_FUNCTIONS(LATHE_CBC_FIND)
#undef LATHE_CBC_FIND
  }
};

const Cbc& cbc() {
  static const Cbc functions;
  return functions;
}

}  // namespace

Allocation allocate(const std::vector<std::vector<LayerOption>>& layers, double most_seconds, int64_t most_bytes) {
  Allocation result;
  if (layers.empty()) return result;
  // x[l, o] ∈ {0, 1}; Σₒ x[l, o] = 1. Each sum in units of its limit, and errors of the largest: the solver's tolerances are absolute.
  std::vector<CoinBigIndex> starts;
  std::vector<int> rows;
  std::vector<double> values, costs, low, high;
  const auto count = static_cast<int>(layers.size());
  const int time_row = most_seconds > 0 ? count : -1, size_row = most_bytes > 0 ? count + (time_row >= 0) : -1;
  double largest = 0;
  for (const auto& options : layers)
    for (const LayerOption& o : options) largest = std::max(largest, o.error);
  for (int l = 0; l < count; ++l) {
    require(!layers[static_cast<size_t>(l)].empty(), "layer {} has no option", l);
    for (const LayerOption& o : layers[static_cast<size_t>(l)]) {
      starts.push_back(static_cast<CoinBigIndex>(rows.size()));
      rows.push_back(l);
      values.push_back(1);
      if (time_row >= 0) rows.push_back(time_row), values.push_back(o.seconds / most_seconds);
      if (size_row >= 0) rows.push_back(size_row), values.push_back(static_cast<double>(o.bytes) / static_cast<double>(most_bytes));
      costs.push_back(largest > 0 ? o.error / largest : 0);
      low.push_back(0);
      high.push_back(1);
    }
  }
  starts.push_back(static_cast<CoinBigIndex>(rows.size()));
  const int limits = (time_row >= 0) + (size_row >= 0);
  std::vector<double> row_low(static_cast<size_t>(count), 1), row_high(static_cast<size_t>(count), 1);
  for (int i = 0; i < limits; ++i) row_low.push_back(-1e30), row_high.push_back(1);
  const Cbc& solver = cbc();
  std::unique_ptr<Cbc_Model, decltype(solver.deleteModel)> model(solver.newModel(), solver.deleteModel);
  solver.setLogLevel(model.get(), 0);
  solver.setParameter(model.get(), "log", "0");
  solver.setParameter(model.get(), "seconds", "20");
  solver.setParameter(model.get(), "ratioGap", "1e-6");
  solver.loadProblem(model.get(), static_cast<int>(costs.size()), count + limits, starts.data(), rows.data(), values.data(), low.data(), high.data(), costs.data(),
                  row_low.data(), row_high.data());
  for (int i = 0; i < static_cast<int>(costs.size()); ++i) solver.setInteger(model.get(), i);
  solver.solve(model.get());
  const double* x = solver.getColSolution(model.get());
  if (solver.isProvenInfeasible(model.get()) || solver.bestSolution(model.get()) == nullptr || !x)
    fail(ErrorKind::kInput, "no choice of layers keeps to the limits: {} s, {} bytes", most_seconds, most_bytes);
  size_t at = 0;
  for (const auto& options : layers) {
    size_t best = 0;
    for (size_t o = 1; o < options.size(); ++o)
      if (x[at + o] > x[at + best]) best = o;
    result.choices.push_back(best);
    result.error += options[best].error;
    result.seconds += options[best].seconds;
    result.bytes += options[best].bytes;
    at += options.size();
  }
  return result;
}

}  // namespace lathe
